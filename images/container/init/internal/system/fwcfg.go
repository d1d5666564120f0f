package system

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// QEMU's fw_cfg device (docs/specs/fw_cfg of QEMU), by its ports: the kernel's module reads a file again from its
// beginning for every page, and a configuration with files in it has hundreds.
const (
	fwSelector  = 0x510
	fwData      = 0x511
	fwSignature = 0x00
	fwDirectory = 0x19
	fwEntry     = 64
	fwMostFiles = 4096
	fwMostBytes = 16 << 20
)

func outw(port, value uint16)

func insb(port uint16, into *byte, count int)

// ReadFirmwareFile returns a file that QEMU was given with -fw_cfg.
func ReadFirmwareFile(name string) ([]byte, error) {
	runtime.LockOSThread() // the permission is a thread's
	defer runtime.UnlockOSThread()
	if err := syscall.Ioperm(fwSelector, 2, 1); err != nil {
		return nil, os.NewSyscallError("ioperm", err)
	}
	defer func() { _ = syscall.Ioperm(fwSelector, 2, 0) }()
	outw(fwSelector, fwSignature)
	if !bytes.Equal(input(4), []byte("QEMU")) {
		return nil, errors.New("this machine has no fw_cfg device")
	}
	outw(fwSelector, fwDirectory)
	count := binary.BigEndian.Uint32(input(4))
	if count > fwMostFiles {
		return nil, fmt.Errorf("the fw_cfg device has %d files", count)
	}
	selector, size, err := findFirmwareFile(input(int(count)*fwEntry), name)
	if err != nil {
		return nil, err
	}
	outw(fwSelector, selector)
	return input(size), nil
}

// findFirmwareFile looks through the directory: size, selector, two bytes, and 56 of a name.
func findFirmwareFile(directory []byte, name string) (selector uint16, size int, err error) {
	for ; len(directory) >= fwEntry; directory = directory[fwEntry:] {
		found, _, _ := bytes.Cut(directory[8:fwEntry], []byte{0})
		if string(found) != name {
			continue
		}
		length := binary.BigEndian.Uint32(directory)
		if length > fwMostBytes {
			return 0, 0, fmt.Errorf("%s has %d bytes", name, length)
		}
		return binary.BigEndian.Uint16(directory[4:]), int(length), nil
	}
	return 0, 0, fmt.Errorf("QEMU was given no %s", name)
}

func input(count int) []byte {
	read := make([]byte, count)
	if count > 0 {
		insb(fwData, &read[0], count)
	}
	return read
}
