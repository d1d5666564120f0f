package serve

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"mycelium.network/init/internal/channel"
	"mycelium.network/init/internal/config"
	"mycelium.network/init/internal/program"
)

// A terminal's last words pass through the kernel's queue; where something in the background keeps it open, this
// long is waited for them.
const terminalRest = 500 * time.Millisecond

// exec runs a command beside the program, with the program's environment, user and folder unless others are given.
func (m *Machine) exec(stream *channel.Stream, asked *request) (channel.Answer, error) {
	spec := program.Spec{Security: config.Security{AllowPrivilegeEscalation: true}}
	if m.Told != nil {
		spec = program.SpecOf(m.Told)
	}
	spec.Argv, spec.OwnStreams = asked.Argv, true
	if asked.WorkingDir != "" {
		spec.Dir = asked.WorkingDir
	}
	if asked.User != "" {
		spec.User = asked.User
	}
	run := m.runOnPipes
	if asked.TTY {
		spec.Env = append([]string{"TERM=xterm"}, spec.Env...)
		run = m.runOnTerminal
	}
	spec.Env = append(spec.Env, asked.Env...)
	code, err := run(stream, spec, asked)
	var refused *program.StartError
	if errors.As(err, &refused) {
		// As a shell does it: on standard error, and a code that says the rest.
		_, _ = stream.WriteError([]byte(refused.Message + "\n"))
		code, err = refused.Code, nil
	}
	stream.EndOutput()
	return channel.Answer{"exit_code": code}, err
}

func (m *Machine) runOnPipes(stream *channel.Stream, spec program.Spec, _ *request) (int, error) {
	var ours, theirs [3]*os.File
	defer closeAll(&ours)
	defer closeAll(&theirs)
	for i := range ours {
		reader, writer, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		ours[i], theirs[i] = reader, writer
		if i == 0 {
			ours[i], theirs[i] = writer, reader
		}
	}
	child, err := m.Runner.Exec(spec, theirs, false)
	if err != nil {
		return 0, err
	}
	closeAll(&theirs)
	go feed(ours[0], stream)
	var output sync.WaitGroup
	output.Add(2)
	go func() {
		defer output.Done()
		pump(ours[1], stream.Write)
	}()
	go func() {
		defer output.Done()
		pump(ours[2], stream.WriteError)
	}()
	code := await(child, stream, nil)
	ended := time.Unix(1, 0)
	_ = ours[1].SetReadDeadline(ended)
	_ = ours[2].SetReadDeadline(ended)
	output.Wait()
	return code, nil
}

// feed gives a command its input; one that does not read it is not waited for.
func feed(to *os.File, stream *channel.Stream) {
	if _, err := io.Copy(to, stream); err != nil {
		_, _ = io.Copy(io.Discard, stream)
	}
	to.Close()
}

// await waits for the command's end, or ends it when the request is cancelled.
func await(child *program.Child, stream *channel.Stream, terminal *os.File) int {
	over := stream.Over()
	for {
		select {
		case status := <-child.Exit:
			return program.ExitCode(status)
		case <-over:
			over = nil
			_ = syscall.Kill(-child.PID, syscall.SIGKILL)
		case command := <-stream.Commands():
			if len(command.Resize) == 2 && terminal != nil {
				_ = resize(terminal, command.Resize[0], command.Resize[1])
			}
			if command.Signal == "" {
				continue
			}
			if signal, err := program.ParseSignal(command.Signal); err == nil {
				_ = syscall.Kill(-child.PID, signal)
			}
		}
	}
}

// pump sends output until its end. After the command's end (a deadline is set then) what is there is still sent, but
// nobody waits for what its children in the background may write.
func pump(from *os.File, send func([]byte) (int, error)) {
	buffer := make([]byte, 32*1024)
	for {
		n, err := from.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			n = readRest(from, buffer)
			err = nil
		}
		if n > 0 {
			if _, failed := send(buffer[:n]); failed != nil {
				return
			}
		}
		if err != nil || n == 0 {
			return
		}
	}
}

// readRest reads without waiting.
func readRest(from *os.File, buffer []byte) int {
	raw, err := from.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) { n, _ = syscall.Read(int(fd), buffer) })
	return n
}

func closeAll(files *[3]*os.File) {
	for i, file := range files {
		if file != nil {
			file.Close()
		}
		files[i] = nil
	}
}
