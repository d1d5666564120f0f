package program

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"

	"mycelium.network/init/internal/system"
)

// room is the program's namespaces while it runs.
type room struct {
	mu sync.Mutex
	in *namespaces
}

type namespaces struct{ mount, pid *os.File }

// namespacesOf opens those of a process; nil where it is gone.
func namespacesOf(pid int) *namespaces {
	folder := "/proc/" + strconv.Itoa(pid) + "/ns/"
	mount, err := os.Open(folder + "mnt")
	if err != nil {
		return nil
	}
	process, err := os.Open(folder + "pid")
	if err != nil {
		mount.Close()
		return nil
	}
	return &namespaces{mount, process}
}

func (n *namespaces) close() {
	if n != nil {
		n.mount.Close()
		n.pid.Close()
	}
}

// set lets others in, or out where there is none any more.
func (r *room) set(in *namespaces) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.in.close()
	r.in = in
}

// enter moves the calling thread into the namespaces; false where no program runs.
func (r *room) enter() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.in == nil {
		return false, nil
	}
	if err := system.Setns(r.in.pid, syscall.CLONE_NEWPID); err != nil {
		return true, err
	}
	return true, system.Setns(r.in.mount, syscall.CLONE_NEWNS)
}

// Exec starts a command beside the program: in its namespaces, or in the image alone while no program runs. With
// isTerminal the first of the three files is a terminal, and becomes the command's own.
func (r *Runner) Exec(spec Spec, files [3]*os.File, isTerminal bool) (*Child, error) {
	var child *Child
	err := system.OnThread(r.enter, func() error {
		resolved, err := Resolve(spec)
		if err != nil {
			return err
		}
		attributes := &syscall.ProcAttr{
			Dir: resolved.Dir,
			Env: resolved.Env,
			Sys: &syscall.SysProcAttr{Setsid: true, Setctty: isTerminal, Credential: credential(resolved.Account)},
		}
		for _, file := range files {
			attributes.Files = append(attributes.Files, file.Fd())
		}
		if isTerminal {
			_ = syscall.Fchown(int(files[0].Fd()), resolved.Account.UID, 5)
		} else if spec.OwnStreams {
			giveStreams(resolved.Account, int(files[1].Fd()), int(files[2].Fd()))
		}
		if err := restrict(spec.Security); err != nil {
			return err
		}
		child, err = r.Reaper.Start(resolved.Path, resolved.Argv, attributes)
		if errors.Is(err, syscall.ENOMEM) {
			return &StartError{CannotRun, "the program is just ending, or the memory is used up"}
		}
		if err != nil {
			return startError(resolved.Argv[0], err)
		}
		return nil
	})
	return child, err
}

// View runs f with the program's files as the root directory, or the image's where no program runs.
func (r *Runner) View(f func() error) error { return system.OnThread(r.enter, f) }

func (r *Runner) enter() error {
	entered, err := r.room.enter()
	if err != nil || entered {
		return err
	}
	if err := syscall.Chroot(r.Image); err != nil {
		return &os.PathError{Op: "chroot", Path: r.Image, Err: err}
	}
	return os.Chdir("/")
}

func credential(account Account) *syscall.Credential {
	made := &syscall.Credential{Uid: uint32(account.UID), Gid: uint32(account.GID)}
	for _, group := range account.Groups {
		made.Groups = append(made.Groups, uint32(group))
	}
	return made
}
