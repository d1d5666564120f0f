package channel

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// reopened is a port whose host side is closed and opened again: one connection after the other.
type reopened struct {
	net.Conn
	next chan net.Conn
}

func (p *reopened) Read(b []byte) (int, error) {
	if p.Conn == nil {
		conn, open := <-p.next
		if !open {
			return 0, errors.New("no port")
		}
		p.Conn = conn
	}
	n, err := p.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		p.Conn = nil
	}
	return n, err
}

func (p *reopened) Write(b []byte) (int, error) {
	if conn := p.Conn; conn != nil {
		return conn.Write(b)
	}
	return 0, io.ErrClosedPipe
}

func (p *reopened) SetReadDeadline(t time.Time) error {
	if conn := p.Conn; conn != nil {
		return conn.SetReadDeadline(t)
	}
	return nil
}

func (p *reopened) SetWriteDeadline(t time.Time) error {
	if conn := p.Conn; conn != nil {
		return conn.SetWriteDeadline(t)
	}
	return nil
}

// agent is the other side.
type agent struct {
	t    *testing.T
	conn net.Conn
	dec  Decoder
	got  []Frame
}

func connect(t *testing.T, ports chan net.Conn, mark byte) *agent {
	t.Helper()
	here, there := net.Pipe()
	ports <- there
	a := &agent{t: t, conn: here}
	a.send(reset(mark))
	if answer := a.next(); answer.Type != Reset || answer.Payload[0] != mark {
		t.Fatalf("RESET is answered with %v", answer)
	}
	return a
}

func (a *agent) send(frame Frame) {
	a.t.Helper()
	_ = a.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
	if _, err := a.conn.Write(frame.Encode()); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) next() Frame {
	a.t.Helper()
	buffer := make([]byte, 65536)
	for len(a.got) == 0 {
		_ = a.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := a.conn.Read(buffer)
		if err != nil {
			a.t.Fatal(err)
		}
		a.got = append(a.got, feed(&a.dec, buffer[:n])...)
	}
	frame := a.got[0]
	a.got = a.got[1:]
	return frame
}

func (a *agent) done() map[string]interface{} {
	a.t.Helper()
	for {
		if frame := a.next(); frame.Type == Done {
			var said map[string]interface{}
			if err := json.Unmarshal(frame.Payload, &said); err != nil {
				a.t.Fatal(err)
			}
			return said
		}
	}
}

func serve(t *testing.T, handler Handler) (chan net.Conn, *Session) {
	ports := make(chan net.Conn)
	session := NewSession(&reopened{next: ports}, handler)
	ended := make(chan error)
	go func() { ended <- session.Run() }()
	t.Cleanup(func() {
		close(ports)
		<-ended
	})
	return ports, session
}

// echo gives back its input; the request `wait` waits until it is over, `fault` is a mistake of ours.
func echo(stream *Stream, request []byte) (Answer, error) {
	switch string(request) {
	case "wait":
		<-stream.Over()
		return nil, ErrOver
	case "fault":
		panic("a mistake")
	}
	n, err := io.Copy(stream, stream)
	stream.EndOutput()
	return Answer{"bytes": n}, err
}

func TestEchoFarBeyondTheCredit(t *testing.T) {
	ports, _ := serve(t, echo)
	a := connect(t, ports, 1)
	defer a.conn.Close()
	a.send(Frame{Open, 1, nil})
	sent, came, credit := 0, 0, Window
	const total = 5 * Window
	block := bytes.Repeat([]byte("0123456789abcdef"), 1024)
	for came < total {
		for sent < total && credit >= len(block) && sent-came < Window/2 {
			a.send(Frame{Data, 1, block})
			sent, credit = sent+len(block), credit-len(block)
		}
		switch frame := a.next(); frame.Type {
		case Data:
			came += len(frame.Payload)
			a.send(Frame{Credit, 1, []byte{0, byte(len(frame.Payload) >> 16), byte(len(frame.Payload) >> 8), byte(len(frame.Payload))}})
		case Credit:
			credit += int(frame.Payload[1])<<16 | int(frame.Payload[2])<<8 | int(frame.Payload[3])
		}
	}
	a.send(Frame{EOF, 1, nil})
	if said := a.done(); said["error"] != "" || said["bytes"] != float64(total) {
		t.Fatal(said)
	}
}

