package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"
	"time"
)

// folderTime is set when nothing is put into the folder any more.
type folderTime struct {
	name string
	at   time.Time
}

type unpacker struct {
	folder string
	// Whether the archive's "." is the folder itself, with its owner and mode.
	withFolder bool
	times      []folderTime
}

// Unpack puts the archive's files into a folder that is there, and returns how many there were beside folders. What
// is there already is replaced; a folder is kept with what it holds.
func Unpack(from io.Reader, folder string) (int, error) { return unpack(from, folder, false) }

// UnpackContents is for what PackContents wrote: the folder itself gets owner and mode too.
func UnpackContents(from io.Reader, folder string) (int, error) { return unpack(from, folder, true) }

func unpack(from io.Reader, folder string, withFolder bool) (int, error) {
	if stat, err := os.Stat(folder); err != nil || !stat.IsDir() {
		return 0, fmt.Errorf("there is no folder %s", folder)
	}
	u := &unpacker{folder: folder, withFolder: withFolder}
	reader, files := tar.NewReader(from), 0
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return files, fmt.Errorf("the archive cannot be read: %w", err)
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.add(header, reader); err != nil {
			return files, errAt(header.Name, err)
		}
		if header.Typeflag != tar.TypeDir {
			files++
		}
	}
	// What follows the archive's end is the rest of its last block: it has to be taken.
	if _, err := io.Copy(io.Discard, from); err != nil {
		return files, err
	}
	for i := len(u.times) - 1; i >= 0; i-- {
		setTime(u.times[i].name, u.times[i].at)
	}
	return files, nil
}

// place is where a name of the archive is; the root "." is the folder.
func (u *unpacker) place(name string) (string, error) {
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", errors.New("the archive's name leads out of the folder")
		}
	}
	return path.Join(u.folder, path.Clean("/"+name)), nil
}

func (u *unpacker) add(header *tar.Header, content io.Reader) error {
	name, err := u.place(header.Name)
	if err != nil {
		return err
	}
	if name == path.Clean(u.folder) {
		if !u.withFolder || header.Typeflag != tar.TypeDir {
			return nil
		}
	} else if err := os.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		err = u.addFolder(name, header)
	case tar.TypeReg, tar.TypeGNUSparse:
		err = addFile(name, header, content)
	case tar.TypeSymlink:
		if err = remove(name); err == nil {
			err = os.Symlink(header.Linkname, name)
		}
		if err == nil {
			return os.Lchown(name, header.Uid, header.Gid)
		}
	case tar.TypeLink:
		return u.addLink(name, header)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		err = addSpecial(name, header)
	default:
		return fmt.Errorf("files of the type %q are not supported", header.Typeflag)
	}
	if err != nil {
		return err
	}
	return finish(name, header)
}

func (u *unpacker) addFolder(name string, header *tar.Header) error {
	u.times = append(u.times, folderTime{name, header.ModTime})
	if stat, err := os.Stat(name); err == nil && stat.IsDir() {
		return nil
	}
	if err := remove(name); err != nil {
		return err
	}
	return os.Mkdir(name, 0o700)
}

func (u *unpacker) addLink(name string, header *tar.Header) error {
	target, err := u.place(header.Linkname)
	if err != nil {
		return err
	}
	if target == name {
		return nil
	}
	if err := remove(name); err != nil {
		return err
	}
	return os.Link(target, name)
}

func addFile(name string, header *tar.Header, content io.Reader) error {
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL | syscall.O_NOFOLLOW
	if err := remove(name); errors.Is(err, syscall.EBUSY) {
		flags = os.O_WRONLY | os.O_TRUNC | syscall.O_NOFOLLOW // a mount of ours, as /etc/hosts is
	} else if err != nil {
		return err
	}
	file, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, content); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

func addSpecial(name string, header *tar.Header) error {
	if err := remove(name); err != nil {
		return err
	}
	kind := map[byte]uint32{
		tar.TypeChar: syscall.S_IFCHR, tar.TypeBlock: syscall.S_IFBLK, tar.TypeFifo: syscall.S_IFIFO,
	}[header.Typeflag]
	return syscall.Mknod(name, kind|0o600, deviceOf(header.Devmajor, header.Devminor))
}

// finish sets owner before mode and attributes: a change of owner takes set-user-ID and capabilities away.
func finish(name string, header *tar.Header) error {
	if err := os.Chown(name, header.Uid, header.Gid); err != nil {
		return err
	}
	if err := syscall.Chmod(name, uint32(header.Mode)&0o7777); err != nil {
		return err
	}
	for key, value := range header.PAXRecords {
		attribute := strings.TrimPrefix(key, xattrPrefix)
		if attribute == key || !isKept(attribute) {
			continue
		}
		err := syscall.Setxattr(name, attribute, []byte(value), 0)
		if err != nil && !errors.Is(err, syscall.ENOTSUP) {
			return fmt.Errorf("attribute %s: %w", attribute, err)
		}
	}
	if header.Typeflag != tar.TypeDir {
		setTime(name, header.ModTime)
	}
	return nil
}

func setTime(name string, at time.Time) {
	times := []syscall.Timespec{syscall.NsecToTimespec(at.UnixNano()), syscall.NsecToTimespec(at.UnixNano())}
	_ = syscall.UtimesNano(name, times)
}

// remove what is in the way, but no folder: os.Remove would take an empty one.
func remove(name string) error {
	err := syscall.Unlink(name)
	if err == nil || errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}
