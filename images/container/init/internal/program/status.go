package program

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"time"
)

// States of the program.
const (
	Starting = "starting"
	Running  = "running"
	Waiting  = "waiting"
	Ended    = "ended"
)

// Status is ProgramStatus of vdc/model/guest.py.
type Status struct {
	State     string `json:"state"`
	Ready     bool   `json:"ready"`
	PID       int    `json:"pid"`
	Restarts  int    `json:"restarts"`
	ExitCode  *int   `json:"exit_code"`
	Reason    string `json:"reason"`
	StartedAt string `json:"started_at"`
}

// Board holds the status; whoever asks gets a copy.
type Board struct {
	mu     sync.Mutex
	status Status
	run    int // which one the status is of: what an earlier one's probes say is too late
}

// NewBoard begins with the state `starting`.
func NewBoard() *Board { return &Board{status: Status{State: Starting}} }

// Get returns it.
func (b *Board) Get() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status
}

func (b *Board) change(f func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.status)
}

// GiveUp says that the program never starts, and why.
func (b *Board) GiveUp(reason string) {
	b.change(func(s *Status) { s.State, s.Ready, s.Reason = Ended, false, reason })
}

func (b *Board) started(pid int, at time.Time, waitsFor string) (run int) {
	b.change(func(s *Status) {
		b.run++
		run = b.run
		s.State, s.PID, s.Ready, s.Reason = Running, pid, waitsFor == "", waitsFor
		s.StartedAt = at.UTC().Format("2006-01-02T15:04:05.000000000Z")
	})
	return run
}

func (b *Board) readiness(run int, isReady bool, reason string) {
	b.change(func(s *Status) {
		if s.State == Running && b.run == run {
			s.Ready, s.Reason = isReady, reason
		}
	})
}

func (b *Board) ended(state string, code int, reason string) {
	b.change(func(s *Status) {
		s.State, s.PID, s.Ready, s.ExitCode, s.Reason = state, 0, false, &code, reason
	})
}

// killsForMemory reads how many processes the kernel killed because the memory was used up.
func killsForMemory() int {
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	_, after, found := bytes.Cut(text, []byte("\noom_kill "))
	if !found {
		return 0
	}
	line, _, _ := bytes.Cut(after, []byte{'\n'})
	count, _ := strconv.Atoi(string(line))
	return count
}
