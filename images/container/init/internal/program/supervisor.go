package program

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"mycelium.network/init/internal/config"
)

// Probes watch one run of the program until done is closed. They report readiness, and once that the program has to
// be ended.
type Probes func(done <-chan struct{}, ready func(isReady bool, reason string), unwell func(reason string))

// request is what the agent asks of the supervisor.
type request struct {
	grace    time.Duration
	isStop   bool
	finished chan struct{}
}

// Supervisor keeps the program running by its restart policy. All of its decisions are made in one goroutine.
type Supervisor struct {
	Told   *config.Process
	Runner *Runner
	Board  *Board
	Output func(stream string, from io.Reader) // returns at the end of what it reads
	Probes Probes
	// WaitsFor is the reason not to be ready at the start of a run; empty where no probe has to be asked first.
	WaitsFor string

	requests chan request
	pauses   backoff
}

// NewSupervisor makes one; Run runs it.
func NewSupervisor(told *config.Process, runner *Runner, board *Board) *Supervisor {
	return &Supervisor{Told: told, Runner: runner, Board: board, requests: make(chan request)}
}

// Restart ends the program and starts it anew; it returns when the old one has ended.
func (s *Supervisor) Restart() { s.ask(request{grace: s.grace()}) }

// Stop ends the program for good.
func (s *Supervisor) Stop(grace time.Duration) { s.ask(request{grace: grace, isStop: true}) }

func (s *Supervisor) grace() time.Duration { return time.Duration(s.Told.StopSeconds) * time.Second }

func (s *Supervisor) ask(asked request) {
	asked.finished = make(chan struct{})
	s.requests <- asked
	<-asked.finished
}

// run is how one run went.
type run struct {
	code   int
	lasted time.Duration
	reason string
	asked  requests // what ended it, if that was asked for
	probe  bool
}

type requests []request

func (r requests) isStop() bool {
	for _, asked := range r {
		if asked.isStop {
			return true
		}
	}
	return false
}

func (r requests) finish() {
	for _, asked := range r {
		close(asked.finished)
	}
}

// Run returns after a Stop.
func (s *Supervisor) Run() {
	for {
		ended := s.once()
		asked := ended.asked
		if asked == nil {
			asked = s.pause(ended)
		} else {
			s.Board.ended(Waiting, ended.code, "it is started anew")
		}
		if asked.isStop() {
			s.Board.ended(Ended, ended.code, "it was stopped")
			asked.finish()
			s.refuse()
			return
		}
		if asked != nil {
			asked.finish()
			s.pauses = backoff{}
		}
		s.Board.change(func(status *Status) { status.Restarts++ })
	}
}

// refuse lets nobody wait who asks after the end.
func (s *Supervisor) refuse() {
	go func() {
		for asked := range s.requests {
			close(asked.finished)
		}
	}()
}

// pause waits as long as the policy says, or until somebody asks for something.
func (s *Supervisor) pause(ended run) requests {
	if !startsAgain(s.Told.RestartPolicy, ended.code, ended.probe) {
		s.Board.ended(Ended, ended.code, ended.reason)
		return requests{<-s.requests}
	}
	wait := s.pauses.after(ended.lasted)
	s.Board.ended(Waiting, ended.code, fmt.Sprintf("%s; it is started again after %d s", ended.reason, wait/time.Second))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case asked := <-s.requests:
		return requests{asked}
	}
}

// once runs the program from start to end.
func (s *Supervisor) once() run {
	started, killed := time.Now(), killsForMemory()
	child, drained, err := s.start()
	if err != nil {
		refused := &StartError{CannotRun, "it cannot be started: " + err.Error()}
		errors.As(err, &refused)
		return run{code: refused.Code, reason: "it cannot be started: " + refused.Message}
	}
	number := s.Board.started(child.PID, started, s.WaitsFor)
	done := make(chan struct{})
	unwell := make(chan string, 1)
	if s.Probes != nil {
		ready := func(isReady bool, reason string) { s.Board.readiness(number, isReady, reason) }
		s.Probes(done, ready, func(reason string) {
			select {
			case unwell <- reason:
			default:
			}
		})
	}
	ended := s.await(child, unwell)
	close(done)
	s.Runner.ProgramEnded()
	drained.Wait()
	ended.lasted = time.Since(started)
	isKilled := ended.code == 128+int(syscall.SIGKILL)
	ended.reason = ending(ended.code, isKilled && killsForMemory() > killed && ended.asked == nil, ended.reason)
	return ended
}

func (s *Supervisor) start() (*Child, *sync.WaitGroup, error) {
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer stdin.Close()
	drained := &sync.WaitGroup{}
	var writers [2]*os.File
	for i, name := range []string{"stdout", "stderr"} {
		reader, writer, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		defer writer.Close()
		writers[i] = writer
		drained.Add(1)
		go func(name string) {
			defer drained.Done()
			defer reader.Close()
			s.Output(name, reader)
		}(name)
	}
	spec := SpecOf(s.Told)
	child, err := s.Runner.StartProgram(spec, stdin, writers[0], writers[1])
	return child, drained, err
}

// SpecOf is what the configuration says of the program: commands beside it begin with the same.
func SpecOf(told *config.Process) Spec {
	return Spec{
		Argv: told.Argv, Env: append([]string(nil), told.Env...), Dir: told.WorkingDir, User: told.User,
		Security: told.Security,
	}
}

// await waits for the program's end, whoever causes it.
func (s *Supervisor) await(child *Child, unwell <-chan string) run {
	var ended run
	grace := s.grace()
	select {
	case status := <-child.Exit:
		return run{code: ExitCode(status)}
	case asked := <-s.requests:
		ended.asked, grace = requests{asked}, asked.grace
	case ended.reason = <-unwell:
		ended.probe = true
	}
	s.signal(child)
	kill := time.NewTimer(grace)
	defer kill.Stop()
	for {
		select {
		case status := <-child.Exit:
			ended.code = ExitCode(status)
			return ended
		case <-kill.C:
			_ = syscall.Kill(child.PID, syscall.SIGKILL)
		case later := <-s.requests:
			// A stop is not kept waiting by a restart or a probe that came before it.
			ended.asked = append(ended.asked, later)
			kill.Reset(later.grace)
		}
	}
}

func (s *Supervisor) signal(child *Child) {
	stop, err := ParseSignal(s.Told.StopSignal)
	if err != nil {
		stop = syscall.SIGTERM
	}
	_ = syscall.Kill(child.PID, stop)
}
