package system

import (
	"fmt"
	"net"
	"os"
	"strings"

	"mycelium.network/init/internal/config"
)

// QuietNetwork lets NICs that are found from now on speak no IPv6 by themselves: what nobody asked for would have to
// be equal on both copies. The loopback has it; NICs with such an address get it.
func QuietNetwork() error {
	err := WriteSysctl("net/ipv6/conf/default/disable_ipv6", "1")
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// WriteSysctl sets one of the kernel's parameters.
func WriteSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)
}

// SetUpNetwork gives the NICs, and the loopback, what the configuration says.
func SetUpNetwork(nics []config.NIC) error {
	present, err := net.Interfaces()
	if err != nil {
		return err
	}
	byMAC := map[string]net.Interface{}
	for _, found := range present {
		if found.Flags&net.FlagLoopback != 0 {
			if err := ask(linkMessage(found.Index, 0)); err != nil {
				return err
			}
			continue
		}
		byMAC[found.HardwareAddr.String()] = found
	}
	for _, nic := range nics {
		found, there := byMAC[strings.ToLower(nic.MAC)]
		if !there {
			return fmt.Errorf("there is no NIC with the MAC %s", nic.MAC)
		}
		if err := setUpNIC(found, nic); err != nil {
			return fmt.Errorf("NIC %s: %w", nic.MAC, err)
		}
	}
	return nil
}

func setUpNIC(found net.Interface, nic config.NIC) error {
	address, err := parseAddress(nic.Address)
	if err != nil {
		return err
	}
	if len(address) == net.IPv6len {
		for name, value := range map[string]string{"accept_ra": "0", "disable_ipv6": "0"} {
			if err := WriteSysctl("net/ipv6/conf/"+found.Name+"/"+name, value); err != nil {
				return err
			}
		}
	}
	requests := []*message{linkMessage(found.Index, nic.MTU), addressMessage(found.Index, address, nic.Prefix)}
	if nic.Gateway != "" {
		gateway, err := parseAddress(nic.Gateway)
		if err != nil {
			return err
		}
		requests = append(requests, defaultRoute(found.Index, gateway))
	}
	return ask(requests...)
}

func parseAddress(text string) ([]byte, error) {
	address := net.ParseIP(text)
	if address == nil {
		return nil, fmt.Errorf("%q is no address", text)
	}
	if four := address.To4(); four != nil {
		return four, nil
	}
	return address, nil
}

// NIC is what a NIC has, the answer to `addresses`.
type NIC struct {
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"`
}

// NICs returns all of them with their addresses.
func NICs() ([]NIC, error) {
	present, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	nics := []NIC{}
	for _, found := range present {
		if found.Flags&net.FlagLoopback != 0 || len(found.HardwareAddr) == 0 {
			continue
		}
		nic := NIC{found.HardwareAddr.String(), []string{}}
		addresses, err := found.Addrs()
		if err != nil {
			return nil, err
		}
		for _, address := range addresses {
			text, _, _ := strings.Cut(address.String(), "/")
			nic.Addresses = append(nic.Addresses, text)
		}
		nics = append(nics, nic)
	}
	return nics, nil
}
