package channel

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	maxStreams = 64
	// Handlers of streams that a RESET ended may take a moment to end themselves.
	maxHandlers = 4 * maxStreams
	// The kernel's virtio-serial takes so much in one write.
	writeBytes = 32768
	// Streams wait while so much is on its way; what must not wait may take the rest.
	dataQueueBytes = 262144
	maxQueueBytes  = 1048576
	// A frame that does not go on for so long never will: the agent died within it, and another one speaks.
	frameStall = 2 * time.Second
)

// Port is the guest's end of the channel. Read returns io.EOF once when the host's side was closed, and then waits
// until it is opened again. A deadline in the past ends a call that waits.
type Port interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Answer is what DONE says beside `error`.
type Answer map[string]interface{}

// Handler does what a request asks, in a goroutine of its own, until the stream is over.
type Handler func(stream *Stream, request []byte) (Answer, error)

// Session speaks with one agent after the other over one port. One lock guards all of it: what it does under the
// lock is copying.
type Session struct {
	port    Port
	handler Handler

	mu       sync.Mutex
	changed  *sync.Cond // anything a goroutine may wait for
	streams  map[uint32]*Stream
	handlers int
	queue    [][]byte
	queued   int  // bytes of queue
	writing  bool // the writer has taken something and is not done with it
	closed   bool
}

// NewSession makes a session; Run runs it.
func NewSession(port Port, handler Handler) *Session {
	s := &Session{port: port, handler: handler, streams: map[uint32]*Stream{}}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// Run serves the port until that fails for good.
func (s *Session) Run() error {
	go s.write()
	defer func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.drop()
	}()
	decoder := &Decoder{}
	buffer := make([]byte, writeBytes)
	var since time.Time // the frame that is under way
	frames := 0
	for {
		n, err := s.port.Read(buffer)
		if n > 0 {
			decoder.Feed(buffer[:n], s.handle)
		}
		switch {
		case errors.Is(err, io.EOF):
			s.drop()
			decoder, frames = &Decoder{}, 0
		case errors.Is(err, os.ErrDeadlineExceeded):
			decoder.Lose(s.handle)
		case err != nil:
			return err
		}
		// A timer only where a frame is under way, counted from its beginning: an idle guest does not wake up, and an
		// agent that asks again and again does not keep a dead one's frame alive.
		began := since
		switch {
		case !decoder.InFrame():
			began = time.Time{}
		case since.IsZero() || decoder.frames != frames:
			began = time.Now()
		}
		if began != since {
			if err := s.port.SetReadDeadline(deadline(began)); err != nil {
				return err
			}
		}
		since, frames = began, decoder.frames
	}
}

func deadline(began time.Time) time.Time {
	if began.IsZero() {
		return began
	}
	return began.Add(frameStall)
}

// Flush waits until everything that was sent is with the port, at most so long.
func (s *Session) Flush(most time.Duration) {
	timer := time.AfterFunc(most, func() {
		s.mu.Lock()
		s.queue, s.queued, s.writing = nil, 0, false
		s.changed.Broadcast()
		s.mu.Unlock()
	})
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 || s.writing {
		s.changed.Wait()
	}
}

// drop forgets every stream and what was to be sent, and wakes the writer out of a frame that nobody reads.
func (s *Session) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stream := range s.streams {
		stream.end()
	}
	s.streams = map[uint32]*Stream{}
	s.queue, s.queued = nil, 0
	_ = s.port.SetWriteDeadline(time.Unix(1, 0))
	s.changed.Broadcast()
}

func (s *Session) handle(frame Frame) {
	if frame.Type == Reset {
		s.drop()
		s.send(Frame{Reset, 0, frame.Payload})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stream := s.streams[frame.Stream]
	switch {
	case frame.Type == Open && stream == nil && frame.Stream != 0:
		s.open(frame.Stream, frame.Payload)
	case stream != nil:
		stream.take(frame)
	}
}

// open: the lock is held.
func (s *Session) open(id uint32, request []byte) {
	if len(s.streams) >= maxStreams || s.handlers >= maxHandlers {
		s.put(doneFrame(id, nil, errors.New("64 streams are open already")))
		return
	}
	stream := newStream(s, id)
	s.streams[id] = stream
	s.handlers++
	request = append([]byte(nil), request...)
	go s.run(stream, request)
}

func (s *Session) run(stream *Stream, request []byte) {
	answer, err := s.call(stream, request)
	defer stream.finish()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers--
	if s.streams[stream.id] == stream {
		delete(s.streams, stream.id)
		s.put(doneFrame(stream.id, answer, err))
	}
	stream.end()
	s.changed.Broadcast()
}

// call keeps a request that nobody thought of from ending the guest.
func (s *Session) call(stream *Stream, request []byte) (answer Answer, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			answer, err = nil, errors.New("the guest's init failed at this request")
		}
	}()
	return s.handler(stream, request)
}

func doneFrame(id uint32, answer Answer, err error) Frame {
	said := Answer{"error": ""}
	for key, value := range answer {
		said[key] = value
	}
	if err != nil {
		said["error"] = oneLine(err.Error())
	}
	payload, failed := json.Marshal(said)
	if failed != nil || len(payload) > MaxPayload {
		payload = []byte(`{"error": "the answer does not fit into a frame"}`)
	}
	return Frame{Done, id, payload}
}

func oneLine(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > 1000 {
		text = strings.ToValidUTF8(text[:1000], "")
	}
	return text
}

func (s *Session) send(frame Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(frame)
}

// put: the lock is held. An agent that asks and asks and never reads loses everything.
func (s *Session) put(frame Frame) {
	if s.closed {
		return
	}
	encoded := frame.Encode()
	if s.queued+len(encoded) > maxQueueBytes {
		s.queue, s.queued = nil, 0
		for _, stream := range s.streams {
			stream.end()
		}
		s.streams = map[uint32]*Stream{}
		return
	}
	s.queue = append(s.queue, encoded)
	s.queued += len(encoded)
	s.changed.Broadcast()
}

func (s *Session) write() {
	for {
		batch := s.nextBatch()
		if batch == nil {
			return
		}
		// A failed write is a port that was closed meanwhile: the reader sees that too, and drops all streams.
		_, _ = s.port.Write(batch)
		s.mu.Lock()
		s.writing = false
		s.changed.Broadcast()
		s.mu.Unlock()
	}
}

func (s *Session) nextBatch() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 {
		if s.closed {
			return nil
		}
		s.changed.Wait()
	}
	batch := s.queue[0]
	s.queue = s.queue[1:]
	for len(s.queue) > 0 && len(batch)+len(s.queue[0]) <= writeBytes {
		batch = append(batch, s.queue[0]...)
		s.queue = s.queue[1:]
	}
	s.queued -= len(batch)
	s.writing = true
	_ = s.port.SetWriteDeadline(time.Time{})
	s.changed.Broadcast()
	return batch
}
