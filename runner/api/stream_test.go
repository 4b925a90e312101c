package api_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/term"

	"github.com/berth-registry/berth/runner"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

var imageConfig = dockerspec.DockerOCIImageConfig{}

// hijacked is the client's end of a stream.
type hijacked struct {
	net.Conn
	r    *bufio.Reader
	resp *http.Response
}

func (h *hijacked) closeWrite(t *testing.T) {
	t.Helper()
	if err := h.Conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

func say(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Error(err)
	}
}

// hijack sends a request, and extra bytes right behind it.
func hijack(t *testing.T, socket, path, body, extra string, upgrade bool) *hijacked {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	headers := ""
	if upgrade {
		headers = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
	}
	if body != "" {
		headers += fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: d\r\n%s\r\n%s%s", path, headers, body, extra); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &hijacked{conn, r, resp}
}

// echo copies its input to both outputs.
func echo(_ context.Context, s runner.Streams) int {
	in, err := io.ReadAll(s.Stdin)
	if err != nil {
		fmt.Fprintf(s.Stdout, "detached after %s", in)
		return 1
	}
	fmt.Fprintf(s.Stdout, "out:%s", in)
	if s.Stderr != nil {
		fmt.Fprintf(s.Stderr, "err:%s", in)
	}
	return 0
}

func attached(process func(context.Context, runner.Streams) int, tty bool) *engine {
	e := newEngine()
	e.process, e.tty = process, tty
	close(e.started)
	return e
}

func TestAttach(t *testing.T) {
	const all = "/attach?stdin=1&stdout=1&stderr=1&stream=1"
	for _, c := range []struct {
		name, path  string
		tty         bool
		upgrade     bool
		line, media string
		framed      bool
	}{
		{"multiplexed", "/v1.42/containers/box" + all, false, true, "101 UPGRADED", "application/vnd.docker.multiplexed-stream", true},
		{"old", "/v1.41/containers/box" + all, false, true, "101 UPGRADED", "application/vnd.docker.raw-stream", true},
		{"terminal", "/v1.42/containers/box" + all, true, true, "101 UPGRADED", "application/vnd.docker.raw-stream", false},
		{"without upgrade", "/containers/box" + all, false, false, "200 OK", "application/vnd.docker.raw-stream", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket, _ := serve(t, attached(echo, c.tty))
			// Bytes behind the request are input, and closing one's own side ends it
			// but not the output.
			h := hijack(t, socket, c.path, "", "early ", c.upgrade)
			if h.resp.Status != c.line || h.resp.Header.Get("Content-Type") != c.media || h.resp.Header.Get("Api-Version") != "1.56" {
				t.Fatalf("%s %v", h.resp.Status, h.resp.Header)
			}
			if _, err := io.WriteString(h, "late"); err != nil {
				t.Fatal(err)
			}
			h.closeWrite(t)
			var out, errs bytes.Buffer
			var err error
			if c.framed {
				_, err = stdcopy.StdCopy(&out, &errs, h.r)
			} else {
				_, err = io.Copy(&out, h.r)
			}
			want := "out:early late|err:early late"
			if got := out.String() + "|" + errs.String(); err != nil || c.framed && got != want {
				t.Fatalf("%q, %v, want %q", got, err, want)
			}
			if !c.framed && out.String() != "out:early lateerr:early late" {
				t.Fatalf("%q", out.String())
			}
		})
	}
}

// TestFramesOfTwo writes to both outputs at once, in pieces large and small.
func TestFramesOfTwo(t *testing.T) {
	a, b := bytes.Repeat([]byte("a"), 3<<20), bytes.Repeat([]byte("b"), 3<<20)
	socket, _ := serve(t, attached(func(_ context.Context, s runner.Streams) int {
		var wg sync.WaitGroup
		send := func(w io.Writer, p []byte) {
			for n := 1; len(p) > 0; n *= 3 {
				k := min(n, len(p))
				if wrote, err := w.Write(p[:k]); wrote != k || err != nil {
					t.Errorf("wrote %d of %d: %v", wrote, k, err)
				}
				p = p[k:]
			}
		}
		wg.Go(func() { send(s.Stdout, a) })
		wg.Go(func() { send(s.Stderr, b) })
		wg.Wait()
		return 0
	}, false))
	h := hijack(t, socket, "/containers/box/attach?stdout=1&stderr=1&stream=1", "", "", true)
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, h.r); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), a) || !bytes.Equal(errs.Bytes(), b) {
		t.Fatalf("%d and %d bytes", out.Len(), errs.Len())
	}
}

// TestClientGone checks that a process hears of a client that is gone, whether it
// reads, writes or waits.
func TestClientGone(t *testing.T) {
	for _, stdin := range []string{"0", "1"} {
		ended := make(chan struct{})
		socket, _ := serve(t, attached(func(ctx context.Context, _ runner.Streams) int {
			<-ctx.Done()
			close(ended)
			return 0
		}, false))
		h := hijack(t, socket, "/containers/box/attach?stdout=1&stream=1&stdin="+stdin, "", "", true)
		h.Close()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the process was not told")
		}
	}
}

