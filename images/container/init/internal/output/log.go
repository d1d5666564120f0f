// Package output writes what the program says to the output port, a line as CRI's logs have it (Kubernetes'
// "CRI logging format"): time, stream, F or P for a whole line or a part of one, text.
package output

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	maxLine = 16 * 1024
	// The port takes so much in one write, all of it or nothing.
	maxWrite  = 32 * 1024
	timeForm  = "2006-01-02T15:04:05.000000000Z"
	stamp     = len(timeForm)
	readBytes = 64 * 1024
	// A file on the host's side takes everything at once. Where the port takes nothing for so long, the program goes
	// on and what it says is lost, as is said in the log; until then it waits, as it would at a full pipe.
	Patience = 10 * time.Second
)

// Port is where the lines go.
type Port interface {
	io.Writer
	SetWriteDeadline(time.Time) error
}

// Log writes the lines of several streams to one port.
type Log struct {
	port     Port
	now      func() time.Time
	patience time.Duration

	mu      sync.Mutex
	isStuck bool
	lost    int
}

// New makes a log.
func New(port Port) *Log { return &Log{port: port, now: time.Now, patience: Patience} }

// Copy writes a stream until its end. The last line counts as a whole one, whether or not it was ended.
func (l *Log) Copy(stream string, from io.Reader) {
	buffer := make([]byte, readBytes)
	held := 0
	for {
		n, err := from.Read(buffer[held:])
		held += n
		at := l.now()
		rest := l.writeLines(at, stream, buffer[:held])
		held = copy(buffer, rest)
		if err != nil {
			if held > 0 {
				l.write(format(nil, at, stream, 'F', buffer[:held]))
			}
			return
		}
	}
}

// writeLines writes what is complete and returns the rest.
func (l *Log) writeLines(at time.Time, stream string, text []byte) []byte {
	var batch []byte
	for len(text) > 0 {
		end, tag := bytes.IndexByte(text, '\n'), byte('F')
		next := end + 1
		if end > maxLine || (end < 0 && len(text) > maxLine) {
			end, next, tag = maxLine, maxLine, 'P'
		} else if end < 0 {
			break
		}
		if len(batch)+stamp+16+end > maxWrite {
			l.write(batch)
			batch = batch[:0]
		}
		batch = format(batch, at, stream, tag, text[:end])
		text = text[next:]
	}
	if len(batch) > 0 {
		l.write(batch)
	}
	return text
}

func format(to []byte, at time.Time, stream string, tag byte, text []byte) []byte {
	to = at.UTC().AppendFormat(to, timeForm)
	to = append(append(to, ' '), stream...)
	to = append(to, ' ', tag, ' ')
	return append(append(to, text...), '\n')
}

func (l *Log) write(batch []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isStuck && !l.tellLoss() {
		l.lost += len(batch)
		return
	}
	if !l.try(batch, l.patience) {
		l.isStuck = true
		l.lost += len(batch)
	}
}

// tellLoss tries to go on: true when the port takes lines again and the gap is marked.
func (l *Log) tellLoss() bool {
	text := fmt.Sprintf("[%d bytes of output are missing here: the host did not take them]", l.lost)
	if !l.try(format(nil, l.now(), "stderr", 'F', []byte(text)), time.Millisecond) {
		return false
	}
	l.isStuck, l.lost = false, 0
	return true
}

func (l *Log) try(batch []byte, most time.Duration) bool {
	// By the machine's clock, not by l.now: that one is the lines'.
	_ = l.port.SetWriteDeadline(time.Now().Add(most))
	_, err := l.port.Write(batch)
	_ = l.port.SetWriteDeadline(time.Time{}) // a timer that is left would wake an idle guest
	return err == nil
}
