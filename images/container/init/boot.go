package main

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"mycelium.network/init/internal/config"
	"mycelium.network/init/internal/output"
	"mycelium.network/init/internal/probe"
	"mycelium.network/init/internal/program"
	"mycelium.network/init/internal/system"
)

// sysctls that programs in containers expect: ports below 1024 and ping for every user, as Docker and containerd
// set them; and the one that search engines ask for and that no container can set itself.
var sysctls = map[string]string{
	"net/ipv4/ip_unprivileged_port_start": "0",
	"net/ipv4/ping_group_range":           "0 2147483647",
	"vm/max_map_count":                    "262144",
	// The kernel looks twice a second whether memory should be moved about, by default: an idle guest sleeps.
	"vm/compaction_proactiveness": "0",
}

// prepare makes the machine itself usable, up to the channel.
func (g *guest) prepare() error {
	if err := system.MountOwn(); err != nil {
		return err
	}
	if err := system.QuietNetwork(); err != nil {
		return err
	}
	err := system.LoadModules(moduleDir)
	// The ports may be there even so, and the agent wants to know.
	go g.speak()
	g.obey()
	if err != nil {
		return err
	}
	for name, value := range sysctls {
		if err := system.WriteSysctl(name, value); err != nil {
			return err
		}
	}
	return program.LimitFiles()
}

// run does what the configuration says; it returns when the program was stopped for good, or never came to start.
func (g *guest) run() error {
	text, err := system.ReadFirmwareFile(configFile)
	if err != nil {
		return err
	}
	told, err := config.Parse(text)
	if err != nil {
		return err
	}
	g.machine.Told = &told.Process
	if err := system.AddEntropy(told.Seed); err != nil {
		return err
	}
	if err := g.furnish(told); err != nil {
		return err
	}
	supervisor := program.NewSupervisor(&told.Process, g.machine.Runner, g.machine.Board)
	supervisor.Output = openOutput()
	probes := g.probes(told)
	supervisor.Probes, supervisor.WaitsFor = probes.Watch, probes.WaitsFor()
	<-g.supervisor
	g.supervisor <- supervisor
	supervisor.Run()
	return nil
}

// furnish makes what the program finds: names, network, the image's file system and what belongs over it.
func (g *guest) furnish(told *config.Config) error {
	if err := system.SetNames(told); err != nil {
		return err
	}
	if err := system.SetUpNetwork(told.NICs); err != nil {
		return err
	}
	if err := system.MountExt4(system.Disk(imageDisk), imageDir, false); err != nil {
		return err
	}
	g.machine.Disks.Add(imageDir)
	if err := system.InRoot(imageDir, system.MountInImage); err != nil {
		return err
	}
	volumes, err := system.Furnish(told, imageDir)
	g.machine.Disks.Add(volumes...)
	return err
}

// openOutput finds where the program's output goes: the console, where there is no port for it.
func openOutput() func(string, io.Reader) {
	port, err := system.OpenPort(outputPort, portPatience)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mycelium: what the program says goes to the console:", err)
		return output.New(os.Stderr).Copy
	}
	return output.New(port).Copy
}

func (g *guest) probes(told *config.Config) *probe.Set {
	host := "127.0.0.1"
	if len(told.NICs) > 0 {
		host = told.NICs[0].Address
	}
	return &probe.Set{
		Startup: told.Process.StartupProbe, Liveness: told.Process.LivenessProbe,
		Readiness: told.Process.ReadinessProbe, Sleep: probe.Sleep,
		Ask: func(asked *config.Probe, done <-chan struct{}) error {
			most := time.Duration(asked.TimeoutSeconds) * time.Second
			switch {
			case asked.TCPSocket != nil:
				return probe.AskTCP(host, asked.TCPSocket.Port, most)
			case asked.HTTPGet != nil:
				return probe.AskHTTP(host, asked.HTTPGet, most)
			}
			return g.askCommand(asked.Exec.Command, most, done)
		},
	}
}

// askCommand runs a probe's command as the program's user, in its surroundings.
func (g *guest) askCommand(argv []string, most time.Duration, done <-chan struct{}) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	spec := program.SpecOf(g.machine.Told)
	spec.Argv = argv
	child, err := g.machine.Runner.Exec(spec, [3]*os.File{null, null, null}, false)
	if err != nil {
		return err
	}
	timer := time.NewTimer(most)
	defer timer.Stop()
	isLate := false
	for {
		select {
		case status := <-child.Exit:
			switch code := program.ExitCode(status); {
			case isLate:
				return fmt.Errorf("the command did not end within %s", most)
			case code != 0:
				return fmt.Errorf("the command ended with the exit code %d", code)
			}
			return nil
		case <-timer.C:
			isLate = true
			_ = syscall.Kill(-child.PID, syscall.SIGKILL)
		case <-done:
			done = nil
			_ = syscall.Kill(-child.PID, syscall.SIGKILL)
		}
	}
}
