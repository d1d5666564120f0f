package probe

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"mycelium.network/init/internal/config"
)

func TestThresholdsAreOfAnswersInARow(t *testing.T) {
	for _, c := range []struct {
		successes, failures int
		begin               bool
		answers, meanings   string
	}{
		{1, 3, true, "++--+---+", "+++++++-+"},
		{2, 1, false, "+-++-", "---+-"},
		{1, 1, false, "-+-", "-+-"},
		{3, 2, true, "-+-+--++-+++", "+++++------+"},
	} {
		counter, got := NewCounter(c.successes, c.failures, c.begin), ""
		for _, answer := range c.answers {
			meaning, _ := counter.Observe(answer == '+')
			got += map[bool]string{true: "+", false: "-"}[meaning]
		}
		if got != c.meanings {
			t.Errorf("%s means %s, not %s", c.answers, got, c.meanings)
		}
	}
}

// scene plays answers to probes and writes down what happens; time does not pass.
type scene struct {
	mu      sync.Mutex
	answers map[*config.Probe]string
	told    []string
	over    chan struct{}
	waited  []time.Duration
	left    int // answers that are left
}

func (s *scene) tell(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, text)
}

func (s *scene) play(set *Set) string {
	s.over = make(chan struct{})
	for _, answers := range s.answers {
		s.left += len(answers)
	}
	set.Sleep = func(wait time.Duration, done <-chan struct{}) bool {
		s.mu.Lock()
		s.waited = append(s.waited, wait)
		s.mu.Unlock()
		return true
	}
	set.Ask = func(probe *config.Probe, done <-chan struct{}) error {
		s.mu.Lock()
		if s.answers[probe] == "" {
			s.mu.Unlock()
			<-done // the play is over for this one
			return nil
		}
		answer := s.answers[probe][0]
		s.answers[probe] = s.answers[probe][1:]
		if s.left--; s.left == 0 {
			defer close(s.over)
		}
		s.mu.Unlock()
		if answer == '+' {
			return nil
		}
		return errors.New("no")
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	set.Watch(done, func(isReady bool, reason string) { s.tell(fmt.Sprint("ready ", isReady, " ", reason)) },
		func(reason string) {
			s.tell("unwell: " + reason)
			close(ended)
		})
	select {
	case <-s.over:
		select {
		case <-ended:
		case <-time.After(50 * time.Millisecond): // what the last answer causes is not awaited by anybody else
		}
	case <-ended:
	case <-time.After(20 * time.Second):
		s.tell("nothing more happened")
	}
	close(done)
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.told, "; ")
}

func oneOf(failures int) *config.Probe {
	return &config.Probe{PeriodSeconds: 5, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: failures}
}

func TestTheStartupProbeHoldsTheOthersBack(t *testing.T) {
	startup, liveness, readiness := oneOf(5), oneOf(1), oneOf(1)
	s := &scene{answers: map[*config.Probe]string{startup: "--+", readiness: "+"}}
	told := s.play(&Set{Startup: startup, Liveness: nil, Readiness: readiness})
	if told != "ready false the readiness probe has not succeeded yet; ready true " {
		t.Error(told)
	}
	s = &scene{answers: map[*config.Probe]string{startup: "----+", liveness: "+++-"}}
	told = s.play(&Set{Startup: startup, Liveness: liveness})
	if told != "ready true ; unwell: the liveness probe failed: no" {
		t.Error(told)
	}
	s = &scene{answers: map[*config.Probe]string{startup: "-----", liveness: ""}}
	if told := s.play(&Set{Startup: startup, Liveness: liveness}); told != "unwell: the startup probe failed: no" {
		t.Error(told)
	}
}

func TestReadinessComesAndGoes(t *testing.T) {
	readiness := oneOf(2)
	s := &scene{answers: map[*config.Probe]string{readiness: "-+-+--+"}}
	told := s.play(&Set{Readiness: readiness})
	if told != "ready true ; ready true ; ready false the readiness probe failed: no; ready true " {
		t.Error(told)
	}
}

func TestDelayAndPeriod(t *testing.T) {
	liveness := oneOf(1)
	liveness.InitialDelaySeconds = 30
	s := &scene{answers: map[*config.Probe]string{liveness: "++"}}
	s.play(&Set{Liveness: liveness})
	if first := s.waited[0]; first > 30*time.Second || first < 29*time.Second {
		t.Error(first)
	}
	if second := s.waited[1]; second > 5*time.Second || second < 4*time.Second {
		t.Error(second)
	}
}

