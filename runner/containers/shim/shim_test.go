package shim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// host is what a test runs containers on.
type host struct {
	*Shim
	t      testing.TB
	dir    string // state of the shim
	layers string
	cgroup string
}

// newHost makes a host with the given runtime, and a busybox layer.
func newHost(t testing.TB, runtime string) *host {
	t.Helper()
	h := &host{t: t, dir: shortTemp(t), layers: t.TempDir(), cgroup: "/berth-shim-test-" + filepath.Base(t.TempDir()) + randomID()[:8]}
	busybox(t, filepath.Join(h.layers, "lower"))
	h.open(runtime)
	t.Cleanup(func() {
		ids, err := h.List()
		for _, id := range ids {
			err = errors.Join(err, h.Delete(context.Background(), id))
		}
		if err = errors.Join(err, h.Close()); err != nil {
			t.Error(err)
		}
		c, _ := findCgroups()
		if err := c.remove(context.Background(), h.cgroup); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *host) open(runtime string) {
	h.t.Helper()
	var err error
	h.Shim, err = Open(context.Background(), Options{Runtime: runtime, RunDir: h.dir, Log: slog.New(slog.NewTextHandler(h.t.Output(), nil))})
	if err != nil {
		h.t.Fatal(err)
	}
}

// shortTemp returns a directory whose path leaves room for a socket's name.
func shortTemp(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shim") //nolint:usetesting // a shorter path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// busybox makes a file tree of one program.
func busybox(t testing.TB, dir string) {
	t.Helper()
	for _, d := range []string{"bin", "proc", "sys", "dev", "etc", "tmp", "mnt"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "true", "cat", "sleep", "echo", "dd", "yes", "head", "stty", "kill", "ls"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/plain"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func randomID() string {
	var b [32]byte
	f, _ := os.Open("/dev/urandom")
	defer f.Close()
	_, _ = io.ReadFull(f, b[:])
	const hex = "0123456789abcdef"
	out := make([]byte, 0, 64)
	for _, c := range b {
		out = append(out, hex[c>>4], hex[c&15])
	}
	return string(out)
}

// minimalSpec is a specification with the namespaces and mounts of a container.
func minimalSpec(args ...string) *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin", "HOME=/"},
			Capabilities: &specs.LinuxCapabilities{},
		},
		Root: &specs.Root{},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace},
			{Type: specs.MountNamespace},
			{Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace},
			{Type: specs.NetworkNamespace},
		}},
	}
}

