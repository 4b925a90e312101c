package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
)

func TestExec(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("exec sleep 1000"))
	if code, out := h.exec(id, "/bin/sh", "-c", "echo out; echo err >&2; exit 3"); code != 3 || len(out) != 8 {
		t.Errorf("%d, %q", code, out)
	}
	x, err := h.CreateExec(t.Context(), id, container.ExecCreateRequest{Cmd: []string{"/no/such"}, AttachStdout: true})
	h.must(err)
	stream, err := h.StartExec(t.Context(), x, container.ExecStartRequest{}, false, true, false)
	h.must(err)
	if err := stream.Copy(t.Context(), runner.Streams{Stdout: &buffer{}}); !errors.Is(err, runner.ErrInvalid) {
		t.Errorf("a missing command: %v", err)
	}
	if got, err := h.InspectExec(t.Context(), x); err != nil || got.Running || got.ExitCode == nil || *got.ExitCode != 127 {
		t.Errorf("it is %+v, %v", got, err)
	}
	if _, err := h.StartExec(t.Context(), x, container.ExecStartRequest{}, false, true, false); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("started again: %v", err)
	}
	// An exec belongs to a run of its container.
	x, err = h.CreateExec(t.Context(), id, container.ExecCreateRequest{Cmd: []string{"true"}})
	h.must(err)
	h.must(h.RestartContainer(t.Context(), id, runner.StopOptions{Timeout: new(0)}))
	if err := h.StartExecDetached(t.Context(), x, container.ExecStartRequest{}); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("started in the next run: %v", err)
	}
	h.must(h.RemoveContainer(t.Context(), id, runner.RemoveOptions{Force: true}))
	if files, err := os.ReadDir(filepath.Join(h.opts.Run, "execs")); err != nil || len(files) != 0 {
		t.Errorf("files are left: %v, %v", files, err)
	}
}

// Execs outlive their engine, and so do their exit codes.
func TestExecAndReopen(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("exec sleep 1000"))
	start := func(script string) string {
		x, err := h.CreateExec(t.Context(), id, container.ExecCreateRequest{Cmd: []string{"/bin/sh", "-c", script}})
		h.must(err)
		h.must(h.StartExecDetached(t.Context(), x, container.ExecStartRequest{}))
		return x
	}
	ends := start("while [ ! -e /tmp/end ]; do sleep 0.02; done; exit 4")
	unheard := start("while [ ! -e /tmp/end ]; do sleep 0.02; done; exit 5")
	waits, err := h.CreateExec(t.Context(), id, container.ExecCreateRequest{Cmd: []string{"true"}})
	h.must(err)
	h.reopen()
	// Of this one the engine before has heard, and was killed before it wrote it down.
	x := h.execs.get(unheard)
	x.mu.Lock()
	x.gone = true
	x.mu.Unlock()
	if code, out := h.exec(id, "/bin/touch", "/tmp/end"); code != 0 {
		t.Fatal(out)
	}
	ended := func(id string, want int) func() bool {
		return func() bool {
			got, err := h.InspectExec(t.Context(), id)
			h.must(err)
			if got.ExitCode != nil && *got.ExitCode != want {
				t.Fatalf("exit code %d, want %d", *got.ExitCode, want)
			}
			return got.ExitCode != nil && !got.Running
		}
	}
	h.eventually("it ends", ended(ends, 4))
	h.eventually("it ends", ended(unheard, 5))
	h.reopen()
	h.eventually("it is known to have ended", ended(ends, 4))
	h.eventually("it is known to have ended", ended(unheard, execKilled))
	h.must(h.StartExecDetached(t.Context(), waits, container.ExecStartRequest{}))
}

