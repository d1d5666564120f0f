// Onhost is the init's machinery on a host, for tests without a machine: it runs a program in a folder that stands for
// the image, and answers at a unix socket as the init answers at its port. It mounts nothing but that folder; whoever
// starts it gives it namespaces of its own.
//
//	onhost SOCKET IMAGE CONFIG OUTPUT
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"mycelium.network/init/internal/channel"
	"mycelium.network/init/internal/config"
	"mycelium.network/init/internal/output"
	"mycelium.network/init/internal/program"
	"mycelium.network/init/internal/serve"
)

func main() {
	if os.Args[0] == program.LaunchName {
		program.Launch()
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(socket, image, configFile, log string) error {
	if err := syscall.Mount(image, image, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return err
	}
	text, err := os.ReadFile(configFile)
	if err != nil {
		return err
	}
	told, err := config.Parse(text)
	if err != nil {
		return err
	}
	said, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	board := program.NewBoard()
	runner := &program.Runner{Reaper: program.NewReaper(), Image: image}
	supervisor := program.NewSupervisor(&told.Process, runner, board)
	supervisor.Output = output.New(said).Copy
	machine := &serve.Machine{
		Told: &told.Process, Runner: runner, Board: board, Disks: &serve.Disks{},
		Supervisor: func() *program.Supervisor { return supervisor },
		Leave:      func() {},
		PowerOff: func() {
			time.Sleep(time.Second) // what was answered is on its way
			os.Exit(0)
		},
	}
	// Under its name it is there once it can be connected to.
	listener, err := net.Listen("unix", socket+".new")
	if err == nil {
		err = os.Rename(socket+".new", socket)
	}
	if err != nil {
		return err
	}
	connections := make(chan net.Conn)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				close(connections)
				return
			}
			connections <- connection
		}
	}()
	go supervisor.Run()
	return channel.NewSession(&port{next: connections}, machine.Handle).Run()
}

// port is one connection after the other, as the host's side of a virtio port is.
type port struct {
	net.Conn
	next chan net.Conn
}

func (p *port) Read(b []byte) (int, error) {
	if p.Conn == nil {
		connection, open := <-p.next
		if !open {
			return 0, errors.New("nobody can connect any more")
		}
		p.Conn = connection
	}
	n, err := p.Conn.Read(b)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		p.Conn, err = nil, io.EOF
	}
	return n, err
}

func (p *port) Write(b []byte) (int, error) {
	if connection := p.Conn; connection != nil {
		return connection.Write(b)
	}
	return 0, io.ErrClosedPipe
}

func (p *port) SetReadDeadline(t time.Time) error {
	if connection := p.Conn; connection != nil {
		return connection.SetReadDeadline(t)
	}
	return nil
}

func (p *port) SetWriteDeadline(t time.Time) error {
	if connection := p.Conn; connection != nil {
		return connection.SetWriteDeadline(t)
	}
	return nil
}