// TestHalfCloseIsNotGone checks that a client that has only said all it has to say
// is still there.
func TestHalfCloseIsNotGone(t *testing.T) {
	answer := make(chan struct{})
	socket, _ := serve(t, attached(func(ctx context.Context, s runner.Streams) int {
		if _, err := io.Copy(io.Discard, s.Stdin); err != nil {
			t.Error(err)
		}
		<-answer
		if ctx.Err() != nil {
			t.Error("cancelled")
		}
		say(t, s.Stdout, "still")
		return 0
	}, true))
	h := hijack(t, socket, "/containers/box/attach?stdin=1&stdout=1&stream=1", "", "", true)
	h.closeWrite(t)
	time.AfterFunc(100*time.Millisecond, func() { close(answer) })
	got, err := io.ReadAll(h.r)
	if string(got) != "still" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
}

// TestEndWhileClientSends checks that the last output of a process is read by a
// client that is still sending to it.
func TestEndWhileClientSends(t *testing.T) {
	socket, _ := serve(t, attached(func(_ context.Context, s runner.Streams) int {
		go func() { _, _ = io.Copy(io.Discard, s.Stdin) }() // outlives the process
		say(t, s.Stdout, strings.Repeat("x", 100<<10))
		return 0
	}, true))
	for range 20 {
		h := hijack(t, socket, "/containers/box/attach?stdin=1&stdout=1&stream=1", "", "", true)
		go func() {
			for {
				if _, err := h.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}()
		got, err := io.ReadAll(h.r)
		if len(got) != 100<<10 || err != nil {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		h.Close()
	}
}

func TestDetachKeys(t *testing.T) {
	for _, c := range []struct{ query, send, got string }{
		{"", "ab\x10c\x10\x11never", "ab\x10c"},
		{"&detachKeys=ctrl-x,x", "ab\x10\x11c\x18xnever", "ab\x10\x11c"},
		{"&detachKeys=q", "abqnever", "ab"},
	} {
		ended := make(chan error, 1)
		got := make(chan string, 1)
		socket, _ := serve(t, attached(func(_ context.Context, s runner.Streams) int {
			in, err := io.ReadAll(s.Stdin)
			got <- string(in)
			ended <- err
			return 0
		}, true))
		h := hijack(t, socket, "/containers/box/attach?stdin=1&stdout=1&stream=1"+c.query, "", "", true)
		if _, err := io.WriteString(h, c.send); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != c.got {
			t.Errorf("%s: %q, want %q", c.query, s, c.got)
		}
		var escape term.EscapeError
		if err := <-ended; !errors.As(err, &escape) {
			t.Errorf("%s: %v", c.query, err)
		}
		if rest, err := io.ReadAll(h.r); len(rest) > 0 || err != nil {
			t.Errorf("%s: %q, %v", c.query, rest, err)
		}
	}
	// Without a terminal there are no keys to detach by.
	socket, _ := serve(t, attached(echo, false))
	h := hijack(t, socket, "/containers/box/attach?stdin=1&stdout=1&stream=1", "", "a\x10\x11b", true)
	h.closeWrite(t)
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, h.r); err != nil || out.String() != "out:a\x10\x11b" {
		t.Fatalf("%q, %v", out.String(), err)
	}
	resp := request(t, socket, "POST", "/containers/box/attach?detachKeys=ctrl-xx", "")
	if got := text(t, resp); resp.StatusCode != http.StatusBadRequest || !strings.Contains(got, "Invalid detach keys (ctrl-xx) provided") {
		t.Fatalf("%d %s", resp.StatusCode, got)
	}
}

func TestExec(t *testing.T) {
	e := attached(echo, false)
	socket, _ := serve(t, e)
	resp := request(t, socket, "POST", "/containers/box/exec", `{"Cmd":["cat"],"AttachStdin":true,"AttachStdout":true,"DetachKeys":"ctrl-x,x"}`)
	if got := text(t, resp); resp.StatusCode != http.StatusCreated || got != `{"Id":"exec1"}`+"\n" {
		t.Fatalf("%d %s", resp.StatusCode, got)
	}
	// The input begins before the answer.
	h := hijack(t, socket, "/exec/exec1/start", `{"Tty":false}`, "in", true)
	h.closeWrite(t)
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, h.r); err != nil || out.String() != "out:in" {
		t.Fatalf("%q, %v", out.String(), err)
	}
	// With a terminal, by the keys that it was created with.
	if e.exec.DetachKeys != "\x18x" {
		t.Fatalf("%q", e.exec.DetachKeys)
	}
	h = hijack(t, socket, "/exec/exec1/start", `{"Tty":true}`, "a\x10\x11b\x18xnever", true)
	if got, err := io.ReadAll(h.r); string(got) != "detached after a\x10\x11b" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	// Why it did not start stands where its output would.
	e.mu.Lock()
	e.process = func(context.Context, runner.Streams) int { return 127 }
	e.mu.Unlock()
	h = hijack(t, socket, "/exec/exec1/start", `{}`, "", true)
	out.Reset()
	if _, err := stdcopy.StdCopy(&out, io.Discard, h.r); err != nil || out.String() != "exec failed: no such file\r\n" {
		t.Fatalf("%q, %v", out.String(), err)
	}
	for _, c := range []struct {
		path, body string
		code       int
		message    string
	}{
		{"/exec/exec1/start", `{"Detach":true}`, 200, ""},
		{"/exec/none/start", `{}`, 404, "No such exec instance: none"},
		{"/exec/none/start", `{"Tty":true}`, 404, "No such exec instance: none"},
		{"/containers/box/exec", `{}`, 400, "No exec command specified"},
		{"/containers/none/exec", `{"Cmd":["x"]}`, 404, "No such container: none"},
		{"/containers/box/exec", `{"Cmd":["x"],"DetachKeys":"ctrl-xx"}`, 400, "Invalid detach keys (ctrl-xx) provided"},
	} {
		resp := request(t, socket, "POST", c.path, c.body)
		if got := text(t, resp); resp.StatusCode != c.code || !strings.Contains(got, c.message) {
			t.Errorf("%s %s: %d %s", c.path, c.body, resp.StatusCode, got)
		}
	}
}

