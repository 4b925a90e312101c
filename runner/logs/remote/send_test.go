package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"
)

func destination(t *testing.T, driver string, options map[string]string, lost Lost) Destination {
	t.Helper()
	s, err := Parse(driver, options)
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.New(lost)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func entries(texts ...string) (list []Entry) {
	for _, text := range texts {
		list = append(list, Entry{Line: []byte(text)})
	}
	return list
}

// TestStreamLost has the server end the connection while nothing is sent, with and
// without bytes that it has not read.
func TestStreamLost(t *testing.T) {
	for _, unread := range []bool{false, true} {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		told := make(chan bool, 8)
		d := destination(t, Syslog, map[string]string{"syslog-address": "tcp://" + l.Addr().String()}, func(_ time.Time, unread bool) { told <- unread })
		if err := d.Send(t.Context(), Source{Tag: "t"}, entries("one")); err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if n, err := c.Read(buf[:5]); n != 5 || err != nil {
			t.Fatal(n, err)
		}
		if !unread {
			if n, err := c.Read(buf); err != nil || !strings.HasSuffix(string(buf[:n]), "one\n") {
				t.Fatalf("%q, %v", buf[:n], err)
			}
		}
		c.Close()
		if got := <-told; got != unread {
			t.Errorf("unread is %v", got)
		}
		// Nothing follows until what was lost could be sent again.
		var errs []error
		for range 2 {
			errs = append(errs, d.Send(t.Context(), Source{Tag: "t"}, entries("two")))
		}
		for errors.Is(errs[0], syscall.EPIPE) || errors.Is(errs[0], net.ErrClosed) { // it was being told
			errs = append(errs[1:], d.Send(t.Context(), Source{Tag: "t"}, entries("two")))
		}
		if !errors.Is(errs[0], ErrLost) || errs[1] != nil || len(told) > 0 {
			t.Errorf("%v, %d", errs, len(told))
		}
	}
}

// TestUDPRefused has no server on a port, and then one.
func TestUDPRefused(t *testing.T) {
	c, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := c.LocalAddr().String()
	c.Close()
	told := make(chan bool, 8)
	d := destination(t, Syslog, map[string]string{"syslog-address": "udp://" + addr}, func(time.Time, bool) { told <- true })
	for failed := 0; failed < 3; {
		if err := d.Send(t.Context(), Source{}, entries("lost", "lost")); errors.Is(err, syscall.ECONNREFUSED) {
			failed++
		} else if failed > 0 {
			t.Errorf("after a refusal: %v", err)
		}
	}
	<-told
	if c, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", addr); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := d.Send(t.Context(), Source{}, entries("here")); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 100)
	if n, _, err := c.ReadFrom(buf); err != nil || !strings.HasSuffix(string(buf[:n]), "here") {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

// TestUnixStream sends to a socket that takes a stream.
func TestUnixStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := destination(t, Syslog, map[string]string{"syslog-address": "unix://" + path}, func(time.Time, bool) {})
	if err := d.Send(t.Context(), Source{Tag: "t"}, entries("one", "two")); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	text, err := io.ReadAll(c)
	if err != nil || strings.Count(string(text), "\n") != 2 || !strings.HasSuffix(string(text), "]: two\n") {
		t.Errorf("%q, %v", text, err)
	}
}

// TestHangs has a server that takes nothing: Send waits, and ends with its context.
func TestHangs(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, test := range []struct {
		driver string
		lines  int
	}{{Syslog, 200_000}, {Fluentd, 200_000}, {Fluentd, 1}} {
		config := map[string]string{"syslog-address": "tcp://" + l.Addr().String()}
		if test.driver == Fluentd {
			config = map[string]string{"fluentd-address": l.Addr().String(), "fluentd-request-ack": "true"}
		}
		d := destination(t, test.driver, config, func(time.Time, bool) {})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := d.Send(ctx, Source{}, entries(strings.Split(strings.Repeat(strings.Repeat("x", 100)+",", test.lines), ",")...)); err == nil {
			t.Errorf("%s takes %d lines", test.driver, test.lines)
		}
		cancel()
	}
}

// TestFluentdAnswers has servers that acknowledge well, badly and not at all.
func TestFluentdAnswers(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	answer := make(chan func(chunk string) []byte, 1)
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r := msgp.NewReader(c)
			for {
				v, err := r.ReadIntf()
				if err != nil {
					break
				}
				chunk := v.([]any)[2].(map[string]any)["chunk"].(string)
				for _, b := range (<-answer)(chunk) { // byte by byte
					_, _ = c.Write([]byte{b})
				}
			}
			c.Close()
		}
	})
	d := destination(t, Fluentd, map[string]string{"fluentd-address": l.Addr().String(), "fluentd-request-ack": "true", "fluentd-read-timeout": "300ms"}, nil)
	good := func(chunk string) []byte { return msgp.AppendMapStrStr(nil, map[string]string{"x": "y", "ack": chunk}) }
	for name, reply := range map[string]func(string) []byte{
		"another": func(string) []byte { return msgp.AppendMapStrStr(nil, map[string]string{"ack": "other"}) },
		"no map":  func(string) []byte { return []byte("HTTP/1.1 400 Bad Request") },
		"endless": func(string) []byte { return append([]byte{0xdb, 0x7f, 0xff, 0xff, 0xff}, make([]byte, 5000)...) },
		"silence": func(string) []byte { return nil },
		"half":    func(c string) []byte { return good(c)[:5] },
	} {
		answer <- reply
		if err := d.Send(t.Context(), Source{}, entries("a")); err == nil {
			t.Errorf("%s: acknowledged", name)
		}
		answer <- good
		if err := d.Send(t.Context(), Source{}, entries("a", "b")); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
	d.Close()
	l.Close()
	serving.Wait()
}

// TestTag has what users choose in texts end no message.
func TestTag(t *testing.T) {
	f := syslogFormat{hostname: "h"}
	for _, style := range []string{"", "rfc3164", "rfc5424"} {
		f.style = style
		if got := string(f.framed(nil, 8, Entry{Line: []byte("x")}, "a\n<0>b\r")); strings.Count(got, "\n") != 1 {
			t.Errorf("%s: %q", style, got)
		}
	}
	if got := fmt.Sprint(attributes(Source{Attrs: map[string]string{"log": "x", "a": "b"}})); got != "[a b]" {
		t.Errorf("attributes %s", got)
	}
}
