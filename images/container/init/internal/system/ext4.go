package system

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// MountExt4 mounts a disk and grows its file system where the disk is larger. Nothing is written that nobody asked
// for: it would have to cross to the other copy.
func MountExt4(device, folder string, readOnly bool) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := awaitFile(device, 5*time.Second); err != nil {
		return err
	}
	flags := uintptr(syscall.MS_NOATIME)
	if readOnly {
		flags |= syscall.MS_RDONLY
	}
	if err := syscall.Mount(device, folder, "ext4", flags, "noinit_itable"); err != nil {
		return fmt.Errorf("%s does not mount: %w", device, err)
	}
	if readOnly {
		return nil
	}
	if err := grow(device, folder); err != nil {
		return fmt.Errorf("the file system of %s does not grow: %w", device, err)
	}
	return nil
}

func grow(device, folder string) error {
	disk, err := os.Open(device)
	if err != nil {
		return err
	}
	defer disk.Close()
	superblock := make([]byte, 1024)
	if _, err := disk.ReadAt(superblock, 1024); err != nil {
		return err
	}
	blocks, blockBytes, err := ext4Size(superblock)
	if err != nil {
		return err
	}
	var size uint64
	if err := ioctlValue(disk, ioctlBlockBytes, &size); err != nil {
		return err
	}
	wanted := size / blockBytes
	if wanted <= blocks {
		return nil
	}
	mounted, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer mounted.Close()
	return ioctlValue(mounted, ioctlResize, &wanted)
}

// ext4Size reads a superblock: how many blocks, of how many bytes.
func ext4Size(superblock []byte) (blocks, blockBytes uint64, err error) {
	const (
		countLow, logBlock, magic, incompatible, countHigh = 0x4, 0x18, 0x38, 0x60, 0x150
		has64Bit                                           = 0x80
	)
	little := binary.LittleEndian
	if little.Uint16(superblock[magic:]) != 0xef53 || little.Uint32(superblock[logBlock:]) > 6 {
		return 0, 0, errors.New("it is not ext4")
	}
	blocks = uint64(little.Uint32(superblock[countLow:]))
	if little.Uint32(superblock[incompatible:])&has64Bit != 0 {
		blocks |= uint64(little.Uint32(superblock[countHigh:])) << 32
	}
	return blocks, 1024 << little.Uint32(superblock[logBlock:]), nil
}

// awaitFile waits for what a driver makes; at boot only, hence by looking.
func awaitFile(path string, most time.Duration) error {
	for end, pause := time.Now().Add(most), time.Millisecond; ; pause *= 2 {
		_, err := os.Stat(path)
		if err == nil || time.Now().After(end) {
			return err
		}
		if pause > 50*time.Millisecond {
			pause = 50 * time.Millisecond
		}
		time.Sleep(pause)
	}
}

// Freeze lets nothing be written to the file systems at these places until Thaw; all or none.
func Freeze(folders []string) error {
	for i, folder := range folders {
		if err := freezeOne(folder, ioctlFreeze); err != nil {
			Thaw(folders[:i])
			return fmt.Errorf("%s does not freeze: %w", folder, err)
		}
	}
	return nil
}

// Thaw ends a Freeze.
func Thaw(folders []string) {
	for i := len(folders) - 1; i >= 0; i-- {
		_ = freezeOne(folders[i], ioctlThaw)
	}
}

func freezeOne(folder string, request uintptr) error {
	file, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer file.Close()
	return Ioctl(file.Fd(), request, 0)
}
