// Package probe asks the program how it is, with Kubernetes' meanings: what counts are thresholds of answers in a
// row; the startup probe holds the others back; liveness and startup end the program, readiness is shown.
package probe

// Counter turns answers into what they mean. It is pure.
type Counter struct {
	successes, failures int // thresholds
	latest              bool
	inRow               int
	isWell              bool
}

// NewCounter begins with a meaning: liveness with well, the others with unwell.
func NewCounter(successes, failures int, isWell bool) *Counter {
	return &Counter{successes: successes, failures: failures, isWell: isWell}
}

// Observe counts an answer and returns what all of them mean, and whether this answer's threshold was reached.
func (c *Counter) Observe(isWell bool) (meaning, reached bool) {
	if c.inRow > 0 && c.latest == isWell {
		c.inRow++
	} else {
		c.latest, c.inRow = isWell, 1
	}
	threshold := c.failures
	if isWell {
		threshold = c.successes
	}
	if c.inRow < threshold {
		return c.isWell, false
	}
	c.isWell = isWell
	return isWell, true
}
