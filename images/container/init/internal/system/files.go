package system

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"

	"mycelium.network/init/internal/config"
)

// NamingFiles are /etc/hostname, /etc/hosts and /etc/resolv.conf.
func NamingFiles(told *config.Config) []config.File {
	full := told.Hostname
	if told.Domain != "" {
		full += "." + told.Domain + " " + told.Hostname
	}
	var hosts, resolver bytes.Buffer
	hosts.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, nic := range told.NICs {
		fmt.Fprintf(&hosts, "%s\t%s\n", nic.Address, full)
	}
	if told.Domain != "" {
		fmt.Fprintf(&resolver, "search %s\n", told.Domain)
	}
	for _, server := range told.Nameservers {
		fmt.Fprintf(&resolver, "nameserver %s\n", server)
	}
	return []config.File{
		{Path: "/etc/hostname", Content: []byte(told.Hostname + "\n"), Mode: 0o644},
		{Path: "/etc/hosts", Content: hosts.Bytes(), Mode: 0o644},
		{Path: "/etc/resolv.conf", Content: resolver.Bytes(), Mode: 0o644},
	}
}

// SetNames sets the kernel's host and domain name.
func SetNames(told *config.Config) error {
	if err := syscall.Sethostname([]byte(told.Hostname)); err != nil {
		return fmt.Errorf("the host name %q: %w", strings.ToValidUTF8(told.Hostname, "?"), err)
	}
	if told.Domain == "" {
		return nil
	}
	return syscall.Setdomainname([]byte(told.Domain))
}
