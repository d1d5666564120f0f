// Package channel speaks with the agent over the guest channel (docs/guest-channel.md): frames, streams, credits.
// What the requests do is the handler's business.
package channel

import (
	"bytes"
	"encoding/binary"
)

// Types of frames.
const (
	Reset   = 1
	Open    = 2
	Data    = 3
	ErrData = 4
	EOF     = 5
	Credit  = 6
	Control = 7
	Done    = 8
	Cancel  = 9
)

const (
	headerBytes = 12
	resetBytes  = 16
	// MaxPayload is the largest payload of a frame.
	MaxPayload = 65536
)

// resetHeader begins what the decoder looks for when it has lost its place.
var resetHeader = header(Reset, 0, resetBytes)

// Frame is one frame. Payload may belong to somebody else's buffer: who keeps it copies it.
type Frame struct {
	Type    byte
	Stream  uint32
	Payload []byte
}

func header(kind byte, stream uint32, length int) []byte {
	made := make([]byte, headerBytes, headerBytes+length)
	made[0], made[1], made[2] = 'V', 'G', kind
	binary.BigEndian.PutUint32(made[4:], stream)
	binary.BigEndian.PutUint32(made[8:], uint32(length))
	return made
}

// Encode returns the frame's bytes.
func (f Frame) Encode() []byte {
	return append(header(f.Type, f.Stream, len(f.Payload)), f.Payload...)
}

// Decoder finds frames in what arrives. It begins lost: nothing counts before the first RESET, nor after
// anything that is no frame until the next one.
type Decoder struct {
	held   []byte
	synced bool
	frames int // complete so far
}

// Feed takes what arrived and calls emit for every frame that is complete.
func (d *Decoder) Feed(arrived []byte, emit func(Frame)) {
	d.held = append(d.held, arrived...)
	rest := d.held
	for {
		frame, used := d.next(rest)
		rest = rest[used:]
		if frame == nil {
			break
		}
		d.frames++
		emit(*frame)
	}
	// What is left moves to the front: the buffer never holds more than one frame and one read.
	d.held = d.held[:copy(d.held, rest)]
}

// InFrame tells whether a frame has begun and is not complete.
func (d *Decoder) InFrame() bool { return d.synced && len(d.held) > 0 }

// Lose gives up the frame that does not go on, and looks for a RESET within what came of it.
func (d *Decoder) Lose(emit func(Frame)) {
	d.synced = false
	d.Feed(nil, emit)
}

// next returns the first frame of rest, or nil where none is complete, and how many bytes are done with.
func (d *Decoder) next(rest []byte) (*Frame, int) {
	skipped := 0
	if d.synced && len(rest) >= headerBytes && !isHeader(rest) {
		d.synced = false
	}
	if !d.synced {
		skipped = findReset(rest)
		rest = rest[skipped:]
		if len(rest) < headerBytes+resetBytes {
			return nil, skipped
		}
		d.synced = true
	}
	if len(rest) < headerBytes {
		return nil, skipped
	}
	length := int(binary.BigEndian.Uint32(rest[8:]))
	if len(rest) < headerBytes+length {
		return nil, skipped
	}
	frame := Frame{
		Type: rest[2], Stream: binary.BigEndian.Uint32(rest[4:]), Payload: rest[headerBytes : headerBytes+length],
	}
	return &frame, skipped + headerBytes + length
}

// isHeader: a type that is not known is skipped, a newer agent may send one.
func isHeader(b []byte) bool {
	if b[0] != 'V' || b[1] != 'G' || b[3] != 0 || binary.BigEndian.Uint32(b[8:]) > MaxPayload {
		return false
	}
	return b[2] != Reset || bytes.Equal(b[:headerBytes], resetHeader)
}

// findReset returns where a RESET begins, or may begin: its first bytes could be the last that arrived.
func findReset(b []byte) int {
	if at := bytes.Index(b, resetHeader); at >= 0 {
		return at
	}
	for keep := headerBytes - 1; keep > 0; keep-- {
		if keep <= len(b) && bytes.HasPrefix(resetHeader, b[len(b)-keep:]) {
			return len(b) - keep
		}
	}
	return len(b)
}
