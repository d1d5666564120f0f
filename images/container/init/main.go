// The init of container guests: the first process of a VM whose disk is a container image's files. It makes what the
// program finds (file systems, network, names), runs it as a container runtime would, and answers the agent on the
// guest channel (docs/guest-channel.md). It stays in the initrd, outside of the image, and needs nothing of it.
//
// It is one program, of the standard library alone. While nothing happens it does not wake up: every page that it
// writes has to be copied to the other host of a pair.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"mycelium.network/init/internal/channel"
	"mycelium.network/init/internal/program"
	"mycelium.network/init/internal/serve"
	"mycelium.network/init/internal/system"
)

const (
	channelPort = "mycelium.network.guest.0"
	outputPort  = "mycelium.network.output.0"
	configFile  = "opt/mycelium.network/config"
	moduleDir   = "/lib/modules"
	imageDir    = "/image"
	imageDisk   = 0

	portPatience = 30 * time.Second
	lastWords    = 2 * time.Second
	memoryLimit  = 24 << 20
)

func main() {
	if os.Args[0] == program.LaunchName {
		program.Launch()
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this is the init of a container guest: it has to be the first process")
		os.Exit(2)
	}
	// Garbage is collected when there is much of it, never because time has passed.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
	runtime.GOMAXPROCS(1)

	guest := newGuest()
	if err := guest.prepare(); err != nil {
		guest.giveUp(err)
	} else if err := guest.run(); err != nil {
		guest.giveUp(err)
	}
	select {}
}

// guest is everything that this process knows.
type guest struct {
	machine    *serve.Machine
	supervisor chan *program.Supervisor // one value, put back by whoever looks
}

func newGuest() *guest {
	g := &guest{supervisor: make(chan *program.Supervisor, 1)}
	g.supervisor <- nil
	g.machine = &serve.Machine{
		Runner: &program.Runner{Reaper: program.NewReaper(), Image: imageDir},
		Board:  program.NewBoard(),
		Disks:  &serve.Disks{},
		Supervisor: func() *program.Supervisor {
			supervisor := <-g.supervisor
			g.supervisor <- supervisor
			return supervisor
		},
		Leave: func() { system.Quiesce(g.machine.Disks.Folders(), system.RemountReadOnly) },
	}
	return g
}

// giveUp: the machine stays, so that the agent can ask why.
func (g *guest) giveUp(err error) {
	fmt.Fprintln(os.Stderr, "mycelium: the program cannot be started:", err)
	g.machine.Board.GiveUp(err.Error())
}

// speak answers the agent from now on, whatever else becomes of this guest.
func (g *guest) speak() {
	port, err := system.OpenPort(channelPort, portPatience)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mycelium:", err)
		g.machine.PowerOff = system.PowerOff
		return
	}
	session := channel.NewSession(port, g.machine.Handle)
	g.machine.PowerOff = func() {
		session.Flush(lastWords)
		system.PowerOff()
	}
	err = session.Run()
	fmt.Fprintln(os.Stderr, "mycelium: the channel to the agent broke:", err)
}

// obey ends the guest at the power button and at ctrl-alt-del.
func (g *guest) obey() {
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_CAD_OFF)
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		if system.AwaitPowerButton() {
			asked <- syscall.SIGTERM
		}
	}()
	go func() {
		<-asked
		grace := time.Duration(0)
		if told := g.machine.Told; told != nil {
			grace = time.Duration(told.StopSeconds) * time.Second
		}
		g.machine.End(grace)
		system.PowerOff()
	}()
}
