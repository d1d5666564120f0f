package program

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mycelium.network/init/internal/apart"
	"mycelium.network/init/internal/config"
)

// actName is this test binary inside of the image: it does what its arguments say.
const actName = "act"

// TestMain: real processes need mounts, which are made in a mount namespace of the test's own.
func TestMain(m *testing.M) {
	switch {
	case os.Args[0] == LaunchName:
		Launch()
	case filepath.Base(os.Args[0]) == actName:
		os.Exit(act(os.Args[1:]))
	}
	os.Exit(apart.Run(m))
}

func act(argv []string) int {
	switch argv[0] {
	case "exit":
		var code int
		_, _ = fmt.Sscan(argv[1], &code)
		return code
	case "where":
		folder, _ := os.Getwd()
		groups, _ := os.Getgroups()
		fmt.Println(os.Getpid(), os.Getuid(), os.Getgid(), groups, folder, os.Getenv("HOME"), os.Getenv("X"))
		again, err := os.OpenFile("/proc/self/fd/1", os.O_WRONLY, 0)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Fprintln(again, "opened again")
		names, _ := os.ReadDir("/")
		for _, name := range names {
			fmt.Fprint(os.Stderr, name.Name(), " ")
		}
		return 0
	case "rights":
		status, _ := os.ReadFile("/proc/self/status")
		for _, line := range strings.Split(string(status), "\n") {
			if strings.HasPrefix(line, "CapBnd") || strings.HasPrefix(line, "NoNewPrivs") {
				fmt.Println(strings.Fields(line)[1])
			}
		}
		groups, _ := os.Getgroups()
		fmt.Println(groups, os.WriteFile("/file", nil, 0o600), os.WriteFile("/memory/file", nil, 0o600))
		return 0
	case "trap":
		came := make(chan os.Signal, 1)
		signal.Notify(came, syscall.SIGTERM, syscall.SIGUSR1)
		fmt.Println("ready")
		if <-came == syscall.SIGUSR1 {
			return 8
		}
		return 7
	case "ignore":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		select {}
	case "orphan":
		child := exec.Command("/bin/"+actName, "ignore")
		child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
		return map[bool]int{true: 0, false: 1}[child.Start() == nil]
	}
	return 99
}

// world is an image that is mounted, and a supervisor over it.
type world struct {
	*Supervisor
	mu   sync.Mutex
	said map[string]*bytes.Buffer // by stream
	news chan struct{}
}

var (
	oneReaper sync.Once
	theReaper *Reaper
)

// reaper is one for all tests: it takes every child's exit.
func reaper() *Reaper {
	oneReaper.Do(func() { theReaper = NewReaper() })
	return theReaper
}

func newWorld(t *testing.T, told config.Process) *world {
	t.Helper()
	image := apart.Image(t)
	self, err := os.ReadFile("/proc/self/exe")
	check(t, err)
	for _, folder := range []string{"bin", "proc", "dev", "etc"} {
		check(t, os.Mkdir(filepath.Join(image, folder), 0o755))
	}
	check(t, os.WriteFile(filepath.Join(image, "bin", actName), self, 0o755))
	check(t, os.WriteFile(filepath.Join(image, "bin", "plain"), []byte("text"), 0o644))
	check(t, os.WriteFile(filepath.Join(image, "bin", "foreign"), []byte("\x7fELF but not"), 0o755))
	check(t, os.WriteFile(filepath.Join(image, "etc", "passwd"), []byte("app:x:1000:1001::/srv/app:\n"), 0o644))
	check(t, os.WriteFile(filepath.Join(image, "etc", "group"), []byte("extra:x:1002:app\n"), 0o644))
	if told.RestartPolicy == "" {
		told.RestartPolicy = config.Never
	}
	w := &world{
		news: make(chan struct{}, 1000), said: map[string]*bytes.Buffer{"stdout": {}, "stderr": {}},
	}
	w.Supervisor = NewSupervisor(&told, &Runner{Reaper: reaper(), Image: image}, NewBoard())
	w.Output = func(stream string, from io.Reader) {
		buffer := make([]byte, 1000)
		for {
			n, err := from.Read(buffer)
			w.mu.Lock()
			w.said[stream].Write(buffer[:n])
			w.mu.Unlock()
			w.news <- struct{}{}
			if err != nil {
				return
			}
		}
	}
	return w
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) output() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said["stdout"].String() + w.said["stderr"].String()
}

// awaitOutput waits until the program has said it so often.
func (w *world) awaitOutput(t *testing.T, text string, times int) {
	t.Helper()
	late := time.After(20 * time.Second)
	for strings.Count(w.output(), text) < times {
		select {
		case <-w.news:
		case <-late:
			t.Fatalf("%q was not said: %q, %+v", text, w.output(), w.Board.Get())
		}
	}
}