// request returns a request for a container, with directories of its own.
func (h *host) request(args ...string) CreateRequest {
	h.t.Helper()
	id := randomID()
	req := CreateRequest{ID: id, Spec: minimalSpec(args...)}
	req.Spec.Linux.CgroupsPath = h.cgroup + "/" + id
	dir := filepath.Join(h.layers, id)
	req.Rootfs = Rootfs{Lower: []string{filepath.Join(h.layers, "lower")}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	for _, d := range []string{req.Rootfs.Upper, req.Rootfs.Work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	req.LogPath = filepath.Join(dir, "log")
	return req
}

func (h *host) create(req CreateRequest) Process {
	h.t.Helper()
	p, err := h.Create(h.ctx(), req)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (h *host) ctx() context.Context { return context.Background() }

func (h *host) start(id string) {
	h.t.Helper()
	if err := h.Start(h.ctx(), id); err != nil {
		h.t.Fatal(err)
	}
}

// exit returns the next exit.
func (h *host) exit() Exit {
	h.t.Helper()
	select {
	case e := <-h.Exits():
		return e
	case <-time.After(20 * time.Second):
		h.t.Fatal("no exit is told")
		return Exit{}
	}
}

func (h *host) delete(id string) {
	h.t.Helper()
	if err := h.Delete(h.ctx(), id); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) state(id string) State {
	h.t.Helper()
	st, err := h.Status(id)
	if err != nil {
		h.t.Fatal(err)
	}
	return st.State
}

// runtimes runs a test with each OCI runtime.
func runtimes(t *testing.T, f func(t *testing.T, h *host)) {
	for _, name := range []string{"crun", "runc"} {
		t.Run(name, func(t *testing.T) { f(t, newHost(t, name)) })
	}
}

func TestLife(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		req := h.request("sh", "-c", "echo out; echo err >&2; echo x > /written; exit 7")
		p := h.create(req)
		if p.PID <= 0 || p.MonitorPID <= 0 {
			t.Errorf("processes: %+v", p)
		}
		if got := h.state(req.ID); got != StateCreated {
			t.Errorf("state after create: %s", got)
		}
		if _, err := h.Create(t.Context(), req); !errors.Is(err, runner.ErrConflict) {
			t.Errorf("created twice: %v", err)
		}
		h.start(req.ID)
		e := h.exit()
		if e.ID != req.ID || e.ExecID != "" || e.Code != 7 || e.OOMKilled || time.Since(e.At) > time.Minute {
			t.Errorf("exit: %+v", e)
		}
		st, err := h.Status(req.ID)
		if err != nil || st.State != StateStopped || st.Exit == nil || st.Exit.Code != 7 {
			t.Errorf("status: %+v, %v", st, err)
		}
		if err := h.Start(t.Context(), req.ID); !errors.Is(err, runner.ErrConflict) {
			t.Errorf("started after its end: %v", err)
		}
		log, err := os.ReadFile(req.LogPath)
		if err != nil || !strings.Contains(string(log), " stdout F out\n") || !strings.Contains(string(log), " stderr F err\n") {
			t.Errorf("log: %q, %v", log, err)
		}
		if text, err := os.ReadFile(filepath.Join(req.Rootfs.Upper, "written")); string(text) != "x\n" || err != nil {
			t.Errorf("writable layer: %q, %v", text, err)
		}
		h.delete(req.ID)
		h.delete(req.ID)
		if _, err := h.Status(req.ID); !errors.Is(err, runner.ErrNotFound) {
			t.Errorf("status of what was deleted: %v", err)
		}
		h.create(req) // the same again, as a restart does
		if err := h.Start(t.Context(), req.ID); err != nil {
			t.Error(err)
		}
		if err := h.Start(t.Context(), req.ID); err == nil {
			t.Error("started twice")
		}
		if e := h.exit(); e.Code != 7 {
			t.Errorf("exit: %+v", e)
		}
	})
}

func TestSignals(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		req := h.request("sh", "-c", `trap "exit 3" TERM; while :; do sleep 0.01; done`)
		h.create(req)
		h.start(req.ID)
		time.Sleep(0)
		waitFor(t, func() bool {
			pids, err := h.PIDs(req.ID)
			return err == nil && len(pids) == 2 // the shell has set its trap
		})
		if err := h.Pause(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		if got := h.state(req.ID); got != StatePaused {
			t.Errorf("paused: %s", got)
		}
		if err := h.Resume(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		if got := h.state(req.ID); got != StateRunning {
			t.Errorf("resumed: %s", got)
		}
		if err := h.Kill(t.Context(), req.ID, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if e := h.exit(); e.Code != 3 {
			t.Errorf("exit after SIGTERM: %+v", e)
		}
		if err := h.Kill(t.Context(), req.ID, syscall.SIGTERM); !errors.Is(err, runner.ErrConflict) {
			t.Errorf("signal after the end: %v", err)
		}
		req = h.request("sleep", "1000")
		h.create(req)
		h.start(req.ID)
		if err := h.Pause(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		if err := h.Kill(t.Context(), req.ID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if e := h.exit(); e.Code != 137 || e.ID != req.ID {
			t.Errorf("exit of what was paused and killed: %+v", e)
		}
	})
}

// waitFor waits until something holds.
func waitFor(t testing.TB, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to pass")
		}
	}
}

func TestMissingCommand(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		for command, want := range map[string]string{
			"nosuch":     `exec: "nosuch": executable file not found in $PATH: unknown`,
			"/nosuch":    `exec: "/nosuch": stat /nosuch: no such file or directory: unknown`,
			"/etc":       `permission denied: unknown`,
			"/etc/plain": `exec: "/etc/plain": permission denied: unknown`,
		} {
			_, err := h.Create(t.Context(), h.request(command))
			const prefix = "failed to create task for container: failed to create shim task: OCI runtime create failed: "
			if err == nil || !strings.HasPrefix(err.Error(), prefix) || !strings.HasSuffix(err.Error(), want) || !errors.Is(err, runner.ErrInvalid) {
				t.Errorf("%s: %v", command, err)
			}
		}
		if ids, err := h.List(); err != nil || len(ids) > 0 {
			t.Errorf("left: %v, %v", ids, err)
		}
	})
}

