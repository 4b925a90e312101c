package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"hash/fnv"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
)

// host is what a test runs an engine on: real containers of an image of busybox.
type host struct {
	*Engine
	t    testing.TB
	opts Options
}

const busybox = "busybox:latest"

// newHost opens an engine on directories of its own. When the test ends, all its
// containers are removed, and nothing may be left of them.
func newHost(t testing.TB) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine") //nolint:usetesting // a shorter path, for sockets
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, opts: Options{
		Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run"), Version: "test", Runtime: "crun",
		Subnet: subnetOf(t), LogMaxSize: 1 << 20, LogMaxFile: 2, StopTimeout: 10 * time.Second,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}}
	h.open()
	t.Cleanup(func() {
		h.removeAll()
		instance := h.instance
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob("/sys/fs/cgroup/*/berth-" + instance); left != nil {
			t.Errorf("cgroups are left: %v", left)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if _, err := h.ImportImage(t.Context(), runner.ImportRequest{Repo: "busybox", Tag: "latest"}, busyboxTar(t), nil); err != nil {
		t.Fatal(err)
	}
	return h
}

// subnetOf gives every test another range of addresses.
func subnetOf(t testing.TB) netip.Prefix {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(t.Name()))
	n := sum.Sum32()
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(200 + n>>8%20), byte(n), 0}), 24)
}

func (h *host) open() {
	h.t.Helper()
	var err error
	if h.Engine, err = Open(context.Background(), h.opts); err != nil {
		h.t.Fatal(err)
	}
}

// reopen ends the engine and opens another on what it leaves.
func (h *host) reopen() {
	h.t.Helper()
	if err := h.Close(); err != nil {
		h.t.Error(err)
	}
	h.open()
}

func (h *host) removeAll() {
	for _, c := range h.all() {
		err := h.RemoveContainer(context.Background(), c.id, runner.RemoveOptions{Force: true, Volumes: true})
		if err != nil && !errors.Is(err, runner.ErrNotFound) {
			h.t.Error(err)
		}
	}
}

// busyboxTar is a file tree of one program.
func busyboxTar(t testing.TB) io.Reader {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(header *tar.Header, data []byte) {
		header.Size = int64(len(data))
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "proc", "sys", "dev", "etc", "tmp", "mnt", "data"} {
		add(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	for _, name := range []string{"sh", "true", "false", "cat", "sleep", "echo", "dd", "touch", "kill", "ls", "nc", "hostname", "grep"} {
		add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}, nil)
	}
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "data/file", Mode: 0o644}, []byte("of the image"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// script is a request for a container that runs a script of a shell.
func script(text string, edit ...func(*runner.CreateRequest)) runner.CreateRequest {
	req := runner.CreateRequest{CreateRequest: container.CreateRequest{
		Config:     &container.Config{Image: busybox, Cmd: []string{"/bin/sh", "-c", text}, Env: []string{"PATH=/bin"}},
		HostConfig: &container.HostConfig{NetworkMode: "none"},
	}}
	for _, f := range edit {
		f(&req)
	}
	return req
}

func named(name string) func(*runner.CreateRequest) {
	return func(req *runner.CreateRequest) { req.Name = name }
}

func removedAtEnd(req *runner.CreateRequest) { req.HostConfig.AutoRemove = true }

func restarted(name container.RestartPolicyMode, limit int) func(*runner.CreateRequest) {
	return func(req *runner.CreateRequest) {
		req.HostConfig.RestartPolicy = container.RestartPolicy{Name: name, MaximumRetryCount: limit}
	}
}

func (h *host) create(req runner.CreateRequest) string {
	h.t.Helper()
	resp, err := h.CreateContainer(h.t.Context(), req)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.ID
}

// run creates and starts a container.
func (h *host) run(req runner.CreateRequest) string {
	h.t.Helper()
	id := h.create(req)
	h.must(h.StartContainer(h.t.Context(), id))
	return id
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// state is where a container is; the zero State if it is gone.
func (h *host) state(id string) runner.State {
	c, err := h.find(id)
	if err != nil {
		return runner.State{}
	}
	_, st := c.snapshot()
	return st
}

// wait waits for the end of a run, or of the container.
func (h *host) wait(id string, until container.WaitCondition) container.WaitResponse {
	h.t.Helper()
	done, err := h.WaitContainer(h.t.Context(), id, until)
	h.must(err)
	select {
	case r := <-done:
		return r
	case <-time.After(patience):
		h.t.Fatalf("container %s is still %s", id[:12], h.state(id).Status)
		return container.WaitResponse{}
	}
}

// patience is how long something that must happen may take on a busy machine.
const patience = 30 * time.Second

// eventually waits until a condition holds.
func (h *host) eventually(what string, holds func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("not in time: %s", what)
		}
	}
}

// logs returns what a container has written.
func (h *host) logs(id string) string {
	h.t.Helper()
	var out buffer
	stream, err := h.ContainerLogs(h.t.Context(), id, runner.LogOptions{Stdout: true, Stderr: true, Tail: -1})
	h.must(err)
	h.must(stream.Copy(h.t.Context(), runner.Streams{Stdout: &out, Stderr: &out}))
	return out.String()
}

// saysReady waits until a container has written the line "ready".
func (h *host) saysReady(id string) {
	h.t.Helper()
	h.eventually("the container is ready", func() bool { return strings.Contains(h.logs(id), "ready") })
}

// exec runs a command in a container, and returns its exit code.
func (h *host) exec(id string, cmd ...string) (code int, output string) {
	h.t.Helper()
	x, err := h.CreateExec(h.t.Context(), id, container.ExecCreateRequest{Cmd: cmd, AttachStdout: true, AttachStderr: true})
	h.must(err)
	stream, err := h.StartExec(h.t.Context(), x, container.ExecStartRequest{}, false, true, true)
	h.must(err)
	var out buffer
	h.must(stream.Copy(h.t.Context(), runner.Streams{Stdout: &out, Stderr: &out}))
	got, err := h.InspectExec(h.t.Context(), x)
	h.must(err)
	if got.ExitCode == nil {
		h.t.Fatal("the exec has no exit code")
	}
	return *got.ExitCode, out.String()
}

// buffer is a bytes.Buffer for several writers.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func exitOf(id string, code int) shim.Exit {
	return shim.Exit{ID: id, Code: code, At: time.Now()}
}

func itoa(n int) string { return strconv.Itoa(n) }

// tarOf is an archive of one file.
func tarOf(t testing.TB, name, content string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return &b
}

// files counts the files that this process has open.
func files(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func contextOf(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

// portOf publishes a port of the container on one of the host.
func portOf(t testing.TB, port, host string) network.PortMap {
	t.Helper()
	p, err := network.ParsePort(port)
	if err != nil {
		t.Fatal(err)
	}
	return network.PortMap{p: {{HostPort: host}}}
}
