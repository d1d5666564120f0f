package channel

import (
	"bytes"
	"math/rand"
	"testing"
)

func feed(d *Decoder, parts ...[]byte) []Frame {
	var frames []Frame
	for _, part := range parts {
		d.Feed(part, func(f Frame) {
			f.Payload = append([]byte(nil), f.Payload...)
			frames = append(frames, f)
		})
	}
	return frames
}

func reset(mark byte) Frame { return Frame{Reset, 0, bytes.Repeat([]byte{mark}, resetBytes)} }

func TestNothingCountsBeforeReset(t *testing.T) {
	open := Frame{Open, 1, []byte("{}")}.Encode()
	frames := feed(&Decoder{}, open, []byte("VG garbage V"), reset(7).Encode(), open)
	if len(frames) != 2 || frames[0].Type != Reset || frames[1].Type != Open {
		t.Fatalf("%v", frames)
	}
}

func TestFramesInAnyPieces(t *testing.T) {
	var all []byte
	sent := []Frame{reset(1), {Open, 5, []byte("{}")}, {Data, 5, bytes.Repeat([]byte("x"), MaxPayload)}, {EOF, 5, nil}}
	for _, frame := range sent {
		all = append(all, frame.Encode()...)
	}
	for round := 0; round < 50; round++ {
		source := rand.New(rand.NewSource(int64(round)))
		decoder := &Decoder{}
		var found []Frame
		for rest := all; len(rest) > 0; {
			n := 1 + source.Intn(40000)
			if n > len(rest) {
				n = len(rest)
			}
			found = append(found, feed(decoder, rest[:n])...)
			rest = rest[n:]
		}
		if len(found) != len(sent) {
			t.Fatalf("round %d: %d frames", round, len(found))
		}
		for i, frame := range found {
			if frame.Type != sent[i].Type || frame.Stream != sent[i].Stream || !bytes.Equal(frame.Payload, sent[i].Payload) {
				t.Fatalf("round %d, frame %d: type %d", round, i, frame.Type)
			}
		}
	}
}

func TestAfterGarbageOnlyAResetCounts(t *testing.T) {
	huge := header(Data, 1, 0)
	huge[8] = 0x7f // 2 GiB
	for name, garbage := range map[string][]byte{
		"no frame": []byte("a line of text"), "a huge frame": huge, "a reserved byte": {'V', 'G', 3, 1, 0, 0, 0, 1, 0, 0, 0, 0},
		"a RESET of a stream": header(Reset, 9, resetBytes), "a long RESET": header(Reset, 0, 17),
	} {
		decoder := &Decoder{}
		data := Frame{Data, 1, []byte("x")}.Encode()
		frames := feed(decoder, reset(1).Encode(), data, garbage, data, reset(2).Encode(), data)
		if len(frames) != 4 || frames[2].Payload[0] != 2 || frames[3].Type != Data {
			t.Errorf("after %s: %v", name, frames)
		}
	}
}

func TestAStalledFrameGivesUpTheResetWithin(t *testing.T) {
	decoder := &Decoder{}
	partial := append(header(Data, 3, 60000), []byte("the agent died here")...)
	if frames := feed(decoder, reset(1).Encode(), partial, reset(2).Encode()); len(frames) != 1 || !decoder.InFrame() {
		t.Fatalf("%v", frames)
	}
	var found []Frame
	decoder.Lose(func(f Frame) { found = append(found, f) })
	if len(found) != 1 || found[0].Payload[0] != 2 || decoder.InFrame() {
		t.Fatalf("%v", found)
	}
}

func TestRandomBytesNeverBreakTheDecoder(t *testing.T) {
	source := rand.New(rand.NewSource(1))
	words := [][]byte{[]byte("VG"), resetHeader, {0, 0, 0, 0}, reset(3).Encode(), header(Data, 1, 9), {0xff, 0xff}}
	for round := 0; round < 2000; round++ {
		decoder := &Decoder{}
		for part := 0; part < 20; part++ {
			piece := words[source.Intn(len(words))]
			if source.Intn(2) == 0 {
				piece = make([]byte, source.Intn(40))
				source.Read(piece)
			}
			feed(decoder, piece)
			if len(decoder.held) > headerBytes+MaxPayload {
				t.Fatal("the buffer grows")
			}
		}
		found := feed(decoder, make([]byte, headerBytes+MaxPayload), reset(9).Encode())
		if len(found) == 0 || found[len(found)-1].Type != Reset || found[len(found)-1].Payload[0] != 9 {
			t.Fatalf("round %d: a RESET is not found any more", round)
		}
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add(reset(1).Encode(), 3)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		decoder := &Decoder{}
		if cut < 0 || cut > len(text) {
			cut = len(text)
		}
		feed(decoder, text[:cut], text[cut:])
		if len(decoder.held) > headerBytes+MaxPayload {
			t.Fatal("the buffer grows")
		}
	})
}
