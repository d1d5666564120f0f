package program

import (
	"encoding/json"
	"errors"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// LaunchName is argv[0] of this binary where it is about to become the program.
const LaunchName = "mycelium-launch"

// Descriptors of the launched process beside the program's own three.
const (
	orderFD  = 3 // the order is read from here
	answerFD = 4 // closed by a successful start, else a StartError is written
)

// Open files: what containers are used to, and a soft limit that no program runs long through.
var openFiles = syscall.Rlimit{Cur: 65536, Max: 1048576}

type order struct {
	Image string
	Spec  Spec
}

// LimitFiles sets the limit of open files that children inherit.
func LimitFiles() error {
	wanted := openFiles
	err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &wanted)
	if !errors.Is(err, syscall.EPERM) {
		return os.NewSyscallError("setrlimit", err)
	}
	// Not the first process of a machine (in tests): what may be had.
	var present syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &present); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	if wanted.Max = present.Max; wanted.Cur > wanted.Max {
		wanted.Cur = wanted.Max
	}
	return os.NewSyscallError("setrlimit", syscall.Setrlimit(syscall.RLIMIT_NOFILE, &wanted))
}

// Launch is the program's process before it is the program: the first one of new process and mount namespaces. It
// makes the image its namespace's root, so that nothing of this init's is within reach, and does not return.
func Launch() {
	runtime.LockOSThread() // user and groups are set for this thread alone: it is the one that becomes the program
	syscall.CloseOnExec(orderFD)
	syscall.CloseOnExec(answerFD)
	var given order
	err := json.NewDecoder(os.NewFile(orderFD, "order")).Decode(&given)
	if err == nil {
		err = launch(given)
	}
	var start *StartError
	if !errors.As(err, &start) {
		start = &StartError{CannotRun, "the program's surroundings cannot be made: " + err.Error()}
	}
	_ = json.NewEncoder(os.NewFile(answerFD, "answer")).Encode(start)
	os.Exit(start.Code)
}

func launch(given order) error {
	if err := becomeRoot(given.Image); err != nil {
		return err
	}
	resolved, err := Resolve(given.Spec)
	if err != nil {
		return err
	}
	if err := LimitFiles(); err != nil {
		return err
	}
	if given.Spec.Security.ReadOnlyRootFilesystem {
		// This mount alone: volumes, files in memory and devices are mounts of their own.
		if err := syscall.Mount("", "/", "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
			return os.NewSyscallError("mount", err)
		}
	}
	giveStreams(resolved.Account, 1, 2)
	if err := restrict(given.Spec.Security); err != nil {
		return err
	}
	if err := becomeAccount(resolved.Account); err != nil {
		return err
	}
	if err := os.Chdir(resolved.Dir); err != nil {
		return &StartError{CannotRun, "its user may not enter the working directory " + resolved.Dir}
	}
	return startError(resolved.Argv[0], syscall.Exec(resolved.Path, resolved.Argv, resolved.Env))
}

// becomeRoot moves the image over this namespace's root, as switch_root does, and gives it the /proc of the new
// process namespace.
func becomeRoot(image string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	if err := os.Chdir(image); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	if err := syscall.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	_ = syscall.Unmount("/proc", syscall.MNT_DETACH)
	const quiet = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	return os.NewSyscallError("mount", syscall.Mount("proc", "/proc", "proc", quiet, ""))
}

// giveStreams lets a user other than root open /dev/stdout again, as images do.
func giveStreams(account Account, descriptors ...int) {
	for _, descriptor := range descriptors {
		_ = syscall.Fchown(descriptor, account.UID, account.GID)
	}
}

// becomeAccount changes the calling thread only.
func becomeAccount(account Account) error {
	groups := make([]uint32, len(account.Groups)+1)
	for i, group := range account.Groups {
		groups[i] = uint32(group)
	}
	for _, call := range [][3]uintptr{
		{syscall.SYS_SETGROUPS, uintptr(len(account.Groups)), uintptr(unsafe.Pointer(&groups[0]))},
		{syscall.SYS_SETGID, uintptr(account.GID), 0},
		{syscall.SYS_SETUID, uintptr(account.UID), 0},
	} {
		if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], 0); errno != 0 {
			return os.NewSyscallError("setuid", errno)
		}
	}
	runtime.KeepAlive(groups)
	return nil
}

// Runner starts the program, and commands in its namespaces.
type Runner struct {
	Reaper *Reaper
	Image  string // where the image is mounted
	room   room
}

// StartProgram starts the program and returns once it is running. Its namespaces are there until it ends.
func (r *Runner) StartProgram(spec Spec, stdin, stdout, stderr *os.File) (*Child, error) {
	orderRead, orderWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answerRead, answerWrite, err := os.Pipe()
	if err != nil {
		orderRead.Close()
		orderWrite.Close()
		return nil, err
	}
	defer orderWrite.Close()
	defer answerRead.Close()
	child, err := r.Reaper.Start("/proc/self/exe", []string{LaunchName}, &syscall.ProcAttr{
		Env: []string{"GOMAXPROCS=1", "GOGC=off"},
		Files: []uintptr{
			stdin.Fd(), stdout.Fd(), stderr.Fd(), orderRead.Fd(), answerWrite.Fd(),
		},
		Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID},
	})
	orderRead.Close()
	answerWrite.Close()
	if err != nil {
		return nil, err
	}
	// Opened before it has its order, afterwards it may be gone at once; but nobody enters before the image is the
	// root in there.
	entrance := namespacesOf(child.PID)
	err = json.NewEncoder(orderWrite).Encode(order{r.Image, spec})
	orderWrite.Close()
	var refused StartError
	if answered := json.NewDecoder(answerRead).Decode(&refused); err == nil && answered != nil {
		r.room.set(entrance)
		return child, nil
	}
	<-child.Exit
	entrance.close()
	if err != nil {
		return nil, err
	}
	return nil, &refused
}

// ProgramEnded says that its namespaces are no more.
func (r *Runner) ProgramEnded() { r.room.set(nil) }
