package system

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
)

// onlyWith names modules that are loaded where such a virtio device is.
var onlyWith = map[string]string{"virtio-rng.ko": "0x0004"}

// LoadModules loads the modules that the recipe put into a folder, in the order it wrote down.
func LoadModules(folder string) error {
	order, err := os.Open(filepath.Join(folder, "order"))
	if err != nil {
		return err
	}
	defer order.Close()
	for lines := bufio.NewScanner(order); lines.Scan(); {
		name := lines.Text()
		if device, conditional := onlyWith[name]; conditional && !hasVirtio(device) {
			continue
		}
		if err := loadModule(filepath.Join(folder, name)); err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	none := [1]byte{}
	_, _, errno := syscall.Syscall(sysFinitModule, file.Fd(), uintptr(unsafe.Pointer(&none)), 0)
	if errno != 0 && !errors.Is(errno, syscall.EEXIST) {
		return errno
	}
	return nil
}

func hasVirtio(device string) bool {
	found, _ := filepath.Glob("/sys/bus/virtio/devices/*/device")
	for _, path := range found {
		if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == device {
			return true
		}
	}
	return false
}
