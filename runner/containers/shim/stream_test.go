package shim

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

func (h *host) attach(id string) *Conn {
	h.t.Helper()
	c, err := h.Attach(h.ctx(), id, "")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestSlowReader reads 50 MB more slowly than they are written: all arrive, and
// all are in the log.
func TestSlowReader(t *testing.T) {
	h := newHost(t, "crun")
	const size = 50 << 20
	req := h.request("sh", "-c", fmt.Sprintf("yes 0123456789abcdef0123456789abcde | head -c %d", size))
	h.create(req)
	c := h.attach(req.ID)
	h.start(req.ID)
	sum, n := sha256.New(), 0
	buf := make([]byte, 5000)
	for {
		stream, m, err := c.Read(buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || stream != Stdout {
			t.Fatal(stream, err)
		}
		if n>>20 != (n+m)>>20 {
			time.Sleep(10 * time.Millisecond)
		}
		sum.Write(buf[:m])
		n += m
	}
	line := []byte("0123456789abcdef0123456789abcde\n")
	want := sha256.Sum256(bytes.Repeat(line, size/len(line)))
	if n != size || !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Errorf("%d bytes, digest %x", n, sum.Sum(nil))
	}
	if e := h.exit(); e.Code != 0 {
		t.Errorf("exit: %+v", e)
	}
	log := sha256.New()
	logged(t, req.LogPath, log)
	if !bytes.Equal(log.Sum(nil), want[:]) {
		t.Error("the log is not what was written")
	}
}

// logged copies what a log in conmon's format holds.
func logged(t *testing.T, path string, w io.Writer) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		fields := bytes.SplitN(line, []byte(" "), 4)
		if len(fields) != 4 {
			t.Fatalf("line of the log: %q", line)
		}
		if data := fields[3]; string(fields[2]) == "P" {
			_, _ = w.Write(data[:len(data)-1])
		} else {
			_, _ = w.Write(data)
		}
	}
}

func TestStdin(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		req := h.request("cat")
		req.Stdin, req.StdinOnce = true, true
		h.create(req)
		c := h.attach(req.ID)
		h.start(req.ID)
		data := bytes.Repeat([]byte("0123456789"), 1<<20)
		go func() {
			_, err := c.Write(data)
			if err = errors.Join(err, c.CloseWrite()); err != nil {
				t.Error(err)
			}
		}()
		if out, _ := readAll(t, c); out != string(data) {
			t.Errorf("%d bytes came back", len(out))
		}
		if e := h.exit(); e.Code != 0 {
			t.Errorf("exit: %+v", e)
		}
		// Without StdinOnce another client can go on writing.
		req = h.request("sh", "-c", "read a; read b; echo $a $b")
		req.Stdin = true
		h.create(req)
		h.start(req.ID)
		first := h.attach(req.ID)
		if _, err := first.Write([]byte("one\n")); err != nil {
			t.Error(err)
		}
		if err := errors.Join(first.CloseWrite(), first.Close()); err != nil {
			t.Error(err)
		}
		second := h.attach(req.ID)
		if _, err := second.Write([]byte("two\n")); err != nil {
			t.Error(err)
		}
		if out, _ := readAll(t, second); out != "one two\n" {
			t.Errorf("output: %q", out)
		}
		h.exit()
		if _, err := h.Attach(t.Context(), req.ID, ""); !errors.Is(err, runner.ErrConflict) {
			t.Errorf("attached to what has ended: %v", err)
		}
	})
}

func TestTerminal(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		req := h.request("sh", "-c", `until [ "$(stty size)" = "33 1000" ]; do sleep 0.01; done; read x; echo answer $x; exit 4`)
		req.Spec.Process.Terminal = true
		req.Spec.Process.ConsoleSize = &specs.Box{Height: 10, Width: 20}
		req.Stdin = true
		h.create(req)
		c := h.attach(req.ID)
		h.start(req.ID)
		if err := h.Resize(t.Context(), req.ID, "", 33, 2000); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("go\n")); err != nil {
			t.Fatal(err)
		}
		if out, errs := readAll(t, c); !strings.Contains(out, "\r\nanswer go\r\n") || errs != "" {
			t.Errorf("output: %q, %q", out, errs)
		}
		if e := h.exit(); e.Code != 4 {
			t.Errorf("exit: %+v", e)
		}
		h.delete(req.ID)
		if err := h.Resize(t.Context(), req.ID, "", 1, 1); !errors.Is(err, runner.ErrNotFound) {
			t.Errorf("resized after deletion: %v", err)
		}
	})
}

