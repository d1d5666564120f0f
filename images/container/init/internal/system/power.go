package system

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Quiesce ends every process but this one and writes the file systems, so that they can be left.
func Quiesce(folders []string, readOnly func(folder string) error) {
	_ = syscall.Kill(-1, syscall.SIGKILL)
	syscall.Sync()
	for _, folder := range folders {
		// What is dying may hold a file open for a moment.
		for try := 0; try < 50; try++ {
			if readOnly(folder) == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	syscall.Sync()
}

// RemountReadOnly makes the file system itself read-only: the next mount finds it clean.
func RemountReadOnly(folder string) error {
	return syscall.Mount("", folder, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
}

// PowerOff does not return.
func PowerOff() {
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// AwaitPowerButton returns when it is pressed; false where the machine has none.
func AwaitPowerButton() bool {
	names, _ := filepath.Glob("/sys/class/input/event*/device/name")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || strings.TrimSpace(string(text)) != "Power Button" {
			continue
		}
		device, err := os.Open(filepath.Join("/dev/input", filepath.Base(filepath.Dir(filepath.Dir(name)))))
		if err != nil {
			continue
		}
		defer device.Close()
		return awaitKey(device)
	}
	return false
}

// awaitKey reads struct input_event: 16 bytes of time, type, code, value.
func awaitKey(device *os.File) bool {
	const keyEvent, keyPower, pressed = 1, 116, 1
	event := make([]byte, 24)
	for {
		if n, err := device.Read(event); err != nil || n != len(event) {
			return false
		}
		little := binary.LittleEndian
		if little.Uint16(event[16:]) == keyEvent && little.Uint16(event[18:]) == keyPower &&
			little.Uint32(event[20:]) == pressed {
			return true
		}
	}
}
