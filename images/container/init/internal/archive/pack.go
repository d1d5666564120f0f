// Package archive packs files of the guest into a tar archive and unpacks one. It works below the caller's own root
// directory: the caller sees to it that this is the image's (system.Image), so that no path and no link leads out of
// it. Owners are numbers, as the image means them.
package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"syscall"
	"time"
)

const (
	xattrPrefix = "SCHILY.xattr."
	ext4Magic   = 0xef53
	tmpfsMagic  = 0x01021994
)

// kinds of files that an archive has; sockets are left out, a program makes its own.
var kinds = map[uint32]byte{
	syscall.S_IFREG: tar.TypeReg, syscall.S_IFDIR: tar.TypeDir, syscall.S_IFLNK: tar.TypeSymlink,
	syscall.S_IFCHR: tar.TypeChar, syscall.S_IFBLK: tar.TypeBlock, syscall.S_IFIFO: tar.TypeFifo,
}

type inode struct{ device, number uint64 }

type packer struct {
	writer *tar.Writer
	links  map[inode]string // names in the archive of files with more than one
}

// Pack writes an archive of the file or folder, named by the last part of its path ("." for the root). A link is
// packed as one. Other file systems below it are packed where they hold files (volumes, tmpfs), else as empty folders.
func Pack(to io.Writer, from string) error {
	from = path.Clean(from)
	name := path.Base(from)
	if from == "/" {
		name = "."
	}
	return pack(to, from, name)
}

// PackContents writes an archive of what is in the folder, and of the folder itself as ".".
func PackContents(to io.Writer, folder string) error { return pack(to, path.Clean(folder), ".") }

func pack(to io.Writer, from, name string) error {
	p := &packer{tar.NewWriter(to), map[inode]string{}}
	var stat syscall.Stat_t
	if err := syscall.Lstat(from, &stat); err != nil {
		return &os.PathError{Op: "read", Path: from, Err: err}
	}
	if err := p.add(from, name, &stat); err != nil {
		return err
	}
	return p.writer.Close()
}

func (p *packer) add(from, name string, stat *syscall.Stat_t) error {
	kind, known := kinds[stat.Mode&syscall.S_IFMT]
	if !known {
		return nil
	}
	header, err := p.header(from, name, kind, stat)
	if err != nil {
		return err
	}
	if header.Typeflag == tar.TypeReg {
		return p.addFile(from, header)
	}
	if err := p.writer.WriteHeader(header); err != nil {
		return err
	}
	if kind == tar.TypeDir {
		return p.addContents(from, name, stat)
	}
	return nil
}

func (p *packer) header(from, name string, kind byte, stat *syscall.Stat_t) (*tar.Header, error) {
	header := &tar.Header{
		Typeflag: kind, Name: name, Mode: int64(stat.Mode &^ syscall.S_IFMT), Uid: int(stat.Uid), Gid: int(stat.Gid),
		ModTime: time.Unix(stat.Mtim.Unix()),
	}
	switch kind {
	case tar.TypeDir:
		header.Name += "/"
	case tar.TypeSymlink:
		target, err := os.Readlink(from)
		if err != nil {
			return nil, err
		}
		header.Linkname = target
		return header, nil
	case tar.TypeChar, tar.TypeBlock:
		header.Devmajor, header.Devminor = deviceNumbers(stat.Rdev)
	case tar.TypeReg:
		header.Size = stat.Size
	}
	if kind != tar.TypeDir && stat.Nlink > 1 {
		id := inode{stat.Dev, stat.Ino}
		if first, seen := p.links[id]; seen {
			header.Typeflag, header.Linkname, header.Size = tar.TypeLink, first, 0
			return header, nil
		}
		p.links[id] = name
	}
	header.PAXRecords = xattrs(from)
	return header, nil
}

// addFile packs a file as long as it was when its turn came: one that shrinks meanwhile is filled up with zeros.
func (p *packer) addFile(from string, header *tar.Header) error {
	file, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer file.Close()
	if err := p.writer.WriteHeader(header); err != nil {
		return err
	}
	copied, err := io.Copy(p.writer, io.LimitReader(file, header.Size))
	if err != nil {
		return err
	}
	for zeros := make([]byte, 4096); copied < header.Size; {
		n := header.Size - copied
		if n > int64(len(zeros)) {
			n = int64(len(zeros))
		}
		if _, err := p.writer.Write(zeros[:n]); err != nil {
			return err
		}
		copied += n
	}
	return nil
}

func (p *packer) addContents(from, name string, folder *syscall.Stat_t) error {
	names, err := namesIn(from)
	if err != nil {
		return err
	}
	for _, entry := range names {
		var stat syscall.Stat_t
		below := path.Join(from, entry)
		if err := syscall.Lstat(below, &stat); err != nil {
			continue // gone meanwhile
		}
		if stat.Dev != folder.Dev && !holdsFiles(below) {
			continue
		}
		if err := p.add(below, path.Join(name, entry), &stat); err != nil {
			return err
		}
	}
	return nil
}

func namesIn(folder string) ([]string, error) {
	file, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	names, err := file.Readdirnames(-1)
	sort.Strings(names)
	return names, err
}

// holdsFiles tells volumes from /proc, /sys and /dev.
func holdsFiles(below string) bool {
	var stat syscall.Statfs_t
	return syscall.Statfs(below, &stat) == nil && (stat.Type == ext4Magic || stat.Type == tmpfsMagic)
}

func xattrs(from string) map[string]string {
	list := make([]byte, 65536)
	n, err := syscall.Listxattr(from, list)
	if err != nil || n <= 0 {
		return nil
	}
	records := map[string]string{}
	value := make([]byte, 65536)
	for _, name := range strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if size, err := syscall.Getxattr(from, name, value); err == nil && isKept(name) {
			records[xattrPrefix+name] = string(value[:size])
		}
	}
	return records
}

// isKept: what a program put on its files and what the kernel acts upon, not what this init keeps for itself.
func isKept(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_") ||
		name == "security.capability"
}

func deviceNumbers(device uint64) (int64, int64) {
	major := device>>8&0xfff | device>>32&^0xfff
	minor := device&0xff | device>>12&^0xff
	return int64(uint32(major)), int64(uint32(minor))
}

func deviceOf(major, minor int64) int {
	a, b := uint64(major), uint64(minor)
	return int(b&0xff | a&0xfff<<8 | b&^0xff<<12 | a&^0xfff<<32)
}

func errAt(name string, err error) error {
	var known *os.PathError
	if errors.As(err, &known) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}
