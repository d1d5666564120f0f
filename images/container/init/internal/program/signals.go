package program

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

// Real-time signals as the C library counts them: it keeps two for itself.
const (
	realTimeMin = 34
	realTimeMax = 64
)

var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "BUS": syscall.SIGBUS, "CHLD": syscall.SIGCHLD,
	"CLD": syscall.SIGCLD, "CONT": syscall.SIGCONT, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP,
	"ILL": syscall.SIGILL, "INT": syscall.SIGINT, "IO": syscall.SIGIO, "IOT": syscall.SIGIOT,
	"KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE, "POLL": syscall.SIGPOLL, "PROF": syscall.SIGPROF,
	"PWR": syscall.SIGPWR, "QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "STKFLT": syscall.SIGSTKFLT,
	"STOP": syscall.SIGSTOP, "SYS": syscall.SIGSYS, "TERM": syscall.SIGTERM, "TRAP": syscall.SIGTRAP,
	"TSTP": syscall.SIGTSTP, "TTIN": syscall.SIGTTIN, "TTOU": syscall.SIGTTOU, "URG": syscall.SIGURG,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "VTALRM": syscall.SIGVTALRM, "WINCH": syscall.SIGWINCH,
	"XCPU": syscall.SIGXCPU, "XFSZ": syscall.SIGXFSZ, "RTMIN": realTimeMin, "RTMAX": realTimeMax,
}

// ParseSignal reads TERM, SIGTERM, 15, SIGRTMIN+3; empty is SIGTERM.
func ParseSignal(text string) (syscall.Signal, error) {
	if text == "" {
		return syscall.SIGTERM, nil
	}
	if number, err := strconv.Atoi(text); err == nil && number >= 1 && number <= realTimeMax {
		return syscall.Signal(number), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if signal, known := signals[name]; known {
		return signal, nil
	}
	if len(name) > 5 && (strings.HasPrefix(name, "RTMIN+") || strings.HasPrefix(name, "RTMAX-")) {
		offset, err := strconv.Atoi(name[5:])
		signal := signals[name[:5]] + syscall.Signal(offset)
		if err == nil && signal >= realTimeMin && signal <= realTimeMax {
			return signal, nil
		}
	}
	return 0, fmt.Errorf("there is no signal %q", text)
}
