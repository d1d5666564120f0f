package archive

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tree makes a folder with one of each.
func tree(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "tree")
	must(t,
		os.MkdirAll(filepath.Join(root, "sub", "empty"), 0o755),
		os.WriteFile(filepath.Join(root, "file"), []byte("content"), 0o640),
		os.WriteFile(filepath.Join(root, "sub", strings.Repeat("long", 50)), nil, 0o600),
		os.Link(filepath.Join(root, "file"), filepath.Join(root, "sub", "hard")),
		os.Symlink("/etc/passwd", filepath.Join(root, "link")),
		syscall.Mkfifo(filepath.Join(root, "fifo"), 0o622),
		syscall.Chmod(filepath.Join(root, "fifo"), 0o622),
		syscall.Chmod(filepath.Join(root, "sub"), 0o2751),
		os.Chtimes(filepath.Join(root, "file"), time.Unix(1e9, 0), time.Unix(1e9, 0)),
		os.Chtimes(filepath.Join(root, "sub"), time.Unix(1e9, 0), time.Unix(1e9, 0)),
	)
	if os.Getuid() == 0 {
		must(t,
			os.Lchown(filepath.Join(root, "link"), 12, 34),
			os.Chown(filepath.Join(root, "file"), 1000, 70000),
			syscall.Chmod(filepath.Join(root, "file"), 0o4750),
			syscall.Mknod(filepath.Join(root, "null"), syscall.S_IFCHR|0o666, deviceOf(1, 3)),
		)
	}
	return root
}

func TestWhatIsPackedComesOutTheSame(t *testing.T) {
	root, target := tree(t), t.TempDir()
	_ = syscall.Setxattr(filepath.Join(root, "file"), "user.note", []byte("a\x00b=c\n"), 0)
	var archive bytes.Buffer
	must(t, Pack(&archive, root))
	files, err := Unpack(&archive, target)
	must(t, err)
	if want := 5 + b2i(os.Getuid() == 0); files != want {
		t.Errorf("%d files, not %d", files, want)
	}
	var first, second, hard syscall.Stat_t
	err = filepath.Walk(root, func(name string, _ os.FileInfo, err error) error {
		must(t, err)
		relative, _ := filepath.Rel(filepath.Dir(root), name)
		must(t, syscall.Lstat(name, &first), syscall.Lstat(filepath.Join(target, relative), &second))
		if first.Mode != second.Mode || first.Uid != second.Uid || first.Gid != second.Gid || first.Rdev != second.Rdev {
			t.Errorf("%s: %+v became %+v", relative, first, second)
		}
		return nil
	})
	must(t, err)
	for _, name := range []string{"file", "sub"} {
		if stat, _ := os.Stat(filepath.Join(target, "tree", name)); stat.ModTime().Unix() != 1e9 {
			t.Errorf("%s is of %v", name, stat.ModTime())
		}
	}
	must(t, syscall.Lstat(filepath.Join(target, "tree/file"), &first), syscall.Lstat(filepath.Join(target, "tree/sub/hard"), &hard))
	if first.Ino != hard.Ino || first.Nlink != 2 {
		t.Error("a hard link became a file of its own")
	}
	value := make([]byte, 100)
	if n, err := syscall.Getxattr(filepath.Join(root, "file"), "user.note", value); err == nil {
		m, err := syscall.Getxattr(filepath.Join(target, "tree/file"), "user.note", value[50:])
		if err != nil || n != m {
			t.Error("an attribute was lost", err)
		}
	}
}

func b2i(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func TestContentsGoIntoAnotherFolderWithItsOwnerAndMode(t *testing.T) {
	root, target := tree(t), t.TempDir()
	must(t, syscall.Chmod(root, 0o1711))
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(PackContents(writer, root)) }()
	_, err := UnpackContents(reader, target)
	must(t, err)
	stat, err := os.Stat(target)
	must(t, err)
	if stat.Mode() != os.ModeDir|os.ModeSticky|0o711 {
		t.Error(stat.Mode())
	}
	if text, err := os.ReadFile(filepath.Join(target, "file")); err != nil || string(text) != "content" {
		t.Error(err, text)
	}
}

func archiveOf(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var made bytes.Buffer
	writer := tar.NewWriter(&made)
	for i := range headers {
		header := headers[i]
		header.Uid, header.Gid = os.Getuid(), os.Getgid()
		if header.Typeflag == tar.TypeReg {
			header.Size = 3
		}
		must(t, writer.WriteHeader(&header))
		if header.Typeflag == tar.TypeReg {
			_, err := writer.Write([]byte("new"))
			must(t, err)
		}
	}
	must(t, writer.Close())
	return &made
}

func TestNamesThatLeadOutAreRefused(t *testing.T) {
	for _, header := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "../x", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "a/../../x", Mode: 0o644},
		{Typeflag: tar.TypeLink, Name: "x", Linkname: "../../etc/passwd"},
	} {
		folder := filepath.Join(t.TempDir(), "in")
		must(t, os.Mkdir(folder, 0o755))
		if _, err := Unpack(archiveOf(t, header), folder); err == nil || !strings.Contains(err.Error(), "leads out") {
			t.Errorf("%s: %v", header.Name, err)
		}
	}
}

func TestWhatIsThereIsReplaced(t *testing.T) {
	folder := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	must(t,
		os.WriteFile(outside, []byte("old"), 0o644),
		os.Symlink(outside, filepath.Join(folder, "name")),
		os.MkdirAll(filepath.Join(folder, "kept", "inside"), 0o755),
	)
	files, err := Unpack(archiveOf(t,
		tar.Header{Typeflag: tar.TypeReg, Name: "/name", Mode: 0o600},
		tar.Header{Typeflag: tar.TypeDir, Name: "kept/", Mode: 0o700},
		tar.Header{Typeflag: tar.TypeReg, Name: "no/parent/yet", Mode: 0o600},
	), folder)
	must(t, err)
	text, err := os.ReadFile(outside)
	must(t, err)
	if string(text) != "old" || files != 2 {
		t.Errorf("a link was followed: %s, %d", text, files)
	}
	if text, err := os.ReadFile(filepath.Join(folder, "name")); err != nil || string(text) != "new" {
		t.Error(err, string(text))
	}
	if _, err := os.Stat(filepath.Join(folder, "kept", "inside")); err != nil {
		t.Error(err)
	}
	if _, err := Unpack(archiveOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "kept", Mode: 0o600}), folder); err == nil {
		t.Error("a folder was replaced by a file")
	}
}

func TestATornArchiveIsAnError(t *testing.T) {
	whole, err := io.ReadAll(archiveOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "a", Mode: 0o600}))
	must(t, err)
	for _, text := range [][]byte{whole[:100], whole[:513], []byte("no archive at all, but a line of text")} {
		if _, err := Unpack(bytes.NewReader(text), t.TempDir()); err == nil {
			t.Errorf("%d bytes were taken", len(text))
		}
	}
	if _, err := Unpack(bytes.NewReader(whole), filepath.Join(t.TempDir(), "no")); err == nil {
		t.Error("a folder that is not there")
	}
}

func TestWhatIsNotThereCannotBePacked(t *testing.T) {
	if err := Pack(io.Discard, filepath.Join(t.TempDir(), "no")); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestDeviceNumbersBothWays(t *testing.T) {
	for _, pair := range [][2]int64{{1, 3}, {253, 0}, {4095, 255}, {5000, 1000000}} {
		major, minor := deviceNumbers(uint64(deviceOf(pair[0], pair[1])))
		if major != pair[0] || minor != pair[1] {
			t.Error(pair, major, minor)
		}
	}
}
