// Package config is what the agent tells the guest: GuestConfig of vdc/model/guest.py, field by field.
//
// testdata/config.json is written by that model; a test on either side fails when the two drift apart.
package config

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Version of the form that this init reads.
const Version = 1

// Restart policies.
const (
	Always    = "Always"
	OnFailure = "OnFailure"
	Never     = "Never"
)

// Config is all of it.
type Config struct {
	Version     int        `json:"version"`
	Hostname    string     `json:"hostname"`
	Domain      string     `json:"domain"`
	Nameservers []string   `json:"nameservers"`
	NICs        []NIC      `json:"nics"`
	Volumes     []Volume   `json:"volumes"`
	EmptyDirs   []EmptyDir `json:"empty_dirs"`
	Files       []File     `json:"files"`
	Process     Process    `json:"process"`
	Seed        []byte     `json:"seed"`
}

// NIC is one NIC, recognised by its MAC.
type NIC struct {
	MAC     string `json:"mac"`
	Address string `json:"address"`
	Prefix  int    `json:"prefix"`
	MTU     int    `json:"mtu"`
	Gateway string `json:"gateway"`
}

// Volume is a disk (0 is the root) with an ext4 file system, and where it is mounted.
type Volume struct {
	Disk     int    `json:"disk"`
	Path     string `json:"path"`
	ReadOnly bool   `json:"read_only"`
}

// EmptyDir is a folder that is empty at each power-on. Its names are the manifest's.
type EmptyDir struct {
	Path      string `json:"path"`
	Medium    string `json:"medium"` // Memory, or the root disk
	SizeLimit int64  `json:"sizeLimit"`
	ReadOnly  bool   `json:"readOnly"`
}

// InMemory is the medium that is none of the disks.
const InMemory = "Memory"

// File is laid over the image's.
type File struct {
	Path    string `json:"path"`
	Content []byte `json:"content_base64"`
	Mode    uint32 `json:"mode"`
}

// Process is the program.
type Process struct {
	Argv           []string `json:"argv"`
	Env            []string `json:"env"`
	WorkingDir     string   `json:"working_dir"`
	User           string   `json:"user"`
	StopSignal     string   `json:"stop_signal"`
	StopSeconds    int      `json:"stop_seconds"`
	RestartPolicy  string   `json:"restart_policy"`
	Security       Security `json:"security_context"`
	StartupProbe   *Probe   `json:"startup_probe"`
	LivenessProbe  *Probe   `json:"liveness_probe"`
	ReadinessProbe *Probe   `json:"readiness_probe"`
}

// Security is what the program may do. Its names are the manifest's.
type Security struct {
	FSGroup                  *int         `json:"fsGroup"`
	SupplementalGroups       []int        `json:"supplementalGroups"`
	ReadOnlyRootFilesystem   bool         `json:"readOnlyRootFilesystem"`
	AllowPrivilegeEscalation bool         `json:"allowPrivilegeEscalation"`
	Capabilities             Capabilities `json:"capabilities"`
}

// Groups are those beside the account's own.
func (s Security) Groups() []int {
	groups := append([]int(nil), s.SupplementalGroups...)
	if s.FSGroup != nil {
		groups = append(groups, *s.FSGroup)
	}
	return groups
}

// Capabilities: a program has all but Drop; Add gives back what ALL took.
type Capabilities struct {
	Add  []string `json:"add"`
	Drop []string `json:"drop"`
}

// Probe has exactly one of Exec, HTTPGet and TCPSocket. Its names are the manifest's.
type Probe struct {
	Exec                *ExecProbe `json:"exec"`
	HTTPGet             *HTTPProbe `json:"httpGet"`
	TCPSocket           *TCPProbe  `json:"tcpSocket"`
	InitialDelaySeconds int        `json:"initialDelaySeconds"`
	PeriodSeconds       int        `json:"periodSeconds"`
	TimeoutSeconds      int        `json:"timeoutSeconds"`
	SuccessThreshold    int        `json:"successThreshold"`
	FailureThreshold    int        `json:"failureThreshold"`
}

// ExecProbe is well if the command ends with 0.
type ExecProbe struct {
	Command []string `json:"command"`
}

// HTTPProbe is well if a GET is answered with 200 to 399.
type HTTPProbe struct {
	Port    int          `json:"port"`
	Path    string       `json:"path"`
	Scheme  string       `json:"scheme"`
	Headers []HTTPHeader `json:"httpHeaders"`
}

// HTTPHeader is one header of a probe's request.
type HTTPHeader struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// TCPProbe is well if the port accepts a connection.
type TCPProbe struct {
	Port int `json:"port"`
}

// Parse reads the JSON text; what it does not know it leaves alone (a newer agent may say more).
func Parse(text []byte) (*Config, error) {
	read := Config{Process: Process{Security: Security{AllowPrivilegeEscalation: true}}}
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("the configuration cannot be read: %w", err)
	}
	if read.Version != Version {
		return nil, fmt.Errorf("the configuration has version %d, this init reads %d", read.Version, Version)
	}
	if len(read.Process.Argv) == 0 {
		return nil, errors.New("the configuration names no program")
	}
	switch read.Process.RestartPolicy {
	case Always, OnFailure, Never:
	default:
		return nil, fmt.Errorf("the configuration has no restart policy %q", read.Process.RestartPolicy)
	}
	for _, volume := range read.Volumes {
		if volume.Disk < 1 || volume.Disk > 25 {
			return nil, fmt.Errorf("volume %s is on disk %d, which is none", volume.Path, volume.Disk)
		}
	}
	for _, probe := range []*Probe{
		read.Process.StartupProbe, read.Process.LivenessProbe, read.Process.ReadinessProbe,
	} {
		if err := probe.check(); err != nil {
			return nil, err
		}
	}
	return &read, nil
}

func (p *Probe) check() error {
	if p == nil {
		return nil
	}
	kinds := 0
	for _, given := range []bool{p.Exec != nil, p.HTTPGet != nil, p.TCPSocket != nil} {
		if given {
			kinds++
		}
	}
	if kinds != 1 {
		return errors.New("a probe is exactly one of exec, httpGet and tcpSocket")
	}
	if p.PeriodSeconds < 1 || p.TimeoutSeconds < 1 || p.SuccessThreshold < 1 || p.FailureThreshold < 1 {
		return errors.New("a probe's period, timeout and thresholds are at least 1")
	}
	return nil
}
