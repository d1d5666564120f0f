package program

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Reaper starts processes and takes the exit status of every process that becomes this one's child, orphans too.
// Nothing else in this process may wait for children.
type Reaper struct {
	mu      sync.Mutex // held while one starts: its end cannot be seen before it is known
	waiting map[int]chan syscall.WaitStatus
}

// Child is a process that was started.
type Child struct {
	PID  int
	Exit <-chan syscall.WaitStatus // one value, then closed
}

// NewReaper begins to reap.
func NewReaper() *Reaper {
	r := &Reaper{waiting: map[int]chan syscall.WaitStatus{}}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		for range ended {
			r.reap()
		}
	}()
	return r
}

// Start starts a program; on the calling thread, whose root directory and namespaces it inherits.
func (r *Reaper) Start(path string, argv []string, attributes *syscall.ProcAttr) (*Child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attributes)
	if err != nil {
		return nil, err
	}
	exit := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = exit
	return &Child{pid, exit}, nil
}

func (r *Reaper) reap() {
	for {
		var status syscall.WaitStatus
		r.mu.Lock()
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == nil && pid > 0 {
			if exit, known := r.waiting[pid]; known {
				delete(r.waiting, pid)
				exit <- status
				close(exit)
			}
		}
		r.mu.Unlock()
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}

// ExitCode is 128+N for a process that signal N killed.
func ExitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
