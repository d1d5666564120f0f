package serve

import (
	"os"
	"syscall"
	"time"
	"unsafe"

	"mycelium.network/init/internal/channel"
	"mycelium.network/init/internal/program"
	"mycelium.network/init/internal/system"
)

// What the standard library has no names for.
const (
	ioctlUnlock = 0x40045431 // TIOCSPTLCK
	ioctlPeer   = 0x5441     // TIOCGPTPEER
	ioctlSize   = 0x5414     // TIOCSWINSZ
)

func (m *Machine) runOnTerminal(stream *channel.Stream, spec program.Spec, asked *request) (int, error) {
	var terminal, peer *os.File
	err := m.Runner.View(func() (err error) {
		terminal, peer, err = openTerminal()
		return err
	})
	if err != nil {
		return 0, err
	}
	defer terminal.Close()
	_ = resize(terminal, asked.Rows, asked.Columns)
	child, err := m.Runner.Exec(spec, [3]*os.File{peer, peer, peer}, true)
	peer.Close()
	if err != nil {
		return 0, err
	}
	go feedTerminal(terminal, stream)
	written := make(chan struct{})
	go func() {
		defer close(written)
		pump(terminal, stream.Write)
	}()
	code := await(child, stream, terminal)
	_ = terminal.SetReadDeadline(time.Now().Add(terminalRest))
	<-written
	return code, nil
}

// feedTerminal ends with the character that means it: a terminal has no other end of input.
func feedTerminal(terminal *os.File, stream *channel.Stream) {
	const endOfTransmission = 4
	buffer := make([]byte, 4096)
	for {
		n, err := stream.Read(buffer)
		if n > 0 {
			if _, failed := terminal.Write(buffer[:n]); failed != nil {
				return
			}
		}
		if err != nil {
			_, _ = terminal.Write([]byte{endOfTransmission})
			return
		}
	}
}

// openTerminal opens a pair in the image's own /dev (the caller's root is the image), so that its name exists there.
func openTerminal() (terminal, peer *os.File, err error) {
	terminal, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	unlocked := int32(0)
	err = control(terminal, ioctlUnlock, uintptr(unsafe.Pointer(&unlocked)))
	if err == nil {
		// Not File.Fd: that would make reads of the terminal block for good.
		raw, _ := terminal.SyscallConn()
		_ = raw.Control(func(fd uintptr) {
			opened, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, ioctlPeer, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC)
			if errno != 0 {
				err = os.NewSyscallError("ioctl", errno)
				return
			}
			peer = os.NewFile(opened, "terminal")
		})
	}
	if err != nil {
		terminal.Close()
		return nil, nil, err
	}
	return terminal, peer, nil
}

func resize(terminal *os.File, rows, columns uint16) error {
	size := [4]uint16{rows, columns}
	return control(terminal, ioctlSize, uintptr(unsafe.Pointer(&size)))
}

func control(terminal *os.File, request, argument uintptr) error {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return err
	}
	err2 := raw.Control(func(fd uintptr) { err = system.Ioctl(fd, request, argument) })
	if err == nil {
		err = err2
	}
	return err
}
