package system

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// OnThread runs f in a thread with a root directory and namespaces of its own, which enter sets. The thread ends with
// it: what enter did is nowhere else in this process. f must not leave work to other goroutines that needs the view.
func OnThread(enter, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: that is what ends the thread
		result <- guarded(func() error {
			if err := syscall.Unshare(syscall.CLONE_FS); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			if err := enter(); err != nil {
				return err
			}
			return f()
		})
	}()
	return <-result
}

// InRoot runs f with a folder as the root directory: every path and link that f follows stays below it.
func InRoot(folder string, f func() error) error {
	return OnThread(func() error {
		if err := syscall.Chroot(folder); err != nil {
			return &os.PathError{Op: "chroot", Path: folder, Err: err}
		}
		return os.Chdir("/")
	}, f)
}

func guarded(f func() error) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("a mistake in the guest's init: %v", fault)
		}
	}()
	return f()
}