// awaitRunning waits until the program has been started so often anew and says that it is ready, and returns its PID.
func (w *world) awaitRunning(t *testing.T, restarts int) int {
	t.Helper()
	w.awaitOutput(t, "ready", restarts+1)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		status := w.Board.Get()
		if status.State == Running && status.Restarts == restarts {
			return status.PID
		}
		if time.Now().After(end) {
			t.Fatalf("%+v", status)
		}
	}
}

func TestWhatTheProgramFinds(t *testing.T) {
	w := newWorld(t, config.Process{
		Argv: []string{actName, "where"}, Env: []string{"X=y z"}, WorkingDir: "/new/folder", User: "app",
	})
	ended := w.once()
	if ended.code != 0 || !strings.HasPrefix(w.output(), "1 1000 1001 [1002] /new/folder /srv/app y z\nopened again\n") {
		t.Errorf("%+v %s", ended, w.output())
	}
	if !strings.Contains(w.output(), "bin dev etc new proc ") || strings.Contains(w.output(), "usr") {
		t.Error("its root is not the image:", w.output())
	}
}

func TestWhatTheProgramMayDo(t *testing.T) {
	group := 50
	told := config.Process{Argv: []string{actName, "rights"}, Security: config.Security{
		FSGroup: &group, SupplementalGroups: []int{60}, ReadOnlyRootFilesystem: true,
		Capabilities: config.Capabilities{Drop: []string{"ALL"}, Add: []string{"CHOWN", "NET_RAW"}},
	}}
	w := newWorld(t, told)
	check(t, os.Mkdir(filepath.Join(w.Runner.Image, "memory"), 0o755))
	check(t, syscall.Mount("tmpfs", filepath.Join(w.Runner.Image, "memory"), "tmpfs", 0, ""))
	const want = "0000000000002001\n1\n[50 60] open /file: read-only file system <nil>\n"
	if ended := w.once(); ended.code != 0 || w.output() != want {
		t.Errorf("%+v %s", ended, w.output())
	}
	told.Security.Capabilities.Drop = []string{"NOTHING"}
	w = newWorld(t, told)
	if ended := w.once(); ended.code != CannotRun || !strings.Contains(ended.reason, "no capability NOTHING") {
		t.Errorf("%+v", ended)
	}
}

func TestCapabilities(t *testing.T) {
	all, err := dropped(config.Capabilities{Drop: []string{"ALL"}})
	if err != nil || len(all) != 41 || all[40] != 40 {
		t.Error(all, err)
	}
	if some, err := dropped(config.Capabilities{Drop: []string{"SYS_ADMIN", "CAP_BPF"}}); err != nil || fmt.Sprint(some) != "[21 39]" {
		t.Error(some, err)
	}
	if _, err := dropped(config.Capabilities{Add: []string{"WORLD"}}); err == nil {
		t.Error("an unknown one is added")
	}
}

func TestExitCodes(t *testing.T) {
	for command, want := range map[string]int{
		actName + " exit 3": 3, "/bin/" + actName + " exit 0": 0, "none": 127, "/bin/none": 127, "plain": 126, "foreign": 126, "/bin": 126,
		"./bin/" + actName + " exit 4": 4,
	} {
		w := newWorld(t, config.Process{Argv: strings.Fields(command)})
		ended := w.once()
		if ended.code != want || ended.reason == "" {
			t.Errorf("%s: %+v", command, ended)
		}
	}
	w := newWorld(t, config.Process{Argv: []string{actName, "exit", "0"}, User: "nobody"})
	if ended := w.once(); ended.code != CannotRun || !strings.Contains(ended.reason, `no user "nobody"`) {
		t.Errorf("%+v", ended)
	}
}

func TestStopBySignalAndByForce(t *testing.T) {
	for _, c := range []struct {
		what, signal string
		grace        time.Duration
		code         int
	}{{"trap", "", time.Minute, 7}, {"trap", "USR1", time.Minute, 8}, {"ignore", "", time.Millisecond, 137}} {
		w := newWorld(t, config.Process{Argv: []string{actName, c.what}, StopSignal: c.signal, RestartPolicy: config.Always})
		over := make(chan struct{})
		go func() {
			w.Run()
			close(over)
		}()
		w.awaitRunning(t, 0)
		if status := w.Board.Get(); status.State != Running || !status.Ready || status.PID == 0 || status.StartedAt == "" {
			t.Errorf("%+v", status)
		}
		w.Stop(c.grace)
		<-over
		if status := w.Board.Get(); status.State != Ended || *status.ExitCode != c.code || status.PID != 0 {
			t.Errorf("%s: %+v, %d", c.what, status, *status.ExitCode)
		}
		w.Restart() // is answered by nobody, and waits for nobody
	}
}