func TestExecTerminal(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		req := h.request("sleep", "1000")
		h.create(req)
		h.start(req.ID)
		for i := range 20 {
			e, err := h.PrepareExec(t.Context(), ExecRequest{ContainerID: req.ID, ExecID: fmt.Sprint("x", i), Attach: true, Stdin: i%2 == 0, Process: &specs.Process{
				Args: []string{"echo", "hello"}, Cwd: "/", Env: []string{"PATH=/bin"}, Terminal: true, Capabilities: &specs.LinuxCapabilities{},
			}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if out, _ := readAll(t, e.Conn()); out != "hello\r\n" {
				t.Errorf("output %d: %q", i, out)
			}
			if x := h.exit(); x.Code != 0 || x.ExecID != fmt.Sprint("x", i) {
				t.Errorf("exit: %+v", x)
			}
			_ = e.Conn().Close()
		}
	})
}

func TestReopenLog(t *testing.T) {
	h := newHost(t, "crun")
	req := h.request("sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; cat")
	req.Stdin, req.StdinOnce = true, true
	h.create(req)
	c := h.attach(req.ID)
	h.start(req.ID)
	go func() { _, _ = io.Copy(io.Discard, discarded{c}) }()
	for i := range 5 {
		if err := os.Rename(req.LogPath, fmt.Sprint(req.LogPath, ".", i)); err != nil {
			t.Fatal(err)
		}
		if err := h.ReopenLog(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	h.exit()
	var all, want bytes.Buffer
	for i := range 5 {
		logged(t, fmt.Sprint(req.LogPath, ".", i), &all)
	}
	logged(t, req.LogPath, &all)
	for i := range 3000 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if !bytes.Equal(all.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes in the logs, want %d", all.Len(), want.Len())
	}
	if err := h.ReopenLog(t.Context(), req.ID); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("after the end: %v", err)
	}
}

// discarded reads a connection as a reader.
type discarded struct{ c *Conn }

func (d discarded) Read(p []byte) (int, error) {
	_, n, err := d.c.Read(p)
	return n, err
}

func TestLogMax(t *testing.T) {
	h := newHost(t, "crun")
	req := h.request("sh", "-c", "yes | head -c 100000")
	req.LogMax = 20000
	h.create(req)
	h.start(req.ID)
	h.exit()
	fi, err := os.Stat(req.LogPath)
	if err != nil || fi.Size() > 20000 {
		t.Errorf("log: %v, %v", fi, err)
	}
	req = h.request("true")
	req.LogPath = ""
	h.create(req)
	h.start(req.ID)
	h.exit()
	if _, err := os.Stat(filepath.Join(h.layers, req.ID, "log")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a log was kept")
	}
}

// TestStalledClient kills a container whose output a client does not read: the exit
// is told all the same.
func TestStalledClient(t *testing.T) {
	h := newHost(t, "crun")
	h.stall = 200 * time.Millisecond
	req := h.request("yes")
	req.LogPath = ""
	h.create(req)
	stalled, reading := h.attach(req.ID), h.attach(req.ID)
	h.start(req.ID)
	if _, _, err := reading.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := h.Kill(t.Context(), req.ID, 9); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, discarded{reading}) }()
	if e := h.exit(); e.Code != 137 {
		t.Errorf("exit: %+v", e)
	}
	if _, err := stalled.Write([]byte("x")); err == nil {
		t.Error("the client that did not read is still connected")
	}
}

// TestDetach connects and disconnects while a container writes.
func TestDetach(t *testing.T) {
	h := newHost(t, "crun")
	req := h.request("yes")
	req.LogPath = ""
	h.create(req)
	h.start(req.ID)
	for range 200 {
		c := h.attach(req.ID)
		if _, _, err := c.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := h.state(req.ID); got != StateRunning {
		t.Errorf("state: %s", got)
	}
}
