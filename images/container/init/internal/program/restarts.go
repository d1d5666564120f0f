package program

import (
	"fmt"
	"time"

	"mycelium.network/init/internal/config"
)

// Kubernetes' times.
const (
	firstPause   = 10 * time.Second
	longestPause = 5 * time.Minute
	goodRun      = 10 * time.Minute
)

// backoff says how long to wait before the program is started again: not at all the first time, then 10 s, doubled
// each time up to 5 min; from the beginning after a run of 10 min.
type backoff struct{ next time.Duration }

func (b *backoff) after(ran time.Duration) time.Duration {
	if ran >= goodRun {
		b.next = 0
	}
	pause := b.next
	switch {
	case b.next == 0:
		b.next = firstPause
	case b.next < longestPause/2:
		b.next *= 2
	default:
		b.next = longestPause
	}
	return pause
}

// startsAgain tells whether the policy has a program that ended started again. One that a probe had ended is, except
// by Never: its exit code is then that of a clean end.
func startsAgain(policy string, code int, byProbe bool) bool {
	switch policy {
	case config.Always:
		return true
	case config.OnFailure:
		return code != 0 || byProbe
	}
	return false
}

// ending says how a run ended, in the words of a sentence.
func ending(code int, isOutOfMemory bool, probe string) string {
	switch {
	case isOutOfMemory:
		return "it was killed because the guest's memory was used up"
	case probe != "":
		return "it was ended because " + probe
	case code > 128:
		return fmt.Sprintf("signal %d killed it", code-128)
	}
	return fmt.Sprintf("it ended with the exit code %d", code)
}