func TestRestartOnRequestAndAfterTheFirstCrash(t *testing.T) {
	w := newWorld(t, config.Process{Argv: []string{actName, "trap"}, RestartPolicy: config.OnFailure, StopSeconds: 60})
	over := make(chan struct{})
	go func() {
		w.Run()
		close(over)
	}()
	w.awaitRunning(t, 0)
	w.Restart()
	check(t, syscall.Kill(w.awaitRunning(t, 1), syscall.SIGUSR1))
	check(t, syscall.Kill(w.awaitRunning(t, 2), syscall.SIGUSR1))
	for end := time.Now().Add(20 * time.Second); w.Board.Get().State != Waiting; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", w.Board.Get())
		}
	}
	status := w.Board.Get()
	if status.Reason != "it ended with the exit code 8; it is started again after 10 s" || *status.ExitCode != 8 {
		t.Errorf("%+v", status)
	}
	w.Restart() // ends the pause
	w.awaitRunning(t, 3)
	w.Stop(time.Minute)
	<-over
}

func TestAProbeEndsIt(t *testing.T) {
	w := newWorld(t, config.Process{Argv: []string{actName, "trap"}, StopSeconds: 60})
	w.WaitsFor = "nobody asked yet"
	w.Probes = func(done <-chan struct{}, ready func(bool, string), unwell func(string)) {
		go func() {
			w.awaitOutput(t, "ready", 1)
			if w.Board.Get().Ready {
				t.Error("ready before it was asked")
			}
			ready(true, "")
			if !w.Board.Get().Ready {
				t.Error("not ready")
			}
			unwell("the liveness probe failed: so")
			unwell("again")
		}()
	}
	if ended := w.once(); ended.code != 7 || !ended.probe || ended.reason != "it was ended because the liveness probe failed: so" {
		t.Errorf("%+v", ended)
	}
}

func TestWhatTheProgramLeavesBehindEndsWithIt(t *testing.T) {
	w := newWorld(t, config.Process{Argv: []string{actName, "orphan"}})
	if ended := w.once(); ended.code != 0 { // and its output ended: nothing holds it open any more
		t.Errorf("%+v", ended)
	}
}

func TestNobodySeesMoreThanTheImageWhileTheProgramStarts(t *testing.T) {
	w := newWorld(t, config.Process{Argv: []string{actName, "exit", "0"}})
	over := make(chan struct{})
	go func() {
		defer close(over)
		for i := 0; i < 30; i++ {
			w.once()
		}
	}()
	for views := 0; ; views++ {
		err := w.Runner.View(func() error {
			_, err := os.Stat("/usr")
			return err
		})
		if err == nil {
			t.Fatalf("view %d is outside of the image", views)
		}
		select {
		case <-over:
			return
		default:
		}
	}
}

func TestExecBesideTheProgram(t *testing.T) {
	w := newWorld(t, config.Process{Argv: []string{actName, "trap"}})
	run := func(spec Spec) (string, int) {
		reader, writer, err := os.Pipe()
		check(t, err)
		null, err := os.Open(os.DevNull)
		check(t, err)
		defer null.Close()
		spec.OwnStreams = true
		child, err := w.Runner.Exec(spec, [3]*os.File{null, writer, writer}, false)
		writer.Close()
		var refused *StartError
		if errors.As(err, &refused) {
			return refused.Message, refused.Code
		}
		check(t, err)
		said, err := io.ReadAll(reader)
		check(t, err)
		return string(said), ExitCode(<-child.Exit)
	}
	// Without the program: the image alone, with no /proc of its own here.
	if said, code := run(Spec{Argv: []string{actName, "exit", "5"}}); code != 5 {
		t.Error(said, code)
	}
	over := make(chan struct{})
	go func() {
		w.Run()
		close(over)
	}()
	w.awaitOutput(t, "ready", 1)
	said, code := run(Spec{Argv: []string{actName, "where"}, User: "1000", Dir: "/bin", Env: []string{"X=1"}})
	if code != 0 || !strings.Contains(said, " 1000 1001 [1002] /bin /srv/app 1\nopened again\n") || strings.HasPrefix(said, "1 ") {
		t.Error(said, code)
	}
	restricted := config.Security{Capabilities: config.Capabilities{Drop: []string{"ALL"}}}
	said, code = run(Spec{Argv: []string{actName, "rights"}, Security: restricted})
	if code != 0 || !strings.HasPrefix(said, "0000000000000000\n1\n") {
		t.Error(said, code)
	}
	if text, _ := os.ReadFile("/proc/self/status"); strings.Contains(string(text), "NoNewPrivs:\t1") {
		t.Error("the init itself is restricted")
	}
	if said, code := run(Spec{Argv: []string{"none"}}); code != NotFound {
		t.Error(said, code)
	}
	w.Stop(time.Minute)
	<-over
}
