package system

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mycelium.network/init/internal/config"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func TestInRootNothingLeadsOut(t *testing.T) {
	needsRoot(t)
	root := t.TempDir()
	check(t, os.WriteFile(filepath.Join(root, "inside"), []byte("yes"), 0o644))
	check(t, os.Symlink("/inside", filepath.Join(root, "link")))
	check(t, os.Symlink("../../../../etc", filepath.Join(root, "up")))
	check(t, InRoot(root, func() error {
		if text, err := os.ReadFile("/link"); err != nil || string(text) != "yes" {
			return fmt.Errorf("%s %w", text, err)
		}
		if _, err := os.Stat("/up/passwd"); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("it leads out: %v", err)
		}
		return nil
	}))
	if _, err := os.Stat(root); err != nil {
		t.Error("the rest of the process is in there too:", err)
	}
	if err := InRoot(root, func() error { panic("so") }); err == nil || !strings.Contains(err.Error(), "mistake") {
		t.Error(err)
	}
}

func TestMountPointsFollowTheImagesLinks(t *testing.T) {
	needsRoot(t)
	root := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(root, "etc/folder"), 0o755))
	check(t, os.WriteFile(filepath.Join(root, "etc/hosts"), nil, 0o644))
	check(t, os.Symlink("../run/systemd/resolv.conf", filepath.Join(root, "etc/resolv.conf")))
	check(t, os.Symlink("/etc/loop", filepath.Join(root, "etc/loop")))
	check(t, InRoot(root, func() error {
		for _, c := range []struct {
			at, want string
			isFolder bool
		}{
			{"/etc/hosts", "/etc/hosts", false}, {"/etc/resolv.conf", "/etc/../run/systemd/resolv.conf", false},
			{"/a/b/c", "/a/b/c", false}, {"/data/volume", "/data/volume", true}, {"/etc/folder", "/etc/folder", true},
		} {
			at, err := MountPoint(c.at, c.isFolder)
			if err != nil || at != c.want {
				return fmt.Errorf("%s: %s %w", c.at, at, err)
			}
			if stat, err := os.Stat(at); err != nil || stat.IsDir() != c.isFolder {
				return fmt.Errorf("%s was not made: %w", at, err)
			}
		}
		for at, isFolder := range map[string]bool{"/etc/folder": false, "/etc/hosts": true, "/etc/loop": false} {
			if found, err := MountPoint(at, isFolder); err == nil {
				return fmt.Errorf("%s is at %s", at, found)
			}
		}
		return nil
	}))
}

func TestEmptyVolumesAreFilledOnce(t *testing.T) {
	needsRoot(t)
	image, volume := t.TempDir(), t.TempDir()
	if err := syscall.Setxattr(volume, filledMark, []byte("x"), 0); err != nil {
		t.Skip("no trusted attributes here:", err)
	}
	check(t, syscall.Removexattr(volume, filledMark))
	check(t, os.MkdirAll(filepath.Join(image, "data"), 0o755))
	check(t, os.Chown(filepath.Join(image, "data"), 5, 6))
	check(t, os.WriteFile(filepath.Join(image, "data/file"), []byte("image's"), 0o600))
	check(t, os.Mkdir(filepath.Join(volume, "lost+found"), 0o700))
	check(t, fillVolume(volume, image, "/data"))
	var stat syscall.Stat_t
	check(t, syscall.Stat(volume, &stat))
	if names, _ := os.ReadDir(volume); len(names) != 1 || stat.Uid != 5 || stat.Gid != 6 {
		t.Error(names, stat)
	}
	check(t, os.Remove(filepath.Join(volume, "file")))
	check(t, fillVolume(volume, image, "/data"))
	if names, _ := os.ReadDir(volume); len(names) != 0 {
		t.Error("filled twice", names)
	}
	check(t, setMark(volume, "begun")) // the power went away meanwhile
	check(t, fillVolume(volume, image, "/data"))
	if text, err := os.ReadFile(filepath.Join(volume, "file")); err != nil || string(text) != "image's" {
		t.Error(err)
	}
	other := t.TempDir()
	check(t, os.WriteFile(filepath.Join(other, "mine"), nil, 0o600))
	check(t, fillVolume(other, image, "/data"))
	if names, _ := os.ReadDir(other); len(names) != 1 || readMark(other) != "done" {
		t.Error("what somebody brought is mixed with the image's", names)
	}
	check(t, fillVolume(t.TempDir(), image, "/nothing/there"))
}