func TestNoMoreIsSentThanThereIsCreditFor(t *testing.T) {
	sent := make(chan int, 1)
	ports, _ := serve(t, func(stream *Stream, _ []byte) (Answer, error) {
		n, err := stream.Write(make([]byte, Window+1))
		sent <- n
		return nil, err
	})
	a := connect(t, ports, 1)
	defer a.conn.Close()
	a.send(Frame{Open, 1, nil})
	for came := 0; came < Window; {
		came += len(a.next().Payload)
	}
	a.send(Frame{Cancel, 1, nil})
	if said := a.done(); said["error"] != ErrOver.Error() || <-sent != Window {
		t.Fatal(said)
	}
}

func TestInputBeyondTheCreditEndsTheStream(t *testing.T) {
	ports, _ := serve(t, func(stream *Stream, _ []byte) (Answer, error) {
		if _, err := stream.Write([]byte("go")); err != nil {
			return nil, err
		}
		for {
			stream.session.mu.Lock()
			fault := stream.fault
			if fault == nil {
				stream.session.changed.Wait()
			}
			stream.session.mu.Unlock()
			if fault != nil {
				return nil, fault
			}
		}
	})
	a := connect(t, ports, 1)
	defer a.conn.Close()
	a.send(Frame{Open, 1, nil})
	for i := 0; i <= Window/MaxPayload; i++ {
		a.send(Frame{Data, 1, make([]byte, MaxPayload)})
	}
	if said := a.done(); !strings.Contains(said["error"].(string), "credit") {
		t.Fatal(said)
	}
}

func TestTheSixtyFifthStreamIsRefused(t *testing.T) {
	ports, _ := serve(t, echo)
	a := connect(t, ports, 1)
	defer a.conn.Close()
	for id := uint32(1); id <= maxStreams+1; id++ {
		a.send(Frame{Open, id, []byte("wait")})
	}
	frame := a.next()
	if frame.Type != Done || frame.Stream != maxStreams+1 || !strings.Contains(string(frame.Payload), "64 streams") {
		t.Fatalf("%d %s", frame.Stream, frame.Payload)
	}
	a.send(Frame{Cancel, 1, nil})
	if a.done()["error"] != ErrOver.Error() {
		t.Fatal("a cancelled stream is not done")
	}
	a.send(Frame{Open, 100, nil})
	a.send(Frame{EOF, 100, nil})
	if said := a.done(); said["error"] != "" {
		t.Fatal(said)
	}
}

func TestResetAndCloseEndAllStreams(t *testing.T) {
	over := make(chan struct{}, 4)
	ports, _ := serve(t, func(stream *Stream, request []byte) (Answer, error) {
		answer, err := echo(stream, request)
		over <- struct{}{}
		return answer, err
	})
	first := connect(t, ports, 1)
	first.send(Frame{Open, 1, []byte("wait")})
	first.send(Frame{Open, 2, []byte("wait")})
	first.send(reset(2))
	if answer := first.next(); answer.Type != Reset || answer.Payload[0] != 2 {
		t.Fatal(answer)
	}
	<-over
	<-over
	first.send(Frame{Open, 1, []byte("wait")})
	first.conn.Close()
	<-over
	second := connect(t, ports, 3)
	defer second.conn.Close()
	second.send(Frame{Open, 1, nil})
	second.send(Frame{EOF, 1, nil})
	if said := second.done(); said["error"] != "" {
		t.Fatal(said)
	}
}

func TestAMistakeIsAnAnswer(t *testing.T) {
	ports, _ := serve(t, echo)
	a := connect(t, ports, 1)
	defer a.conn.Close()
	a.send(Frame{Open, 1, []byte("fault")})
	if said := a.done(); !strings.Contains(said["error"].(string), "failed") {
		t.Fatal(said)
	}
}

func TestAnAgentThatNeverReadsCannotFillTheMemory(t *testing.T) {
	ports, session := serve(t, echo)
	a := connect(t, ports, 1)
	defer a.conn.Close()
	for id := uint32(1); id <= maxStreams; id++ {
		a.send(Frame{Open, id, []byte("wait")})
	}
	for id := uint32(1000); id < 30000; id++ {
		a.send(Frame{Open, id, []byte("wait")})
	}
	session.mu.Lock()
	queued := session.queued
	session.mu.Unlock()
	if queued > maxQueueBytes {
		t.Fatal(queued)
	}
}

func TestErrorsAreOneLine(t *testing.T) {
	payload := doneFrame(1, nil, errors.New("first\nsecond \xff "+strings.Repeat("é", 2000))).Payload
	var said map[string]string
	if err := json.Unmarshal(payload, &said); err != nil || !strings.HasPrefix(said["error"], "first second ? é") {
		t.Fatal(err, said)
	}
	if len(said["error"]) > 1000 {
		t.Fatal("too long")
	}
}
