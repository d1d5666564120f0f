// Package serve answers the agent's requests (docs/guest-channel.md).
package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"mycelium.network/init/internal/archive"
	"mycelium.network/init/internal/channel"
	"mycelium.network/init/internal/config"
	"mycelium.network/init/internal/program"
	"mycelium.network/init/internal/system"
)

const longestGrace = time.Hour

// Machine is the guest, as far as a request can change it.
type Machine struct {
	Told   *config.Process
	Runner *program.Runner
	Board  *program.Board
	// Supervisor is nil where the program never came to be started.
	Supervisor func() *program.Supervisor
	Disks      *Disks
	// Leave ends everything and writes the disks; PowerOff does not return.
	Leave, PowerOff func()
}

// request is OPEN's payload, of any operation.
type request struct {
	Op         string   `json:"op"`
	Argv       []string `json:"argv"`
	Env        []string `json:"env"`
	WorkingDir string   `json:"working_dir"`
	User       string   `json:"user"`
	TTY        bool     `json:"tty"`
	Rows       uint16   `json:"rows"`
	Columns    uint16   `json:"columns"`
	Path       string   `json:"path"`
	Seconds    float64  `json:"seconds"`
}

// Handle is the channel's handler.
func (m *Machine) Handle(stream *channel.Stream, payload []byte) (channel.Answer, error) {
	var asked request
	if err := json.Unmarshal(payload, &asked); err != nil {
		return nil, errors.New("the request is not JSON")
	}
	switch asked.Op {
	case "status":
		return channel.Answer{"status": m.Board.Get()}, nil
	case "exec":
		return m.exec(stream, &asked)
	case "read":
		return m.read(stream, &asked)
	case "write":
		return m.write(stream, &asked)
	case "stop":
		return m.stop(stream, &asked)
	case "restart":
		return m.restart()
	case "freeze":
		return m.freeze(&asked)
	case "thaw":
		return channel.Answer{"frozen": m.Disks.Thaw()}, nil
	case "addresses":
		nics, err := system.NICs()
		return channel.Answer{"nics": nics}, err
	}
	return nil, fmt.Errorf("there is no operation %q", asked.Op)
}

func (m *Machine) read(stream *channel.Stream, asked *request) (channel.Answer, error) {
	if err := checkPath(asked.Path); err != nil {
		return nil, err
	}
	err := m.Runner.View(func() error { return archive.Pack(writer{stream.Write}, asked.Path) })
	stream.EndOutput()
	return nil, err
}

func (m *Machine) write(stream *channel.Stream, asked *request) (channel.Answer, error) {
	if err := checkPath(asked.Path); err != nil {
		return nil, err
	}
	files := 0
	err := m.Runner.View(func() (err error) {
		files, err = archive.Unpack(stream, path.Clean(asked.Path))
		return err
	})
	return channel.Answer{"files": files}, err
}

func checkPath(text string) error {
	if !path.IsAbs(text) || strings.Contains(text, "\x00") {
		return errors.New("the path is not absolute")
	}
	return nil
}

func (m *Machine) restart() (channel.Answer, error) {
	supervisor := m.Supervisor()
	if supervisor == nil {
		return nil, errors.New("the program was never started: " + m.Board.Get().Reason)
	}
	supervisor.Restart()
	return nil, nil
}

func (m *Machine) stop(stream *channel.Stream, asked *request) (channel.Answer, error) {
	m.End(seconds(asked.Seconds, longestGrace))
	stream.AfterAnswer(m.PowerOff)
	return nil, nil
}

// End ends the program and leaves the disks; what remains is to power off.
func (m *Machine) End(grace time.Duration) {
	m.Disks.Thaw()
	if supervisor := m.Supervisor(); supervisor != nil {
		supervisor.Stop(grace)
	}
	m.Disks.Thaw()
	m.Leave()
}

func (m *Machine) freeze(asked *request) (channel.Answer, error) {
	most := seconds(asked.Seconds, longestFreeze)
	if most < time.Second {
		return nil, errors.New("seconds has to be at least 1")
	}
	frozen, err := m.Disks.Freeze(most)
	return channel.Answer{"frozen": frozen}, err
}

func seconds(wanted float64, most time.Duration) time.Duration {
	if wanted < 0 {
		return 0
	}
	if wanted > most.Seconds() {
		return most
	}
	return time.Duration(wanted * float64(time.Second))
}

type writer struct{ write func([]byte) (int, error) }

func (w writer) Write(p []byte) (int, error) { return w.write(p) }
