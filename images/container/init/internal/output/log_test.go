package output

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// port takes everything, or nothing.
type port struct {
	bytes.Buffer
	isFull bool
}

func (p *port) Write(b []byte) (int, error) {
	if p.isFull {
		return 0, os.ErrDeadlineExceeded
	}
	if len(b) > maxWrite {
		panic("more than the port takes at once")
	}
	return p.Buffer.Write(b)
}

func (p *port) SetWriteDeadline(time.Time) error { return nil }

func logOn(p *port) *Log {
	l := New(p)
	l.now = func() time.Time { return time.Unix(1700000000, 5).In(time.FixedZone("", 3600)) }
	return l
}

const at = "2023-11-14T22:13:20.000000005Z "

func TestLinesAreCRIs(t *testing.T) {
	p := &port{}
	logOn(p).Copy("stdout", strings.NewReader("one\n\ntwo \xff\nno end"))
	want := at + "stdout F one\n" + at + "stdout F \n" + at + "stdout F two \xff\n" + at + "stdout F no end\n"
	if p.String() != want {
		t.Error(p.String())
	}
}

func TestLongLinesGoOn(t *testing.T) {
	for _, length := range []int{maxLine, maxLine + 1, 3*maxLine - 1, 10 * maxLine} {
		p := &port{}
		text := strings.Repeat("x", length)
		logOn(p).Copy("stderr", io.MultiReader(strings.NewReader(text), strings.NewReader("\nnext\n")))
		var joined string
		for _, line := range strings.SplitAfter(strings.TrimSuffix(p.String(), "\n"), "\n") {
			said := strings.TrimPrefix(strings.TrimSuffix(line, "\n"), at+"stderr ")
			if len(said) > maxLine+2 {
				t.Fatalf("a line of %d", len(said))
			}
			joined += said[2:]
			if said[0] == 'F' {
				joined += "\n"
			}
		}
		if joined != text+"\nnext\n" {
			t.Errorf("%d became %d", length, len(joined))
		}
	}
}

func TestManyLinesInWritesThatThePortTakes(t *testing.T) {
	p := &port{}
	logOn(p).Copy("stdout", strings.NewReader(strings.Repeat(strings.Repeat("y", 100)+"\n", 5000)))
	if count := strings.Count(p.String(), "stdout F yyy"); count != 5000 {
		t.Error(count)
	}
}

func TestAFullPortLosesWithAMark(t *testing.T) {
	p := &port{isFull: true}
	l := logOn(p)
	l.Copy("stdout", strings.NewReader("lost\n"))
	l.Copy("stdout", strings.NewReader("lost too\n"))
	p.isFull = false
	l.Copy("stdout", strings.NewReader("back\n"))
	lines := strings.Split(p.String(), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], "stderr F [") || !strings.HasSuffix(lines[1], "stdout F back") {
		t.Error(p.String())
	}
}
