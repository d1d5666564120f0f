// Package system does what only the first process of a machine does: modules, mounts, network, power. Linux on
// x86-64 alone; each function is one concern and keeps no state.
package system

import (
	"os"
	"syscall"
	"unsafe"
)

// What the standard library has no names for.
const (
	sysSetns       = 308
	sysFinitModule = 313

	ioctlBlockBytes = 0x80081272 // BLKGETSIZE64
	ioctlResize     = 0x40086610 // EXT4_IOC_RESIZE_FS
	ioctlFreeze     = 0xc0045877 // FIFREEZE
	ioctlThaw       = 0xc0045878 // FITHAW
	ioctlAddEntropy = 0x40085203 // RNDADDENTROPY
)

// Ioctl calls ioctl with a pointer, or a number in its place.
func Ioctl(fd uintptr, request, argument uintptr) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, argument); errno != 0 {
		return errno
	}
	return nil
}

func ioctlValue(file *os.File, request uintptr, value *uint64) error {
	return Ioctl(file.Fd(), request, uintptr(unsafe.Pointer(value)))
}

// Setns moves the calling thread into a namespace, or decides its children's (CLONE_NEWPID).
func Setns(namespace *os.File, kind int) error {
	if _, _, errno := syscall.RawSyscall(sysSetns, namespace.Fd(), uintptr(kind), 0); errno != 0 {
		return os.NewSyscallError("setns", errno)
	}
	return nil
}
