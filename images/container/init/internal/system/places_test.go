package system

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"mycelium.network/init/internal/apart"
	"mycelium.network/init/internal/config"
)

func TestMain(m *testing.M) { os.Exit(apart.Run(m)) }

// furnished is an image with what a configuration puts over it.
func furnished(t *testing.T, told *config.Config) string {
	t.Helper()
	image := apart.Image(t)
	for _, folder := range []string{"proc", "etc", "srv/full"} {
		check(t, os.MkdirAll(filepath.Join(image, folder), 0o755))
	}
	check(t, os.WriteFile(filepath.Join(image, "etc/hosts"), []byte("image's"), 0o644))
	check(t, os.WriteFile(filepath.Join(image, "srv/full/file"), []byte("image's"), 0o644))
	check(t, syscall.Mount("proc", filepath.Join(image, "proc"), "proc", 0, ""))
	check(t, os.MkdirAll(FilesFolder, 0o755))
	check(t, syscall.Mount("tmpfs", FilesFolder, "tmpfs", 0, ""))
	t.Cleanup(func() {
		_ = syscall.Unmount(FilesFolder, syscall.MNT_DETACH)
		_ = os.Remove(FilesFolder)
	})
	written, err := Furnish(told, image)
	check(t, err)
	if len(written) != 0 {
		t.Error(written)
	}
	return image
}

func describe(t *testing.T, path string) string {
	t.Helper()
	var stat syscall.Stat_t
	check(t, syscall.Stat(path, &stat))
	text := ""
	if stat.Mode&syscall.S_IFMT == syscall.S_IFREG {
		content, err := os.ReadFile(path)
		check(t, err)
		text = " " + string(content)
	}
	return fmt.Sprintf("%o %d:%d%s", stat.Mode&0o7777, stat.Uid, stat.Gid, text)
}

func TestFilesAndEmptyFoldersHideTheImages(t *testing.T) {
	image := furnished(t, &config.Config{
		Hostname: "web",
		EmptyDirs: []config.EmptyDir{
			{Path: "/srv/full", Medium: config.InMemory, SizeLimit: 1 << 20, ReadOnly: true},
			{Path: "/srv/full/deeper/scratch"}, {Path: "/scratch"},
		},
		Files: []config.File{
			{Path: "/srv/full/conf/a", Content: []byte("A"), Mode: 0o600},
			{Path: "/opt/new/b", Content: []byte("B"), Mode: 0o755},
			{Path: "/scratch/c", Content: []byte("C"), Mode: 0o444},
		},
	})
	for path, want := range map[string]string{
		"etc/hosts":       "644 0:0 127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
		"etc/hostname":    "644 0:0 web\n",
		"srv/full":        "777 0:0",
		"srv/full/conf/a": "600 0:0 A",
		"opt/new/b":       "755 0:0 B",
		"scratch":         "777 0:0",
		"scratch/c":       "444 0:0 C",
	} {
		if got := describe(t, filepath.Join(image, path)); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	if _, err := os.Stat(filepath.Join(image, "srv/full/file")); !os.IsNotExist(err) {
		t.Error("the image's file is not hidden")
	}
	err := os.WriteFile(filepath.Join(image, "srv/full/x"), nil, 0o600)
	if !errors.Is(err, syscall.EROFS) {
		t.Error("a closed folder is written to:", err)
	}
	check(t, os.WriteFile(filepath.Join(image, "srv/full/deeper/scratch/x"), nil, 0o600))
	check(t, os.WriteFile(filepath.Join(image, "scratch/x"), nil, 0o600))
	_, err = os.Stat(filepath.Join(image, emptiedFolder, "0/x"))
	check(t, err) // on the root disk
}

func TestTheGroupOfTheProgram(t *testing.T) {
	group := 2000
	told := &config.Config{
		EmptyDirs: []config.EmptyDir{{Path: "/scratch"}, {Path: "/secret", Medium: config.InMemory, ReadOnly: true}},
		Files: []config.File{
			{Path: "/secret/key", Content: []byte("K"), Mode: 0o400}, {Path: "/srv/x", Content: []byte("X"), Mode: 0o600},
		},
	}
	told.Process.Security.FSGroup = &group
	image := furnished(t, told)
	for path, want := range map[string]string{
		"scratch": "2777 0:2000", "secret": "2777 0:2000", "secret/key": "440 0:2000 K", "srv/x": "640 0:2000 X",
	} {
		if got := describe(t, filepath.Join(image, path)); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	volume := filepath.Join(image, "volume")
	check(t, os.MkdirAll(filepath.Join(volume, "below"), 0o700))
	check(t, os.WriteFile(filepath.Join(volume, "below/file"), nil, 0o600))
	check(t, os.Symlink("/nowhere", filepath.Join(volume, "link")))
	check(t, giveToGroup(volume, &group, false))
	for path, want := range map[string]string{"": "2770 0:2000", "below": "2770 0:2000", "below/file": "660 0:2000 "} {
		if got := describe(t, filepath.Join(volume, path)); got != want {
			t.Errorf("volume/%s: %q", path, got)
		}
	}
	check(t, os.Chmod(filepath.Join(volume, "below/file"), 0o600))
	check(t, giveToGroup(volume, &group, false)) // it is the group's already: nothing is changed
	if got := describe(t, filepath.Join(volume, "below/file")); got != "600 0:2000 " {
		t.Error(got)
	}
}

func TestWhichFolderAFileBelongsTo(t *testing.T) {
	places := placesOf(&config.Config{
		Volumes:   []config.Volume{{Disk: 1, Path: "/a/b/volume"}},
		EmptyDirs: []config.EmptyDir{{Path: "/a/b"}, {Path: "/a"}, {Path: "/a/bc"}},
	})
	for file, want := range map[string]string{
		"/x": "", "/a/file": "/a", "/a/b/file": "/a/b", "/a/b/volume/file": "", "/a/bc/d/e": "/a/bc", "/ab": "",
	} {
		found := ""
		if folder := folderOf(places, file); folder != nil {
			found = folder.path
		}
		if found != want {
			t.Errorf("%s belongs to %q", file, found)
		}
	}
}
