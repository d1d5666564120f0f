package system

import (
	"encoding/binary"
	"os"
	"unsafe"
)

// AddEntropy gives the kernel's generator random bytes that the host drew. Without any it collects for a second, and
// every program that asks for random numbers waits for that.
func AddEntropy(seed []byte) error {
	if len(seed) == 0 {
		return nil
	}
	device, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	// struct rand_pool_info: bits, bytes, and the bytes themselves.
	pool := make([]byte, 8, 8+len(seed))
	binary.LittleEndian.PutUint32(pool, uint32(8*len(seed)))
	binary.LittleEndian.PutUint32(pool[4:], uint32(len(seed)))
	pool = append(pool, seed...)
	return os.NewSyscallError("ioctl", Ioctl(device.Fd(), ioctlAddEntropy, uintptr(unsafe.Pointer(&pool[0]))))
}
