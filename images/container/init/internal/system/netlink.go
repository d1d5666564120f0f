package system

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Requests to the kernel's routing socket (rtnetlink(7)); numbers are of the machine's own order, x86-64's.

// message is one request: header, its kind's fixed part, attributes.
type message struct{ bytes []byte }

func newMessage(kind, flags uint16, fixed []byte) *message {
	m := &message{make([]byte, syscall.NLMSG_HDRLEN)}
	binary.LittleEndian.PutUint16(m.bytes[4:], kind)
	binary.LittleEndian.PutUint16(m.bytes[6:], flags|syscall.NLM_F_REQUEST|syscall.NLM_F_ACK)
	m.bytes = append(m.bytes, fixed...)
	return m
}

func (m *message) add(kind uint16, value []byte) *message {
	head := make([]byte, 4)
	binary.LittleEndian.PutUint16(head, uint16(4+len(value)))
	binary.LittleEndian.PutUint16(head[2:], kind)
	m.bytes = append(append(m.bytes, head...), value...)
	for len(m.bytes)%4 != 0 {
		m.bytes = append(m.bytes, 0)
	}
	return m
}

func (m *message) add32(kind uint16, value uint32) *message {
	encoded := make([]byte, 4)
	binary.LittleEndian.PutUint32(encoded, value)
	return m.add(kind, encoded)
}

func (m *message) encode() []byte {
	binary.LittleEndian.PutUint32(m.bytes, uint32(len(m.bytes)))
	return m.bytes
}

func linkMessage(index int, mtu int) *message {
	fixed := make([]byte, syscall.SizeofIfInfomsg)
	binary.LittleEndian.PutUint32(fixed[4:], uint32(index))
	binary.LittleEndian.PutUint32(fixed[8:], syscall.IFF_UP)
	binary.LittleEndian.PutUint32(fixed[12:], syscall.IFF_UP)
	m := newMessage(syscall.RTM_NEWLINK, 0, fixed)
	if mtu > 0 {
		m.add32(syscall.IFLA_MTU, uint32(mtu))
	}
	return m
}

func addressMessage(index int, address []byte, prefix int) *message {
	const noDuplicateDetection = 0x02 // IFA_F_NODAD
	fixed := []byte{family(address), byte(prefix), noDuplicateDetection, 0, 0, 0, 0, 0}
	binary.LittleEndian.PutUint32(fixed[4:], uint32(index))
	m := newMessage(syscall.RTM_NEWADDR, syscall.NLM_F_CREATE|syscall.NLM_F_REPLACE, fixed)
	return m.add(syscall.IFA_LOCAL, address).add(syscall.IFA_ADDRESS, address)
}

// defaultRoute: the gateway may lie outside of the NIC's prefix (ONLINK).
func defaultRoute(index int, gateway []byte) *message {
	const onLink = 4 // RTNH_F_ONLINK
	fixed := []byte{
		family(gateway), 0, 0, 0,
		syscall.RT_TABLE_MAIN, syscall.RTPROT_BOOT, syscall.RT_SCOPE_UNIVERSE, syscall.RTN_UNICAST,
		onLink, 0, 0, 0,
	}
	m := newMessage(syscall.RTM_NEWROUTE, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL, fixed)
	return m.add(syscall.RTA_GATEWAY, gateway).add32(syscall.RTA_OIF, uint32(index))
}

func family(address []byte) byte {
	if len(address) == 4 {
		return syscall.AF_INET
	}
	return syscall.AF_INET6
}

// ask sends requests one by one and reads what the kernel says to each.
func ask(requests ...*message) error {
	socket, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer syscall.Close(socket)
	kernel := &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}
	for _, request := range requests {
		if err := syscall.Sendto(socket, request.encode(), 0, kernel); err != nil {
			return os.NewSyscallError("sendto", err)
		}
		if err := readAnswer(socket); err != nil {
			return err
		}
	}
	return nil
}

func readAnswer(socket int) error {
	buffer := make([]byte, 65536)
	n, _, err := syscall.Recvfrom(socket, buffer, 0)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	answers, err := syscall.ParseNetlinkMessage(buffer[:n])
	if err != nil {
		return err
	}
	for _, answer := range answers {
		if answer.Header.Type != syscall.NLMSG_ERROR || len(answer.Data) < 4 {
			continue
		}
		if code := int32(binary.LittleEndian.Uint32(answer.Data)); code != 0 {
			return fmt.Errorf("the kernel refuses it: %w", syscall.Errno(-code))
		}
		return nil
	}
	return errors.New("the kernel did not answer")
}
