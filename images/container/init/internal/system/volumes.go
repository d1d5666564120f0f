package system

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"mycelium.network/init/internal/archive"
)

const (
	volumesFolder = "/volumes"
	// On a volume's root folder: "begun" while it is filled from the image, "done" for ever after.
	filledMark = "trusted.mycelium.filled"
)

// Disk is the device of a disk, counted from the root's 0.
func Disk(number int) string { return "/dev/vd" + string(rune('a'+number)) }

// mountVolume mounts a disk outside of the image, and from there at its place. An empty one is first given what the
// image has at that place, as Docker does.
func (p *place) mountVolume(image string, group *int) (folder string, err error) {
	folder = filepath.Join(volumesFolder, strconv.Itoa(p.volume.Disk))
	if err := MountExt4(Disk(p.volume.Disk), folder, p.volume.ReadOnly); err != nil {
		return "", err
	}
	if !p.volume.ReadOnly {
		if err := fillVolume(folder, image, p.path); err != nil {
			return folder, fmt.Errorf("it cannot be given the image's files: %w", err)
		}
		if err := giveToGroup(folder, group, false); err != nil {
			return folder, fmt.Errorf("it cannot be given to the group: %w", err)
		}
	}
	source, err := os.Open(folder)
	if err != nil {
		return folder, err
	}
	defer source.Close()
	return folder, InRoot(image, func() error {
		if p.at, err = MountPoint(p.path, true); err != nil {
			return err
		}
		return Bind(source, p.at)
	})
}

func fillVolume(folder, image, path string) error {
	mark := readMark(folder)
	if mark == "done" {
		return nil
	}
	if mark == "" {
		isEmpty, err := emptied(folder)
		if err != nil {
			return err
		}
		if !isEmpty {
			return setMark(folder, "done")
		}
		if err := setMark(folder, "begun"); err != nil {
			return err
		}
	}
	if err := copyTree(image, path, folder); err != nil {
		return err
	}
	syscall.Sync()
	return setMark(folder, "done")
}

// emptied tells whether there is nothing in a new file system. lost+found is removed from such a one: programs take
// it for somebody's data (e2fsck makes it again where it needs it).
func emptied(folder string) (bool, error) {
	file, err := os.Open(folder)
	if err != nil {
		return false, err
	}
	defer file.Close()
	names, err := file.Readdirnames(-1)
	if err != nil {
		return false, err
	}
	if len(names) == 1 && names[0] == "lost+found" {
		return true, ignoreNotEmpty(syscall.Rmdir(filepath.Join(folder, names[0])))
	}
	return len(names) == 0, nil
}

func ignoreNotEmpty(err error) error {
	if errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	return err
}

func readMark(folder string) string {
	value := make([]byte, 16)
	n, err := syscall.Getxattr(folder, filledMark, value)
	if err != nil {
		return ""
	}
	return string(value[:n])
}

func setMark(folder, mark string) error { return syscall.Setxattr(folder, filledMark, []byte(mark), 0) }

// copyTree copies what is in the image's folder, if it has one there; each side has its own root directory.
func copyTree(image, path, folder string) error {
	reader, writer := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := InRoot(image, func() error {
			if stat, err := os.Stat(path); err != nil || !stat.IsDir() {
				return errNothing
			}
			real, err := MountPoint(path, true)
			if err != nil {
				return err
			}
			return archive.PackContents(writer, real)
		})
		writer.CloseWithError(err)
		packed <- err
	}()
	err := InRoot(folder, func() error {
		_, err := archive.UnpackContents(reader, "/")
		return err
	})
	reader.CloseWithError(err) // the other side waits for nobody
	if failed := <-packed; errors.Is(failed, errNothing) {
		return nil
	} else if failed != nil {
		return failed
	}
	return err
}

var errNothing = errors.New("the image has no such folder")
