package probe

import (
	"time"

	"mycelium.network/init/internal/config"
)

// Ask asks once and returns nil if all is well, else what is not. It ends soon after done is closed.
type Ask func(probe *config.Probe, done <-chan struct{}) error

// Set is the probes of a program; each may be nil.
type Set struct {
	Startup, Liveness, Readiness *config.Probe
	Ask                          Ask
	// Sleep waits; false when done was closed meanwhile.
	Sleep func(wait time.Duration, done <-chan struct{}) bool
}

// WaitsFor is why a program that has just been started is not ready; empty where nobody asks.
func (s *Set) WaitsFor() string {
	switch {
	case s.Startup != nil:
		return "the startup probe has not succeeded yet"
	case s.Readiness != nil:
		return "the readiness probe has not succeeded yet"
	}
	return ""
}

// Watch watches one run until done is closed: it reports readiness where that changes, and the reason to end the
// program at most once from each probe.
func (s *Set) Watch(done <-chan struct{}, ready func(bool, string), unwell func(string)) {
	started := time.Now()
	go func() {
		if s.Startup != nil && !s.awaitStart(done, unwell) {
			return
		}
		if s.Startup != nil {
			ready(s.Readiness == nil, (&Set{Readiness: s.Readiness}).WaitsFor())
		}
		if s.Liveness != nil {
			go s.watchLiveness(started, done, unwell)
		}
		if s.Readiness != nil {
			s.watchReadiness(started, done, ready)
		}
	}()
}

func (s *Set) awaitStart(done <-chan struct{}, unwell func(string)) bool {
	counter, hasStarted := NewCounter(s.Startup.SuccessThreshold, s.Startup.FailureThreshold, false), false
	s.every(s.Startup, time.Now(), done, func(failed error) bool {
		isWell, reached := counter.Observe(failed == nil)
		if reached && !isWell {
			unwell("the startup probe failed: " + failed.Error())
		}
		hasStarted = isWell
		return !reached
	})
	return hasStarted
}

func (s *Set) watchLiveness(started time.Time, done <-chan struct{}, unwell func(string)) {
	counter := NewCounter(s.Liveness.SuccessThreshold, s.Liveness.FailureThreshold, true)
	s.every(s.Liveness, started, done, func(failed error) bool {
		isWell, _ := counter.Observe(failed == nil)
		if !isWell {
			unwell("the liveness probe failed: " + failed.Error())
		}
		return isWell
	})
}

func (s *Set) watchReadiness(started time.Time, done <-chan struct{}, ready func(bool, string)) {
	counter := NewCounter(s.Readiness.SuccessThreshold, s.Readiness.FailureThreshold, false)
	s.every(s.Readiness, started, done, func(failed error) bool {
		isWell, reached := counter.Observe(failed == nil)
		if reached && isWell {
			ready(true, "")
		} else if reached {
			ready(false, "the readiness probe failed: "+failed.Error())
		}
		return true
	})
}

// every asks after the initial delay (since the program's start) and then once in a period, until take returns false.
func (s *Set) every(probe *config.Probe, started time.Time, done <-chan struct{}, take func(error) bool) {
	wait := time.Until(started.Add(time.Duration(probe.InitialDelaySeconds) * time.Second))
	for s.Sleep(wait, done) {
		asked := time.Now()
		failed := s.Ask(probe, done)
		select {
		case <-done:
			return
		default:
		}
		if !take(failed) {
			return
		}
		wait = time.Until(asked.Add(time.Duration(probe.PeriodSeconds) * time.Second))
	}
}

// Sleep is the machine's clock for Set.Sleep.
func Sleep(wait time.Duration, done <-chan struct{}) bool {
	if wait <= 0 {
		wait = 0
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	}
}
