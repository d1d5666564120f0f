package program

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"mycelium.network/init/internal/config"
)

// What the standard library has no names for.
const (
	prCapbsetDrop   = 24
	prSetNoNewPrivs = 38
)

// capabilities of Linux, by number.
var capabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// dropped returns the numbers of the capabilities that a program must never have.
func dropped(told config.Capabilities) ([]int, error) {
	isDropped := make([]bool, len(capabilities))
	set := func(names []string, value bool) error {
		for _, name := range names {
			if err := setCapability(isDropped, name, value); err != nil {
				return err
			}
		}
		return nil
	}
	if err := set(told.Drop, true); err != nil {
		return nil, err
	}
	if err := set(told.Add, false); err != nil {
		return nil, err
	}
	var numbers []int
	for number, is := range isDropped {
		if is {
			numbers = append(numbers, number)
		}
	}
	return numbers, nil
}

func setCapability(isDropped []bool, name string, value bool) error {
	name = strings.TrimPrefix(name, "CAP_")
	isKnown := false
	for number, known := range capabilities {
		if name == known || name == "ALL" {
			isDropped[number], isKnown = value, true
		}
	}
	if !isKnown {
		return fmt.Errorf("there is no capability %s", name)
	}
	return nil
}

// restrict takes from the calling thread what its program, once it is one, must not have. It keeps what is needed to
// become that: capabilities leave with execve, and with the change of users.
func restrict(told config.Security) error {
	numbers, err := dropped(told.Capabilities)
	if err != nil {
		return &StartError{CannotRun, err.Error()}
	}
	for _, number := range numbers {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prCapbsetDrop, uintptr(number), 0, 0, 0, 0)
		if errno != 0 && errno != syscall.EINVAL { // one that this kernel does not know
			return os.NewSyscallError("prctl", errno)
		}
	}
	if !told.AllowPrivilegeEscalation {
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0); errno != 0 {
			return os.NewSyscallError("prctl", errno)
		}
	}
	return nil
}