// server answers every connection with the next text; it returns its port and what it was asked.
func server(t *testing.T, config *tls.Config, answers ...string) (int, *[]string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	t.Cleanup(func() { listener.Close() })
	asked := &[]string{}
	go func() {
		for _, answer := range answers {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			lines := bufio.NewReader(conn)
			text := ""
			for !strings.HasSuffix(text, "\r\n\r\n") {
				line, err := lines.ReadString('\n')
				if text += line; err != nil {
					break
				}
			}
			*asked = append(*asked, text)
			if answer == "" {
				t.Cleanup(func() { conn.Close() }) // accepted, and never answered
				continue
			}
			fmt.Fprint(conn, strings.ReplaceAll(answer, "PORT", fmt.Sprint(port)))
			conn.Close()
		}
	}()
	return port, asked
}

func ask(port int, path string, most time.Duration) string {
	err := AskHTTP("127.0.0.1", &config.HTTPProbe{Port: port, Path: path, Scheme: "HTTP"}, most)
	if err != nil {
		return err.Error()
	}
	return ""
}

const moved = "HTTP/1.1 302 Found\r\nX: y\r\nLocation: "

func TestHTTPAnswers(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 200 OK\r\n\r\nbody":            "",
		"HTTP/1.0 204 No Content\r\n\r\n":        "",
		"HTTP/1.1 399 Strange\r\n\r\n":           "",
		"HTTP/1.1 400 Bad Request\r\n\r\n":       "HTTP answered 400",
		"HTTP/1.1 503 Busy\r\n\r\n":              "HTTP answered 503",
		"SSH-2.0-OpenSSH\r\n":                    "the answer is not HTTP's",
		"HTTP/1.1":                               "the answer ends too early",
		strings.Repeat("x", 2*maxHeaderBytes):    "the answer ends too early",
		moved + "http" + "://elsewhere/\r\n\r\n": "",
	} {
		port, _ := server(t, nil, answer)
		if got := ask(port, "/", 10*time.Second); got != want {
			t.Errorf("%.20q: %q", answer, got)
		}
	}
}

func TestHTTPRedirections(t *testing.T) {
	port, asked := server(t, nil, moved+"http"+"://127.0.0.1:PORT/second?x=1\r\n\r\n", moved+"third\r\n\r\n", "HTTP/1.1 500 No\r\n\r\n")
	if got := ask(port, "/first", 10*time.Second); got != "HTTP answered 500" {
		t.Error(got)
	}
	for i, path := range []string{"/first", "/second?x=1", "/third"} {
		if !strings.HasPrefix((*asked)[i], "GET "+path+" HTTP/1.1\r\nHost: 127.0.0.1:") {
			t.Error((*asked)[i])
		}
	}
	loops := make([]string, 20)
	for i := range loops {
		loops[i] = moved + "/again\r\n\r\n"
	}
	port, _ = server(t, nil, loops...)
	if got := ask(port, "/", 10*time.Second); got != "HTTP redirected too often" {
		t.Error(got)
	}
}

func TestHTTPHeadersAreTheProbes(t *testing.T) {
	port, asked := server(t, nil, "HTTP/1.1 200 OK\r\n\r\n")
	err := AskHTTP("127.0.0.1", &config.HTTPProbe{
		Port: port, Path: "/a%20b", Headers: []config.HTTPHeader{{Name: "host", Value: "name"}, {Name: "X-Y", Value: "z"}},
	}, 10*time.Second)
	if err != nil || !strings.HasPrefix((*asked)[0], "GET /a%20b HTTP/1.1\r\nhost: name\r\nX-Y: z\r\nUser-Agent") {
		t.Error(err, *asked)
	}
}

func TestNoAnswerInTime(t *testing.T) {
	port, _ := server(t, nil, "")
	if got := ask(port, "/", 50*time.Millisecond); got != "no answer in time" {
		t.Error(got)
	}
}

func TestHTTPSWithAnyCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	made, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	config509 := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{made}, PrivateKey: key}}}
	port, _ := server(t, config509, "HTTP/1.1 200 OK\r\n\r\n")
	if err := AskHTTP("127.0.0.1", &config.HTTPProbe{Port: port, Path: "/", Scheme: "HTTPS"}, 10*time.Second); err != nil {
		t.Error(err)
	}
}

func TestTCP(t *testing.T) {
	port, _ := server(t, nil, "")
	if err := AskTCP("127.0.0.1", port, 10*time.Second); err != nil {
		t.Error(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	if err := AskTCP("127.0.0.1", closed, 10*time.Second); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}