// No number of execs grows the engine for ever.
func TestExecsAreBounded(t *testing.T) {
	dir := t.TempDir()
	file := func(id string) string { return filepath.Join(dir, id+".json") }
	table, saved := newExecTable(), 0
	add := func(i int, cmd string) *exec {
		x := newExec(file, 1, execState{ID: fmt.Sprint(i), Container: "c", Request: container.ExecCreateRequest{Cmd: []string{cmd}}})
		if i%64 == 0 {
			if err := x.save(); err != nil {
				t.Fatal(err)
			}
			saved++
		}
		table.add(x)
		return x
	}
	const many = execsWaiting + 100
	for i := range many {
		add(i, "true")
	}
	if table.get("99") != nil || table.get("100") == nil {
		t.Error("of those that wait, others than the oldest are forgotten")
	}
	running := table.get(fmt.Sprint(many - 1))
	if err := table.claim(running); err != nil {
		t.Fatal(err)
	}
	for i := range execsEnded + 10 {
		x := table.get(fmt.Sprint(many - 2 - i))
		x.state.ExitCode = new(0)
		table.end(x)
	}
	if n := table.ended.Len(); n != execsEnded {
		t.Errorf("%d that have ended are known", n)
	}
	if table.get(running.id) != running {
		t.Error("one that runs was forgotten")
	}
	for i := range 100 { // far more than may be kept
		add(many+i, strings.Repeat("x", 1<<20))
	}
	if size := table.waiting.size; size > execsSize || size < execsSize/2 {
		t.Errorf("%d bytes are kept", size)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == saved || len(files) == 0 {
		t.Errorf("%d files of %d, %v", len(files), saved, err)
	}
	for _, x := range table.of("c") {
		table.remove(x)
		if err := x.save(); err != nil { // too late: it must not come back
			t.Error(err)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 || table.waiting.size != 0 || table.ended.size != 0 {
		t.Errorf("left: %d files, %d and %d bytes", len(files), table.waiting.size, table.ended.size)
	}
}

// A client that goes away in any phase leaves no connection and no goroutine.
func TestClientsThatLeave(t *testing.T) {
	h := newHost(t)
	req := script("read x; echo got $x; exec sleep 1000")
	req.OpenStdin = true
	id := h.create(req)
	c, err := h.find(id)
	h.must(err)
	all := runner.AttachOptions{Stdin: true, Stdout: true, Stderr: true, Stream: true}
	given, err := h.AttachContainer(t.Context(), id, all)
	h.must(err)
	given.Close() // before it is copied
	leaves := func(phase string) {
		t.Helper()
		before := files(t)
		for range 20 {
			s, err := h.AttachContainer(t.Context(), id, all)
			h.must(err)
			done := make(chan error, 1)
			gone := h.client(s, done)
			gone()
			if err := <-done; err == nil {
				t.Error("the copy ended before its client left")
			}
		}
		h.eventually("no file is left of clients that leave "+phase, func() bool { return files(t) <= before })
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.clients) != 0 {
			t.Errorf("%s %d clients still wait", phase, len(c.clients))
		}
	}
	leaves("before the start")
	h.must(h.StartContainer(t.Context(), id))
	leaves("while it runs")
	// And one that stays is served.
	s, err := h.AttachContainer(t.Context(), id, all)
	h.must(err)
	var out buffer
	go func() {
		_ = s.Copy(t.Context(), runner.Streams{Stdin: strings.NewReader("this\n"), Stdout: &out, Stderr: &out})
	}()
	h.eventually("its input arrives", func() bool { return out.String() == "got this\n" })
}

// client copies a stream until it is told to go.
func (h *host) client(s runner.Stream, done chan<- error) (leave func()) {
	ctx, cancel := contextOf(h.t)
	input := make(blocked)
	go func() { done <- s.Copy(ctx, runner.Streams{Stdin: input, Stdout: &buffer{}, Stderr: &buffer{}}) }()
	return func() { cancel(); close(input) }
}

// blocked is the input of a client that says nothing.
type blocked chan struct{}

func (b blocked) Read([]byte) (int, error) { <-b; return 0, os.ErrClosed }

// Clients without input that leave must not close the container's; their
// connections stay, but not without bound.
func TestLingeringIsBounded(t *testing.T) {
	h := newHost(t)
	req := script("echo ready; read x; echo got $x; exec sleep 1000")
	req.OpenStdin, req.StdinOnce = true, true
	id := h.run(req)
	h.saysReady(id)
	c, err := h.find(id)
	h.must(err)
	before := files(t)
	attach := func() {
		s, err := h.AttachContainer(t.Context(), id, runner.AttachOptions{Stdout: true, Stream: true})
		h.must(err)
		ctx, cancel := contextOf(t)
		cancel()
		_ = s.Copy(ctx, runner.Streams{Stdout: &buffer{}})
	}
	attach()
	s, err := h.AttachContainer(t.Context(), id, runner.AttachOptions{Stdin: true, Stdout: true, Stream: true})
	h.must(err)
	var out buffer
	go func() { _ = s.Copy(t.Context(), runner.Streams{Stdin: strings.NewReader("this\n"), Stdout: &out}) }()
	h.eventually("the input is still open", func() bool { return out.String() == "got this\n" })
	for range 2 * maxLinger {
		attach()
	}
	h.eventually("the connections are bounded", func() bool { return files(t) <= before+maxLinger+4 })
	c.mu.Lock()
	n := c.run.lingers
	c.mu.Unlock()
	if n != maxLinger {
		t.Errorf("%d linger", n)
	}
	h.must(h.StopContainer(t.Context(), id, runner.StopOptions{Timeout: new(0)}))
	h.eventually("they end with the container", func() bool { return files(t) <= before })
}

// Input that the container does not take is no reason to lose its output.
func TestInputThatNobodyReads(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for range 3 {
		req := script("dd if=/dev/zero bs=64k count=4; echo done")
		req.OpenStdin, req.StdinOnce = true, true
		id := h.create(req)
		s, err := h.AttachContainer(t.Context(), id, runner.AttachOptions{Stdin: true, Stdout: true, Stream: true})
		h.must(err)
		var out buffer
		copied := make(chan error, 1)
		go func() { copied <- s.Copy(t.Context(), runner.Streams{Stdin: endless{}, Stdout: slow{&out}}) }()
		h.must(h.StartContainer(t.Context(), id))
		if err := <-copied; err != nil || len(out.String()) != 4<<16+len("done\n") {
			t.Errorf("%d bytes came, %v", len(out.String()), err)
		}
	}
}

// slow takes its time, so that the container is gone before its output is read.
type slow struct{ io.Writer }

func (s slow) Write(p []byte) (int, error) {
	time.Sleep(5 * time.Millisecond)
	return s.Writer.Write(p)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A client whose connection breaks while it is written to must not close the
// container's input either, if it has none itself.
func TestBrokenOutput(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	req := script("while [ ! -e /tmp/stop ]; do echo more; sleep 0.01; done; read x; echo got $x")
	req.OpenStdin, req.StdinOnce = true, true
	id := h.run(req)
	s, err := h.AttachContainer(t.Context(), id, runner.AttachOptions{Stdout: true, Stream: true})
	h.must(err)
	if err := s.Copy(t.Context(), runner.Streams{Stdout: broken{}}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the copy ended with %v", err)
	}
	h.exec(id, "/bin/touch", "/tmp/stop")
	s, err = h.AttachContainer(t.Context(), id, runner.AttachOptions{Stdin: true, Stdout: true, Stream: true})
	h.must(err)
	var out buffer
	go func() { _ = s.Copy(t.Context(), runner.Streams{Stdin: strings.NewReader("this\n"), Stdout: &out}) }()
	h.eventually("the input is still open", func() bool { return strings.Contains(out.String(), "got this\n") })
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, os.ErrClosed }

// The exit of an exec that is told when its container is gone is nobody's.
func TestExecExitOfNobody(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.exited(h.lifetime(), shim.Exit{ID: newID(), ExecID: newID(), At: time.Now()})
}
