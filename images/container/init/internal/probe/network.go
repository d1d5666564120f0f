package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mycelium.network/init/internal/config"
)

const (
	maxRedirects   = 10
	maxHeaderBytes = 64 * 1024
)

// AskTCP is well if the port accepts a connection.
func AskTCP(host string, port int, most time.Duration) error {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(host, strconv.Itoa(port)), most)
	if err != nil {
		return plain(err)
	}
	return conn.Close()
}

// AskHTTP is well if a GET is answered with 200 to 399. As in Kubernetes: a redirection is followed on the same
// host, one to another host is well; certificates are not checked. Written by hand, because net/http would be most of
// this init and of its start.
func AskHTTP(host string, probe *config.HTTPProbe, most time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	scheme := "http"
	if strings.EqualFold(probe.Scheme, "HTTPS") {
		scheme = "https"
	}
	at, err := url.Parse(scheme + ":" + "//" + net.JoinHostPort(host, strconv.Itoa(probe.Port)) + probe.Path)
	if err != nil {
		return fmt.Errorf("the path %s: %w", probe.Path, errors.Unwrap(err))
	}
	for redirects := 0; ; redirects++ {
		code, location, err := get(ctx, at, probe.Headers)
		switch {
		case err != nil:
			return plain(err)
		case code < 200 || code > 399:
			return fmt.Errorf("HTTP answered %d", code)
		case code < 300 || location == "":
			return nil
		case redirects == maxRedirects:
			return errors.New("HTTP redirected too often")
		}
		next, err := at.Parse(location)
		if err != nil {
			return errors.New("HTTP redirected to what is no address")
		}
		if next.Hostname() != at.Hostname() {
			return nil
		}
		at = next
	}
}

func get(ctx context.Context, at *url.URL, headers []config.HTTPHeader) (code int, location string, err error) {
	conn, err := dial(ctx, at)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	if deadline, has := ctx.Deadline(); has {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := io.WriteString(conn, request(at, headers)); err != nil {
		return 0, "", err
	}
	return readAnswer(bufio.NewReader(io.LimitReader(conn, maxHeaderBytes)))
}

func dial(ctx context.Context, at *url.URL) (net.Conn, error) {
	port := at.Port()
	if at.Scheme == "https" {
		if port == "" {
			port = "443"
		}
		dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: at.Hostname()}}
		return dialer.DialContext(ctx, "tcp", net.JoinHostPort(at.Hostname(), port))
	}
	if port == "" {
		port = "80"
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(at.Hostname(), port))
}

func request(at *url.URL, headers []config.HTTPHeader) string {
	lines := []string{"GET " + at.RequestURI() + " HTTP/1.1"}
	given := map[string]bool{}
	for _, header := range headers {
		given[strings.ToLower(header.Name)] = true
		lines = append(lines, header.Name+": "+header.Value)
	}
	for _, header := range [][2]string{
		{"Host", at.Host}, {"User-Agent", "vdc-probe"}, {"Accept", "*/*"}, {"Connection", "close"},
	} {
		if !given[strings.ToLower(header[0])] {
			lines = append(lines, header[0]+": "+header[1])
		}
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// readAnswer reads the status line, and the header as far as Location.
func readAnswer(from *bufio.Reader) (code int, location string, err error) {
	status, err := readLine(from)
	if err != nil {
		return 0, "", err
	}
	words := strings.Fields(status)
	if len(words) < 2 || !strings.HasPrefix(words[0], "HTTP/1.") || len(words[1]) != 3 {
		return 0, "", errors.New("the answer is not HTTP's")
	}
	if code, err = strconv.Atoi(words[1]); err != nil {
		return 0, "", errors.New("the answer is not HTTP's")
	}
	if code < 300 || code > 399 {
		return code, "", nil
	}
	for {
		line, err := readLine(from)
		if err != nil || line == "" {
			return code, "", err
		}
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Location") {
			return code, strings.TrimSpace(value), nil
		}
	}
}

func readLine(from *bufio.Reader) (string, error) {
	line, err := from.ReadString('\n')
	if errors.Is(err, io.EOF) {
		return "", errors.New("the answer ends too early")
	}
	return strings.TrimRight(line, "\r\n"), err
}

// plain shortens what the library says: the address is known.
func plain(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("no answer in time")
	}
	var operation *net.OpError
	if errors.As(err, &operation) && operation.Err != nil {
		return operation.Err
	}
	return err
}
