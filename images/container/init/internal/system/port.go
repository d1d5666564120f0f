package system

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Port is a virtio-serial port; see channel.Port for what it promises.
type Port struct {
	*os.File
	raw syscall.RawConn
	// The host's closing was reported: the next read waits until there is something again.
	reported bool
}

// OpenPort waits for the port of that name and opens it.
func OpenPort(name string, most time.Duration) (*Port, error) {
	for end, pause := time.Now().Add(most), time.Millisecond; ; pause *= 2 {
		if device := findPort(name); device != "" {
			return openPort(device)
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("this machine has no port %s", name)
		}
		if pause > 50*time.Millisecond {
			pause = 50 * time.Millisecond
		}
		time.Sleep(pause)
	}
}

func findPort(name string) string {
	found, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, path := range found {
		if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == name {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(path)))
		}
	}
	return ""
}

func openPort(device string) (*Port, error) {
	if err := awaitFile(device, time.Second); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(device, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &Port{File: file, raw: raw}, nil
}

// Read reads what is there. The driver answers with nothing while the host's side is closed, and wakes whoever waits
// at every change; Go's poller waits for changes (it is edge-triggered), so this neither spins nor misses one.
func (p *Port) Read(b []byte) (int, error) {
	var n int
	var failed error
	err := p.raw.Read(func(fd uintptr) bool {
		for {
			n, failed = syscall.Read(int(fd), b)
			if !errors.Is(failed, syscall.EINTR) {
				break
			}
		}
		switch {
		case errors.Is(failed, syscall.EAGAIN):
			return false
		case failed == nil && n == 0 && p.reported:
			return false
		}
		return true
	})
	if err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	p.reported = n == 0
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}
