package system

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"syscall"
)

type mount struct {
	kind, at, options string
	flags             uintptr
}

const quiet = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC

// ownMounts are this init's; imageMounts are what a container finds. The kernel's views are the same ones, mounted
// twice: the program's cannot reach this init's.
var (
	ownMounts = []mount{
		{"proc", "/proc", "", quiet},
		{"sysfs", "/sys", "", quiet},
		{"devtmpfs", "/dev", "mode=755", syscall.MS_NOSUID},
		{"tmpfs", "/files", "mode=755,size=16m", syscall.MS_NOSUID | syscall.MS_NODEV},
	}
	imageMounts = []mount{
		{"proc", "/proc", "", quiet},
		{"sysfs", "/sys", "", quiet},
		{"cgroup2", "/sys/fs/cgroup", "nsdelegate", quiet},
		{"devtmpfs", "/dev", "mode=755", syscall.MS_NOSUID},
		{"devpts", "/dev/pts", "mode=620,gid=5,ptmxmode=666", syscall.MS_NOSUID | syscall.MS_NOEXEC},
		{"tmpfs", "/dev/shm", "mode=1777", quiet},
		{"mqueue", "/dev/mqueue", "", quiet},
	}
	deviceLinks = map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	}
)

// MountOwn mounts what this init itself needs.
func MountOwn() error { return mountAll(ownMounts) }

// MountInImage makes what containers find beside their files; the caller's root is the image.
func MountInImage() error {
	if err := mountAll(imageMounts); err != nil {
		return err
	}
	for name, target := range deviceLinks {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if _, err := os.Lstat("/etc/mtab"); errors.Is(err, fs.ErrNotExist) {
		_ = os.Symlink("/proc/mounts", "/etc/mtab") // as Docker does
	}
	return nil
}

func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(m.kind, m.at, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("%s does not mount at %s: %w", m.kind, m.at, err)
		}
	}
	return nil
}

// MountPoint sees to it that there is a file, or a folder, at a path of the image that something can be mounted
// over, and returns where: links are followed, as far as nothing is there yet by hand.
func MountPoint(at string, isFolder bool) (string, error) {
	for links := 0; links < 40; links++ {
		stat, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return at, makeMountPoint(at, isFolder)
		case err != nil:
			return "", err
		case stat.Mode()&os.ModeSymlink == 0 && stat.IsDir() == isFolder:
			return at, nil
		case stat.Mode()&os.ModeSymlink == 0 && isFolder:
			return "", fmt.Errorf("the image has a file at %s, where a folder is wanted", at)
		case stat.Mode()&os.ModeSymlink == 0:
			return "", fmt.Errorf("the image has a folder at %s, where a file is wanted", at)
		}
		target, err := os.Readlink(at)
		if err != nil {
			return "", err
		}
		if !path.IsAbs(target) {
			target = path.Dir(at) + "/" + target // not cleaned: .. after a link is the link's
		}
		at = target
	}
	return "", fmt.Errorf("the image's links at %s lead nowhere", at)
}

func makeMountPoint(at string, isFolder bool) error {
	if isFolder {
		return os.MkdirAll(at, 0o755)
	}
	if err := os.MkdirAll(path.Dir(at), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return file.Close()
}

// Bind mounts something that was opened outside of the caller's root at a place within; it needs the caller's /proc.
func Bind(source *os.File, at string) error {
	from := "/proc/self/fd/" + strconv.Itoa(int(source.Fd()))
	if err := syscall.Mount(from, at, "", syscall.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "mount", Path: at, Err: err}
	}
	return nil
}
