// Package apart runs a test binary's tests in a mount namespace of their own, so that they can mount.
package apart

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const mark = "MYCELIUM_TEST_NAMESPACE"

// Run runs the tests, by way of a second process where this one is root's and not apart yet.
func Run(m *testing.M) int {
	if os.Getuid() != 0 || os.Getenv(mark) != "" {
		return m.Run()
	}
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Env = append(os.Environ(), mark+"=1")
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := again.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// Image makes a folder a mount of its own, as the image is one.
func Image(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	folder := t.TempDir()
	for _, mount := range [][2]string{{"", "/"}, {folder, folder}} {
		flags := uintptr(syscall.MS_BIND)
		if mount[0] == "" {
			flags = syscall.MS_REC | syscall.MS_PRIVATE
		}
		if err := syscall.Mount(mount[0], mount[1], "", flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = syscall.Unmount(folder, syscall.MNT_DETACH) })
	return folder
}