// TestPanic checks that a panic is the answer's and not the daemon's end.
func TestPanic(t *testing.T) {
	e := attached(func(context.Context, runner.Streams) int { panic("boom") }, false)
	socket, log := serve(t, e)
	resp := request(t, socket, "GET", "/networks", "") // which is not set
	if got := text(t, resp); resp.StatusCode != http.StatusInternalServerError || got != `{"message":"panic while serving a request"}`+"\n" {
		t.Fatalf("%d %s", resp.StatusCode, got)
	}
	h := hijack(t, socket, "/containers/box/attach?stdout=1&stream=1", "", "", true)
	if got, err := io.ReadAll(h.r); len(got) > 0 || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	if resp := request(t, socket, "GET", "/_ping", ""); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	h.Close() // the server has waited for it
	for end := time.Now().Add(10 * time.Second); !strings.Contains(log.String(), "panic=boom"); {
		if time.Now().After(end) {
			t.Fatal(log.String())
		}
	}
}

func TestLogs(t *testing.T) {
	e := newEngine()
	socket, _ := serve(t, e)
	e.logs = func(_ context.Context, opts runner.LogOptions, s runner.Streams) error {
		fmt.Fprintf(s.Stdout, "%d %v %v\n", opts.Tail, opts.Since.Unix(), opts.Until.IsZero())
		say(t, s.Stderr, "e\n")
		return errors.New("disk on fire")
	}
	resp := request(t, socket, "GET", "/v1.50/containers/box/logs?stdout=1&stderr=1&tail=5&since=100.5", "")
	if ct := resp.Header.Get("Content-Type"); ct != "application/vnd.docker.multiplexed-stream" {
		t.Fatal(ct)
	}
	var out, errs bytes.Buffer
	_, err := stdcopy.StdCopy(&out, &errs, resp.Body)
	if out.String() != "5 100 true\n" || errs.String() != "e\n" || err == nil || err.Error() != "error from daemon in stream: Error grabbing logs: disk on fire\n" {
		t.Fatalf("%q %q %v", out.String(), errs.String(), err)
	}
	resp = request(t, socket, "GET", "/containers/box/logs", "")
	if got := text(t, resp); resp.StatusCode != http.StatusBadRequest || !strings.Contains(got, "you must choose at least one stream") {
		t.Fatalf("%d %s", resp.StatusCode, got)
	}

	// A line that is followed comes at once, and the end of the client ends all.
	ended := make(chan struct{})
	e.tty = true
	e.logs = func(ctx context.Context, opts runner.LogOptions, s runner.Streams) error {
		defer close(ended)
		if opts.Tail != -1 {
			t.Errorf("tail %d", opts.Tail)
		}
		say(t, s.Stdout, "line\n")
		<-ctx.Done()
		return ctx.Err()
	}
	resp = request(t, socket, "GET", "/v1.50/containers/box/logs?stdout=1&follow=1&tail=all", "")
	if ct := resp.Header.Get("Content-Type"); ct != "application/vnd.docker.raw-stream" {
		t.Fatal(ct)
	}
	line := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, line); err != nil || string(line) != "line\n" {
		t.Fatalf("%q %v", line, err)
	}
	resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("following went on")
	}
}