func TestExec(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		req := h.request("sleep", "1000")
		h.create(req)
		h.start(req.ID)
		process := func(args ...string) *specs.Process {
			return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{}}
		}
		e, err := h.PrepareExec(t.Context(), ExecRequest{ContainerID: req.ID, ExecID: "one", Process: process("sh", "-c", "cat; echo err >&2; exit 5"), Stdin: true, Attach: true})
		if err != nil {
			t.Fatal(err)
		}
		pid, err := e.Start(t.Context())
		if err != nil || pid <= 0 {
			t.Fatal(pid, err)
		}
		if _, err := e.Conn().Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		if err := e.Conn().CloseWrite(); err != nil {
			t.Error(err)
		}
		out, errs := readAll(t, e.Conn())
		if out != "hello" || errs != "err\n" {
			t.Errorf("streams: %q, %q", out, errs)
		}
		if x := h.exit(); x.ExecID != "one" || x.ID != req.ID || x.Code != 5 {
			t.Errorf("exit: %+v", x)
		}
		for command, want := range map[string]string{
			"nosuch":     `OCI runtime exec failed: exec failed: unable to start container process: exec: "nosuch": executable file not found in $PATH: unknown`,
			"/nosuch":    `OCI runtime exec failed: exec failed: unable to start container process: exec: "/nosuch": stat /nosuch: no such file or directory: unknown`,
			"/etc/plain": `OCI runtime exec failed: exec failed: unable to start container process: exec: "/etc/plain": permission denied: unknown`,
		} {
			e, err := h.PrepareExec(t.Context(), ExecRequest{ContainerID: req.ID, ExecID: "two", Process: process(command), Attach: true})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Start(t.Context()); err == nil || err.Error() != want || !errors.Is(err, runner.ErrInvalid) {
				t.Errorf("%s: %v", command, err)
			}
		}
		p := process("true")
		p.Cwd = "/nosuch"
		if e, err = h.PrepareExec(t.Context(), ExecRequest{ContainerID: req.ID, ExecID: "cwd", Process: p}); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Start(t.Context()); err == nil || !strings.Contains(err.Error(), `chdir to cwd ("/nosuch") set in config.json failed: no such file or directory`) {
			t.Error(err)
		}
		if e, err = h.PrepareExec(t.Context(), ExecRequest{ContainerID: req.ID, ExecID: "three", Process: process("true")}); err != nil {
			t.Fatal(err)
		}
		e.Abort()
		if entries, err := os.ReadDir(filepath.Join(h.bundleDir(req.ID), "exec")); err != nil || len(entries) > 0 {
			waitFor(t, func() bool {
				entries, err = os.ReadDir(filepath.Join(h.bundleDir(req.ID), "exec"))
				return len(entries) == 0
			})
		}
		// An exec ends with its container.
		if e, err = h.PrepareExec(t.Context(), ExecRequest{ContainerID: req.ID, ExecID: "four", Process: process("sleep", "1000")}); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.delete(req.ID)
		got := map[string]int{}
		for range 2 {
			x := h.exit()
			got[x.ExecID] = x.Code
		}
		if got[""] != 137 || got["four"] != 137 || len(got) != 2 {
			t.Errorf("exits: %v", got)
		}
	})
}

// readAll reads both streams to their end.
func readAll(t testing.TB, c *Conn) (out, errs string) {
	t.Helper()
	var b [4]bytes.Buffer
	buf := make([]byte, 1000)
	for {
		stream, n, err := c.Read(buf)
		if errors.Is(err, io.EOF) {
			return b[Stdout].String(), b[Stderr].String()
		}
		if err != nil {
			t.Fatal(err)
		}
		b[stream].Write(buf[:n])
	}
}
