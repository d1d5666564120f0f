package system

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"mycelium.network/init/internal/config"
)

const (
	// FilesFolder is in memory; what is laid over the image's files is in it.
	FilesFolder = "/files"
	// Of the root disk, in the image's own view: what empty folders hold that are not in memory.
	emptiedFolder = "/.mycelium"
)

// place is a folder of the image over which something is mounted: a disk, or an empty folder.
type place struct {
	path   string
	volume *config.Volume
	empty  *config.EmptyDir
	at     string // where in the image, its links followed
}

// Furnish puts disks, empty folders and files over the image's, in the order of the length of their paths, files last.
// It returns where outside of the image those disks are mounted that are written to.
func Furnish(told *config.Config, image string) (written []string, err error) {
	places := placesOf(told)
	if err := InRoot(image, func() error { return os.RemoveAll(emptiedFolder) }); err != nil {
		return nil, err
	}
	for i := range places {
		p := &places[i]
		if p.volume != nil {
			folder, err := p.mountVolume(image, told.Process.Security.FSGroup)
			if folder != "" && !p.volume.ReadOnly {
				written = append(written, folder)
			}
			if err != nil {
				return written, fmt.Errorf("volume %s: %w", p.path, err)
			}
			continue
		}
		number := i
		mount := func() error { return p.mountEmpty(number, told.Process.Security.FSGroup) }
		if err := InRoot(image, mount); err != nil {
			return written, fmt.Errorf("empty folder %s: %w", p.path, err)
		}
	}
	if err := layFiles(told, places, image); err != nil {
		return written, err
	}
	return written, InRoot(image, func() error { return closeOff(places) })
}

func placesOf(told *config.Config) []place {
	var places []place
	for i := range told.Volumes {
		places = append(places, place{path: told.Volumes[i].Path, volume: &told.Volumes[i]})
	}
	for i := range told.EmptyDirs {
		places = append(places, place{path: told.EmptyDirs[i].Path, empty: &told.EmptyDirs[i]})
	}
	sort.SliceStable(places, func(i, j int) bool { return len(places[i].path) < len(places[j].path) })
	return places
}

// mountEmpty makes an empty folder, in memory or on the root disk; the caller's root is the image.
func (p *place) mountEmpty(number int, group *int) error {
	at, err := MountPoint(p.path, true)
	if err != nil {
		return err
	}
	p.at = at
	if p.empty.Medium == config.InMemory {
		options := "mode=0777"
		if p.empty.SizeLimit > 0 {
			options += ",size=" + strconv.FormatInt(p.empty.SizeLimit, 10)
		}
		if err := syscall.Mount("tmpfs", at, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, options); err != nil {
			return os.NewSyscallError("mount", err)
		}
	} else {
		folder := path.Join(emptiedFolder, strconv.Itoa(number))
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		if err := syscall.Mount(folder, at, "", syscall.MS_BIND, ""); err != nil {
			return os.NewSyscallError("mount", err)
		}
	}
	if err := syscall.Chmod(at, 0o777); err != nil {
		return err
	}
	return giveToGroup(at, group, false)
}

// closeOff makes those read-only that are to hold the files of the manifest and nothing else.
func closeOff(places []place) error {
	for _, p := range places {
		if p.empty == nil || !p.empty.ReadOnly {
			continue
		}
		const readOnly = syscall.MS_REMOUNT | syscall.MS_BIND | syscall.MS_RDONLY | syscall.MS_NOSUID | syscall.MS_NODEV
		if err := syscall.Mount("", p.at, "", readOnly, ""); err != nil {
			return fmt.Errorf("empty folder %s: %w", p.path, err)
		}
	}
	return nil
}

// giveToGroup lets the members of a group read what is below a place, and write it where it is not read-only; new
// files are the group's too. As Kubernetes does it, where the place itself is not the group's yet.
func giveToGroup(at string, group *int, isReadOnly bool) error {
	var stat syscall.Stat_t
	if group == nil {
		return nil
	}
	if err := syscall.Stat(at, &stat); err != nil {
		return err
	}
	if int(stat.Gid) == *group && stat.Mode&syscall.S_ISGID != 0 {
		return nil
	}
	return filepath.WalkDir(at, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return giveOneToGroup(name, *group, isReadOnly)
	})
}

func giveOneToGroup(name string, group int, isReadOnly bool) error {
	var stat syscall.Stat_t
	if err := syscall.Lstat(name, &stat); err != nil {
		return err
	}
	if err := os.Lchown(name, -1, group); err != nil {
		return err
	}
	kind, mode := stat.Mode&syscall.S_IFMT, stat.Mode&0o7777|0o440
	if kind == syscall.S_IFLNK {
		return nil
	}
	if !isReadOnly {
		mode |= 0o660
	}
	if kind == syscall.S_IFDIR {
		mode |= syscall.S_ISGID | 0o110
	}
	return syscall.Chmod(name, mode)
}

// layFiles puts files into the empty folders that they belong to, and mounts the others over the image's.
func layFiles(told *config.Config, places []place, image string) error {
	files := append(NamingFiles(told), told.Files...)
	opened := make([]*os.File, len(files))
	for i, file := range files {
		if folderOf(places, file.Path) != nil {
			continue
		}
		at := filepath.Join(FilesFolder, strconv.Itoa(i))
		if err := writeFile(at, file, told.Process.Security.FSGroup); err != nil {
			return err
		}
		source, err := os.Open(at)
		if err != nil {
			return err
		}
		defer source.Close()
		opened[i] = source
	}
	return InRoot(image, func() error {
		for i, file := range files {
			if err := layFile(file, opened[i], places, told.Process.Security.FSGroup); err != nil {
				return fmt.Errorf("file %s: %w", file.Path, err)
			}
		}
		return nil
	})
}

func layFile(file config.File, source *os.File, places []place, group *int) error {
	if folder := folderOf(places, file.Path); folder != nil {
		at := path.Join(folder.at, strings.TrimPrefix(file.Path, folder.path))
		if err := os.MkdirAll(path.Dir(at), 0o755); err != nil {
			return err
		}
		return writeFile(at, file, group)
	}
	at, err := MountPoint(file.Path, false)
	if err != nil {
		return err
	}
	return Bind(source, at)
}

// folderOf finds the empty folder that a file belongs into: the innermost place, if that is one.
func folderOf(places []place, file string) *place {
	var found *place
	for i := range places {
		if strings.HasPrefix(file, places[i].path+"/") {
			found = &places[i]
		}
	}
	if found == nil || found.empty == nil {
		return nil
	}
	return found
}

func writeFile(at string, file config.File, group *int) error {
	if err := os.WriteFile(at, file.Content, 0o600); err != nil {
		return err
	}
	if err := syscall.Chmod(at, file.Mode&0o7777); err != nil {
		return err
	}
	if group == nil {
		return nil
	}
	return giveOneToGroup(at, *group, true)
}
