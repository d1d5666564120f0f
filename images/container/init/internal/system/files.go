package system

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"mycelium.network/init/internal/config"
)

// FilesFolder is in memory; what is laid over the image's files is in it.
const FilesFolder = "/files"

// LayFiles mounts the files that the configuration makes, and those it carries, over the image's.
func LayFiles(told *config.Config, image string) error {
	files := append(NamingFiles(told), told.Files...)
	opened := make([]*os.File, len(files))
	for i, file := range files {
		source, err := writeFile(filepath.Join(FilesFolder, strconv.Itoa(i)), file)
		if err != nil {
			return err
		}
		defer source.Close()
		opened[i] = source
	}
	return InRoot(image, func() error {
		for i, file := range files {
			at, err := MountPoint(file.Path, false)
			if err != nil {
				return err
			}
			if err := Bind(opened[i], at); err != nil {
				return err
			}
		}
		return nil
	})
}

func writeFile(at string, file config.File) (*os.File, error) {
	if err := os.WriteFile(at, file.Content, 0o600); err != nil {
		return nil, err
	}
	if err := syscall.Chmod(at, file.Mode&0o7777); err != nil {
		return nil, err
	}
	return os.Open(at)
}

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