func TestSizeOfAFileSystem(t *testing.T) {
	for _, options := range []string{"64bit", "^64bit"} {
		disk := filepath.Join(t.TempDir(), "disk")
		check(t, os.WriteFile(disk, nil, 0o600))
		check(t, os.Truncate(disk, 8<<20))
		if said, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", options, disk).CombinedOutput(); err != nil {
			t.Skipf("no mke2fs here: %v %s", err, said)
		}
		text, err := os.ReadFile(disk)
		check(t, err)
		if blocks, size, err := ext4Size(text[1024:2048]); err != nil || blocks != 2048 || size != 4096 {
			t.Error(blocks, size, err)
		}
	}
	if _, _, err := ext4Size(make([]byte, 1024)); err == nil {
		t.Error("zeros are a file system")
	}
}

func TestFilesOfTheFirmware(t *testing.T) {
	entry := func(name string, selector uint16, size uint32) []byte {
		made := make([]byte, fwEntry)
		binary.BigEndian.PutUint32(made, size)
		binary.BigEndian.PutUint16(made[4:], selector)
		copy(made[8:], name)
		return made
	}
	directory := append(entry("etc/acpi", 0x20, 5), entry("opt/config", 0x2a, 700)...)
	directory = append(directory, entry("opt/huge", 0x2b, 1<<31)...)
	if selector, size, err := findFirmwareFile(directory, "opt/config"); err != nil || selector != 0x2a || size != 700 {
		t.Error(selector, size, err)
	}
	for _, name := range []string{"opt/conf", "none", "opt/huge", ""} {
		if _, _, err := findFirmwareFile(directory, name); err == nil {
			t.Error(name)
		}
	}
}

func TestNamingFiles(t *testing.T) {
	files := NamingFiles(&config.Config{
		Hostname: "web", Domain: "example.test", Nameservers: []string{"10.0.0.1", "10.0.0.2"},
		NICs: []config.NIC{{Address: "10.0.0.5"}},
	})
	want := []string{
		"web\n",
		"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.5\tweb.example.test web\n",
		"search example.test\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n",
	}
	for i, file := range files {
		if string(file.Content) != want[i] {
			t.Errorf("%s: %q", file.Path, file.Content)
		}
	}
}

// TestNetwork gives a real kernel's NIC its address, in a network namespace of its own.
func TestNetwork(t *testing.T) {
	needsRoot(t)
	enter := func() error { return syscall.Unshare(syscall.CLONE_NEWNET) }
	failed := OnThread(enter, func() error {
		const mac = "52:54:00:12:34:56"
		if said, err := exec.Command("ip", "tuntap", "add", "nic0", "mode", "tap").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", errSkip, said)
		}
		if said, err := exec.Command("ip", "link", "set", "nic0", "address", mac).CombinedOutput(); err != nil {
			return fmt.Errorf("%s %w", said, err)
		}
		told := []config.NIC{{MAC: strings.ToUpper(mac), Address: "10.9.8.7", Prefix: 24, MTU: 1400, Gateway: "10.9.8.1"}}
		if err := SetUpNetwork(told); err != nil {
			return err
		}
		nic, err := net.InterfaceByName("nic0")
		if err != nil || nic.MTU != 1400 || nic.Flags&net.FlagUp == 0 {
			return fmt.Errorf("%+v %w", nic, err)
		}
		nics, err := NICs()
		if err != nil || len(nics) != 1 || nics[0].MAC != mac || nics[0].Addresses[0] != "10.9.8.7" {
			return fmt.Errorf("%+v %w", nics, err)
		}
		routes, err := exec.Command("ip", "route").CombinedOutput()
		if err != nil || !bytes.Contains(routes, []byte("default via 10.9.8.1 dev nic0")) {
			return fmt.Errorf("%s %w", routes, err)
		}
		for _, wrong := range []config.NIC{
			{MAC: "52:54:00:00:00:00", Address: "10.0.0.1", Prefix: 8}, {MAC: mac, Address: "no", Prefix: 24},
			{MAC: mac, Address: "10.0.0.1", Prefix: 99},
		} {
			if err := SetUpNetwork([]config.NIC{wrong}); err == nil {
				return fmt.Errorf("%+v was taken", wrong)
			}
		}
		return nil
	})
	if errors.Is(failed, errSkip) {
		t.Skip(failed)
	}
	check(t, failed)
}

var errSkip = errors.New("no interface can be made here")
