package runner

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/berth-registry/berth/e2e/berthtest"
)

const (
	mb = 1 << 20
	// ample is how much more memory than idle the runner may ever have resident
	// while clients do their worst.
	ample = 96 * mb
)

// besieged is a host whose runner's memory is watched.
type besieged struct {
	*host
	idle int64
	most int64
	stop func()
}

// besiege starts a host with a container called talker, which writes without
// end, and watches the runner's memory until the test ends.
func besiege(t *testing.T) *besieged {
	t.Helper()
	h := newHost(t, berthtest.MachineOptions{})
	h.usedCensus()
	if _, err := h.api.run(t.Context(), spec{"talker", h.image("busybox"), []string{"yes", strings.Repeat("blah ", 40)}, nil}); err != nil {
		t.Fatal(err)
	}
	b := &besieged{host: h, idle: h.Resident()}
	ctx, cancel := context.WithCancel(t.Context())
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for ctx.Err() == nil {
			b.most = max(b.most, h.Resident())
			time.Sleep(20 * time.Millisecond)
		}
	})
	b.stop = sync.OnceFunc(func() { cancel(); watcher.Wait() })
	t.Cleanup(b.stop)
	return b
}

// unharmed checks that the runner still does what it is there for, and how much
// memory it took.
func (b *besieged) unharmed() {
	b.t.Helper()
	if got := b.docker.Run("run", "--rm", b.image("busybox"), "echo", "well"); got != "well\n" {
		b.t.Errorf("docker run wrote %q", got)
	}
	if out, code, err := b.api.exec(b.t.Context(), "talker", "echo", "well"); err != nil || code != 0 || out != "well\n" {
		b.t.Errorf("exec wrote %q and ended with %d: %v", out, code, err)
	}
	b.stop()
	b.t.Logf("resident: %d MB idle, %d MB at most", b.idle/mb, b.most/mb)
	if b.most > b.idle+ample {
		b.t.Errorf("the runner had %d MB resident, %d MB when idle", b.most/mb, b.idle/mb)
	}
}

func (b *besieged) dial() net.Conn {
	b.t.Helper()
	c, err := net.Dial("unix", b.Socket())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() })
	return c
}

// send sends a request with a body until it is answered or cut off, and returns
// the status, or 0 if there was none. An error in a stream of progress, whose
// status was sent before, counts as 400.
func (b *besieged) send(method, path, contentType string, body io.Reader) int {
	b.t.Helper()
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", b.Socket())
	}}, Timeout: 2 * time.Minute}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(b.t.Context(), method, "http://runner"+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	res, err := c.Do(req)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			b.t.Errorf("%s %s: %v", method, path, err)
		}
		return 0
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(res.Body, mb)) // it may be cut off
	if bytes.Contains(answer, []byte(`"errorDetail"`)) {
		return http.StatusBadRequest
	}
	return res.StatusCode
}

// endless repeats a text, for at most 1 GB.
func endless(start, text string) io.Reader {
	return io.MultiReader(strings.NewReader(start), io.LimitReader(repeat{[]byte(strings.Repeat(text, 1+4096/len(text)))}, 1<<30))
}

type repeat struct{ text []byte }

func (r repeat) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		n += copy(p[n:], r.text)
	}
	return n, nil
}

// TestEndlessBodies sends bodies that do not end where the runner expects a
// little JSON, or an archive.
func TestEndlessBodies(t *testing.T) {
	t.Parallel()
	b := besiege(t)
	var clients sync.WaitGroup
	for _, r := range []struct {
		method, path, contentType, start, text string
		ok                                     bool // what is sent may be taken
	}{
		{"POST", "/containers/create", "application/json", `{"Image":"`, "a", false},
		{"POST", "/containers/create", "application/json", `{"Cmd":["a"`, `,"a"`, false},
		{"POST", "/containers/create", "application/json", "", "[", false},
		{"POST", "/containers/create", "application/json", `{"Labels":{"a":"b"`, `,"a":"b"`, false},
		{"POST", "/containers/create", "application/json", `{"HostConfig":`, `{"LogConfig":`, false},
		{"POST", "/containers/create", "application/json", "", " ", false},
		{"POST", "/containers/talker/exec", "application/json", `{"Cmd":["a"`, `,"a"`, false},
		{"POST", "/containers/talker/update", "application/json", `{"CpusetCpus":"`, "1,", false},
		{"POST", "/auth", "application/json", `{"username":"`, "a", false},
		{"POST", "/volumes/create", "application/json", `{"Name":"`, "a", false},
		{"POST", "/images/load", "application/x-tar", "", "no archive ", false},
		{"POST", "/images/create?fromSrc=-&repo=x", "text/plain", "", "no archive ", false},
		{"PUT", "/containers/talker/archive?path=/tmp", "application/x-tar", "", "no archive ", false},
		{"POST", "/build", "application/x-tar", "", "no archive ", false},
		{"POST", "/containers/talker/start", "application/json", "", "a", true},
	} {
		clients.Go(func() {
			status := b.send(r.method, r.path, r.contentType, endless(r.start, r.text))
			if !r.ok && status != 0 && (status < 400 || status == 500) {
				t.Errorf("%s %s with a body without end (%s%s…): %d", r.method, r.path, r.start, r.text, status)
			}
		})
	}
	clients.Wait()
	b.unharmed()
}

