package channel

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
)

const (
	// Window is the credit that a stream begins with, in each direction.
	Window = 262144
	// Credit is given back in pieces that are worth a frame.
	creditStep = Window / 4
	maxCredit  = 1 << 20
	chunkBytes = writeBytes - headerBytes
	maxControl = 16
)

// ErrOver is what a stream's methods return when it was cancelled, or the channel was reset.
var ErrOver = errors.New("the request was cancelled")

// Command is what CONTROL says: one of both.
type Command struct {
	Resize []uint16 `json:"resize"`
	Signal string   `json:"signal"`
}

// Stream is one request's. The session's lock guards it.
type Stream struct {
	id      uint32
	session *Session

	input   []byte
	inputAt int // of it were read
	ended   bool
	owed    int // bytes read whose credit was not given back
	allowed int // bytes that the agent may still send
	credit  int // bytes that may be sent to the agent
	fault   error

	isOver   bool
	over     chan struct{}
	commands chan Command
	after    func()
}

func newStream(session *Session, id uint32) *Stream {
	return &Stream{
		id: id, session: session, allowed: Window, credit: Window,
		over: make(chan struct{}), commands: make(chan Command, maxControl),
	}
}

// Over is closed when the request was cancelled, the channel was reset, or the handler returned.
func (s *Stream) Over() <-chan struct{} { return s.over }

// Commands are the CONTROL frames that arrive.
func (s *Stream) Commands() <-chan Command { return s.commands }

// AfterAnswer has something done once DONE is on its way.
func (s *Stream) AfterAnswer(f func()) { s.after = f }

func (s *Stream) finish() {
	if s.after != nil {
		s.after()
	}
}

// Read reads the input; io.EOF after the agent's EOF.
func (s *Stream) Read(p []byte) (int, error) {
	s.session.mu.Lock()
	defer s.session.mu.Unlock()
	for s.inputAt == len(s.input) {
		switch {
		case s.fault != nil:
			return 0, s.fault
		case s.isOver:
			return 0, ErrOver
		case s.ended:
			return 0, io.EOF
		}
		s.session.changed.Wait()
	}
	n := copy(p, s.input[s.inputAt:])
	if s.inputAt += n; s.inputAt == len(s.input) {
		s.input, s.inputAt = s.input[:0], 0
	}
	if s.owed += n; s.owed >= creditStep && !s.ended && !s.isOver {
		s.session.put(Frame{Credit, s.id, binary.BigEndian.AppendUint32(nil, uint32(s.owed))})
		s.allowed += s.owed
		s.owed = 0
	}
	return n, nil
}

// Write sends output; it waits for the agent's credit.
func (s *Stream) Write(p []byte) (int, error) { return s.send(Data, p) }

// WriteError sends what goes to standard error.
func (s *Stream) WriteError(p []byte) (int, error) { return s.send(ErrData, p) }

func (s *Stream) send(kind byte, p []byte) (int, error) {
	s.session.mu.Lock()
	defer s.session.mu.Unlock()
	sent := 0
	for sent < len(p) {
		for !s.isOver && (s.credit == 0 || s.session.queued >= dataQueueBytes) {
			s.session.changed.Wait()
		}
		if s.isOver {
			return sent, ErrOver
		}
		n := len(p) - sent
		if n > s.credit {
			n = s.credit
		}
		if n > chunkBytes {
			n = chunkBytes
		}
		s.session.put(Frame{kind, s.id, p[sent : sent+n]})
		s.credit -= n
		sent += n
	}
	return sent, nil
}

// EndOutput says that no more output comes.
func (s *Stream) EndOutput() {
	s.session.mu.Lock()
	defer s.session.mu.Unlock()
	if !s.isOver {
		s.session.put(Frame{EOF, s.id, nil})
	}
}

// take: the session's lock is held.
func (s *Stream) take(frame Frame) {
	switch frame.Type {
	case Data:
		s.takeInput(frame.Payload)
	case EOF:
		s.ended = true
	case Credit:
		if len(frame.Payload) == 4 {
			s.credit += int(binary.BigEndian.Uint32(frame.Payload))
			if s.credit > maxCredit {
				s.credit = maxCredit
			}
		}
	case Control:
		var command Command
		if json.Unmarshal(frame.Payload, &command) == nil {
			select {
			case s.commands <- command:
			default:
			}
		}
	case Cancel:
		s.end()
	}
	s.session.changed.Broadcast()
}

func (s *Stream) takeInput(payload []byte) {
	if s.isOver || s.ended {
		return
	}
	if len(payload) > s.allowed {
		s.fault = errors.New("more input came than there was credit for")
		s.ended = true
		return
	}
	s.allowed -= len(payload)
	s.input = append(s.input, payload...)
}

// end: the session's lock is held.
func (s *Stream) end() {
	if !s.isOver {
		s.isOver = true
		close(s.over)
	}
}
