package config

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
)

func sample(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/config.json")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestWhatTheAgentWrites(t *testing.T) {
	read, err := Parse(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	group := 2000
	want := &Config{
		Version: 1, Hostname: "web", Domain: "example.test", Nameservers: []string{"10.0.0.1"},
		NICs:      []NIC{{"52:54:00:00:00:01", "10.0.0.5", 24, 1400, "10.0.0.1"}},
		Volumes:   []Volume{{1, "/data", true}},
		EmptyDirs: []EmptyDir{{"/run/scratch", InMemory, 1 << 20, true}},
		Files:     []File{{"/etc/app.conf", []byte("a=1\n\x00\xff"), 0o640}},
		Seed:      []byte("random bytes"),
		Process: Process{
			Argv: []string{"/bin/app", "--flag", "ä \"quoted\" <&>"}, Env: []string{"A=1", "B=x=y"}, WorkingDir: "/srv",
			User: "app:web", StopSignal: "SIGQUIT", StopSeconds: 45, RestartPolicy: OnFailure,
			Security: Security{
				FSGroup: &group, SupplementalGroups: []int{7, 8}, ReadOnlyRootFilesystem: true,
				Capabilities: Capabilities{Add: []string{"CHOWN"}, Drop: []string{"ALL"}},
			},
			StartupProbe: &Probe{
				Exec: &ExecProbe{[]string{"test", "-e", "/tmp/up"}}, PeriodSeconds: 1, TimeoutSeconds: 2, SuccessThreshold: 1,
				FailureThreshold: 30,
			},
			LivenessProbe: &Probe{
				TCPSocket: &TCPProbe{5432}, PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3,
			},
			ReadinessProbe: &Probe{
				HTTPGet:             &HTTPProbe{8443, "/ready?full=1", "HTTPS", []HTTPHeader{{"X-Probe", "yes"}}},
				InitialDelaySeconds: 5, PeriodSeconds: 3, TimeoutSeconds: 4, SuccessThreshold: 2, FailureThreshold: 6,
			},
		},
	}
	if !reflect.DeepEqual(read, want) {
		t.Errorf("%+v", read)
	}
}

func TestNothingThatTheAgentWritesIsLeftAlone(t *testing.T) {
	decoder := json.NewDecoder(strings.NewReader(string(sample(t))))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&Config{}); err != nil {
		t.Error(err)
	}
}

func TestWhatIsLeftOut(t *testing.T) {
	read, err := Parse([]byte(`{"version": 1, "process": {"argv": ["a"], "restart_policy": "Never"}, "later": {}}`))
	if err != nil || !read.Process.Security.AllowPrivilegeEscalation {
		t.Error(read, err)
	}
}

func TestBadConfigurations(t *testing.T) {
	for text, want := range map[string]string{
		"": "cannot be read", "[]": "cannot be read", `{"version": 2}`: "version 2", "{}": "version 0",
		`{"version": 1}`: "no program",
		`{"version": 1, "process": {"argv": ["a"], "restart_policy": "Maybe"}}`:                               `"Maybe"`,
		`{"version": 1, "volumes": [{"disk": 0}], "process": {"argv": ["a"], "restart_policy": "Never"}}`:     "disk 0",
		`{"version": 1, "volumes": [{"disk": 26}], "process": {"argv": ["a"], "restart_policy": "Never"}}`:    "disk 26",
		`{"version": 1, "process": {"argv": ["a"], "restart_policy": "Never", "liveness_probe": {}}}`:         "exactly one",
		`{"version": 1, "files": [{"content_base64": "%"}], "process": {"argv": ["a"]}}`:                      "cannot be read",
		`{"version": 1, "process": {"argv": ["a"], "restart_policy": "Never", "startup_probe": {"exec":{}}}}`: "at least 1",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