// TestHeaders sends more header than anybody needs.
func TestHeaders(t *testing.T) {
	t.Parallel()
	b := besiege(t)
	for name, header := range map[string]string{
		"one long header":    "X-Registry-Auth: " + strings.Repeat("a", 16*mb) + "\r\n",
		"many headers":       strings.Repeat("X-Many: a\r\n", 500_000),
		"header without end": strings.Repeat("a", 16*mb),
		"a long list":        "Accept: " + strings.Repeat("a/b,", 100_000) + "\r\n",
	} {
		c := b.dial()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(c, "GET /v1.44/containers/json HTTP/1.1\r\nHost: x\r\n"+header+"\r\n") // it may have heard enough
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Errorf("%s: no answer, and the connection is open", name)
		case err == nil && res.StatusCode >= 500:
			t.Errorf("%s: %s", name, res.Status)
		case err == nil:
			_ = res.Body.Close()
		}
		_ = c.Close()
	}
	long := strings.Repeat("a", 64<<10)
	for _, path := range []string{
		"/containers/json?filters=" + long, "/containers/" + long + "/json", "/images/" + strings.Repeat("a/", 10_000) + "json",
		"/containers/json?filters=%7B" + strings.Repeat("%7B", 10_000), "/v9999999999.9/info", "/v1.44/events?since=" + long,
		"/containers/talker/logs?stdout=1&tail=99999999999999999999", "/containers/talker/archive?path=" + strings.Repeat("../", 10_000) + "none",
	} {
		if status := b.send("GET", path, "", nil); status >= 500 || status != 0 && status < 400 && !strings.Contains(path, "tail=") {
			t.Errorf("GET %.60s…: %d", path, status)
		}
	}
	b.unharmed()
}

// TestSlowClients opens connections on which hardly anything is said.
func TestSlowClients(t *testing.T) { // alone: it would slow others down beyond their patience
	b := besiege(t)
	began, idle := time.Now(), make([]net.Conn, 1000)
	for i := range idle {
		idle[i] = b.dial()
		start := []string{"", "GET /v1.44/info HT", "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"}[i%3]
		if _, err := io.WriteString(idle[i], start); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.docker.Run("ps", "--format", "{{.Names}}"); got != "talker\n" {
		t.Errorf("docker ps says %q", got)
	}
	// Those that have begun a request and do not go on are let go.
	for i, what := range map[int]string{1: "header", 2: "body"} {
		_ = idle[i].SetReadDeadline(began.Add(90 * time.Second))
		if _, err := io.Copy(io.Discard, idle[i]); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a %s that is not finished may take for ever", what)
		}
	}
	b.unharmed()
}

// TestDeafClients opens streams that nobody reads, of containers that write
// without end: the runner keeps little of it, and those that do read get theirs.
// Who is attached and does not read may hold up that container, as with Docker,
// until it is stopped.
func TestDeafClients(t *testing.T) { // alone: it would slow others down beyond their patience
	b := besiege(t)
	ctx, api := t.Context(), b.api
	hold := func(c io.Closer, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	if _, err := api.run(ctx, spec{"ignored", b.image("busybox"), []string{"yes"}, nil}); err != nil {
		t.Fatal(err)
	}
	full := false // its monitor takes no more clients while one does not read
	for i := range 200 {
		if !full {
			a, err := api.ContainerAttach(ctx, "ignored", client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true, Logs: i%2 == 0})
			full = err != nil
			switch {
			case err == nil:
				t.Cleanup(a.Close)
			case i == 0:
				t.Fatal(err)
			}
		}
		r, err := api.ContainerLogs(ctx, "talker", client.ContainerLogsOptions{ShowStdout: true, Follow: true})
		hold(r, err)
		_ = api.Events(ctx, client.EventsListOptions{}) // nobody takes what is in its channels
		if i < 20 {
			x, err := api.ExecCreate(ctx, "talker", client.ExecCreateOptions{Cmd: []string{"yes"}, AttachStdout: true})
			if err != nil {
				t.Fatal(err)
			}
			a, err := api.ExecAttach(ctx, x.ID, client.ExecAttachOptions{})
			hold(closer(a.Close), err)
		}
	}
	for range 20 {
		b.docker.Run("run", "--rm", b.image("busybox"), "true")
	}
	if err := b.heard(); err != nil {
		t.Error(err)
	}
	began := time.Now()
	b.docker.Run("stop", "-t", "1", "ignored")
	b.docker.Run("rm", "ignored")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("a container that nobody listens to stops after %v", took)
	}
	b.unharmed()
}

// heard attaches to the talker as a client that listens, and reads a while.
func (b *besieged) heard() error {
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	a, err := b.api.ContainerAttach(ctx, "talker", client.ContainerAttachOptions{Stream: true, Stdout: true})
	if err != nil {
		return err
	}
	defer a.Close()
	defer context.AfterFunc(ctx, a.Close)()
	if n, err := io.CopyN(io.Discard, a.Reader, 4*mb); err != nil {
		return fmt.Errorf("among clients that do not read, one that does heard %d bytes: %w", n, err)
	}
	return nil
}

type closer func()

func (c closer) Close() error { c(); return nil }
