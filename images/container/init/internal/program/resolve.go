package program

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"mycelium.network/init/internal/config"
)

// Exit codes of what could not be started, as a shell has them.
const (
	CannotRun = 126
	NotFound  = 127
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Spec is what to start.
type Spec struct {
	Argv []string
	Env  []string
	Dir  string
	User string
	// What it may do.
	Security config.Security
	// Output and errors are pipes of this process's alone, and may be given to its user.
	OwnStreams bool
}

// Resolved is a Spec with everything looked up in the image.
type Resolved struct {
	Path    string
	Argv    []string
	Env     []string
	Dir     string
	Account Account
}

// StartError says why a process could not be started, with the exit code that stands for it.
type StartError struct {
	Code    int
	Message string
}

func (e *StartError) Error() string { return e.Message }

// Resolve looks a spec up; the caller's root is the image. The working directory is made where it is absent.
func Resolve(spec Spec) (*Resolved, error) {
	account, err := FindAccount(spec.User)
	if err != nil {
		return nil, &StartError{CannotRun, err.Error()}
	}
	for _, group := range spec.Security.Groups() {
		account.Groups = append(account.Groups, group)
	}
	dir := path.Clean("/" + spec.Dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, &StartError{CannotRun, "the working directory cannot be made: " + err.Error()}
	}
	if len(spec.Argv) == 0 || spec.Argv[0] == "" {
		return nil, &StartError{NotFound, "there is no command"}
	}
	env := environment(spec.Env, account)
	program, err := findProgram(spec.Argv[0], dir, lookup(env, "PATH"))
	if err != nil {
		return nil, err
	}
	return &Resolved{program, spec.Argv, env, dir, account}, nil
}

// environment adds what every container has. The last one of a name counts.
func environment(given []string, account Account) []string {
	var env []string
	at := map[string]int{}
	add := func(variable string) {
		name, _, _ := strings.Cut(variable, "=")
		if i, there := at[name]; there {
			env[i] = variable
			return
		}
		at[name] = len(env)
		env = append(env, variable)
	}
	for _, variable := range given {
		add(variable)
	}
	host, _ := os.Hostname()
	for _, variable := range []string{"PATH=" + defaultPath, "HOSTNAME=" + host, "HOME=" + account.Home} {
		name, _, _ := strings.Cut(variable, "=")
		if _, there := at[name]; !there {
			add(variable)
		}
	}
	return env
}

func lookup(env []string, name string) string {
	for _, variable := range env {
		if found, value, _ := strings.Cut(variable, "="); found == name {
			return value
		}
	}
	return ""
}

func findProgram(name, dir, searched string) (string, error) {
	if strings.Contains(name, "/") {
		return isProgram(name, at(name, dir))
	}
	refused := error(&StartError{NotFound, "there is no program " + name + " in PATH"})
	for _, folder := range strings.Split(searched, ":") {
		program, err := isProgram(name, path.Join(at(folder, dir), name))
		if err == nil {
			return program, nil
		}
		var start *StartError
		if errors.As(err, &start) && start.Code == CannotRun {
			refused = err
		}
	}
	return "", refused
}

func at(name, dir string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(dir, name)
}

func isProgram(name, file string) (string, error) {
	stat, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return "", &StartError{NotFound, "there is no program " + name}
	case err != nil:
		return "", &StartError{CannotRun, err.Error()}
	case stat.IsDir():
		return "", &StartError{CannotRun, name + " is a folder"}
	case stat.Mode()&0o111 == 0:
		return "", &StartError{CannotRun, name + " is not executable"}
	}
	return file, nil
}

// startError says what execve's error means.
func startError(name string, err error) *StartError {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return &StartError{NotFound, name + ": the interpreter or library loader that it names is not there"}
	case errors.Is(err, syscall.ENOEXEC):
		return &StartError{CannotRun, name + " is no program for this processor, and no script with a first line"}
	case errors.Is(err, syscall.EACCES):
		return &StartError{CannotRun, "its user may not run " + name + ", or not enter the working directory"}
	case errors.Is(err, syscall.E2BIG):
		return &StartError{CannotRun, "arguments and environment are too long together"}
	}
	return &StartError{CannotRun, name + " cannot be started: " + err.Error()}
}
