package api_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/api"
)

// engine is an Engine for the protocol's sake: it has one container, whose process
// is a function. What a test does not set panics, which is an answer too.
type engine struct {
	api.Engine

	process func(ctx context.Context, s runner.Streams) int
	tty     bool

	mu      sync.Mutex
	created *runner.CreateRequest
	started chan struct{}
	exit    chan int
	sizes   [][2]uint16
	exec    container.ExecCreateRequest
	execEnd int

	pull   func(ctx context.Context, req runner.PullRequest, p runner.Progress) error
	push   func(ctx context.Context, req runner.PushRequest, p runner.Progress) error
	load   func(ctx context.Context, r io.Reader, quiet bool, p runner.Progress) error
	logs   func(ctx context.Context, opts runner.LogOptions, s runner.Streams) error
	events func(since, until time.Time, f runner.Filters) iter.Seq[events.Message]
	save   func(refs []string, w io.Writer) error
	list   func(opts runner.ListOptions) ([]container.Summary, error)
	volume func(req volume.CreateRequest) (volume.Volume, error)
	kill   func(ref, signal string) error
	put    func(path string, opts runner.ArchiveOptions, r io.Reader) error
	get    func(path string) (io.ReadCloser, container.PathStat, error)
	imp    func(req runner.ImportRequest, r io.Reader) (string, error)
	update func(u container.UpdateConfig) error
	wait   func(ctx context.Context, until container.WaitCondition) (<-chan container.WaitResponse, error)
}

const theID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func newEngine() *engine {
	return &engine{started: make(chan struct{}), exit: make(chan int, 1)}
}

func (e *engine) find(ref string) error {
	if ref == "box" || strings.HasPrefix(theID, ref) {
		return nil
	}
	return runner.Errorf(runner.ErrNotFound, "No such container: %s", ref)
}

func (e *engine) CreateContainer(_ context.Context, req runner.CreateRequest) (container.CreateResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if req.Image == "absent" {
		return container.CreateResponse{}, runner.Errorf(runner.ErrNotFound, "No such image: absent:latest")
	}
	e.created, e.tty = &req, req.Tty
	return container.CreateResponse{ID: theID}, nil
}

func (e *engine) StartContainer(_ context.Context, ref string) error {
	if err := e.find(ref); err != nil {
		return err
	}
	select {
	case <-e.started:
		return runner.Errorf(runner.ErrNotModified, "started already")
	default:
		close(e.started)
		return nil
	}
}

func (e *engine) AttachContainer(_ context.Context, ref string, _ runner.AttachOptions) (runner.Stream, error) {
	if err := e.find(ref); err != nil {
		return runner.Stream{}, err
	}
	return runner.Stream{TTY: e.tty, Close: func() {}, Copy: func(ctx context.Context, s runner.Streams) error {
		select {
		case <-e.started:
		case <-ctx.Done():
			return ctx.Err()
		}
		code := e.process(ctx, s)
		select {
		case e.exit <- code:
		default: // nobody waits
		}
		return nil
	}}, nil
}

func (e *engine) WaitContainer(ctx context.Context, ref string, until container.WaitCondition) (<-chan container.WaitResponse, error) {
	if err := e.find(ref); err != nil {
		return nil, err
	}
	if e.wait != nil {
		return e.wait(ctx, until)
	}
	c := make(chan container.WaitResponse, 1)
	go func() {
		select {
		case code := <-e.exit:
			c <- container.WaitResponse{StatusCode: int64(code)}
		case <-ctx.Done():
		}
	}()
	return c, nil
}

func (e *engine) ResizeContainer(_ context.Context, _ string, height, width uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sizes = append(e.sizes, [2]uint16{height, width})
	return nil
}

func (e *engine) RemoveContainer(context.Context, string, runner.RemoveOptions) error { return nil }

func (e *engine) InspectContainer(_ context.Context, ref string, _ bool) (container.InspectResponse, error) {
	if err := e.find(ref); err != nil {
		return container.InspectResponse{}, err
	}
	mac := network.HardwareAddr{2, 0x42, 0xac, 0x11, 0, 2}
	return container.InspectResponse{
		ID: theID, Name: "/box", Driver: "overlayfs", State: &container.State{Status: "running", Running: true, Pid: 1},
		Config: &container.Config{Image: "busybox", Tty: e.tty, OpenStdin: true, Hostname: "box"}, HostConfig: &container.HostConfig{NetworkMode: "bridge"},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
			"bridge": {IPAddress: addr("172.17.0.2"), IPPrefixLen: 16, Gateway: addr("172.17.0.1"), MacAddress: mac, EndpointID: "ep"},
			"mine":   {IPAddress: addr("10.0.0.2"), Aliases: []string{"alias"}},
		}},
	}, nil
}

func (e *engine) ListContainers(_ context.Context, opts runner.ListOptions) ([]container.Summary, error) {
	return e.list(opts)
}

func (e *engine) KillContainer(_ context.Context, ref, signal string) error {
	return e.kill(ref, signal)
}

func (e *engine) UpdateContainer(_ context.Context, _ string, u container.UpdateConfig) (container.UpdateResponse, error) {
	return container.UpdateResponse{}, e.update(u)
}

func (e *engine) StatContainerPath(_ context.Context, ref, path string) (container.PathStat, error) {
	if err := e.find(ref); err != nil {
		return container.PathStat{}, err
	}
	_, stat, err := e.get(path)
	return stat, err
}

func (e *engine) ReadContainerArchive(_ context.Context, _, path string) (io.ReadCloser, container.PathStat, error) {
	return e.get(path)
}

func (e *engine) WriteContainerArchive(_ context.Context, _, path string, opts runner.ArchiveOptions, r io.Reader) error {
	return e.put(path, opts, r)
}

func (e *engine) ContainerLogs(_ context.Context, ref string, opts runner.LogOptions) (runner.Stream, error) {
	if err := e.find(ref); err != nil {
		return runner.Stream{}, err
	}
	return runner.Stream{TTY: e.tty, Close: func() {}, Copy: func(ctx context.Context, s runner.Streams) error {
		return e.logs(ctx, opts, s)
	}}, nil
}

func (e *engine) CreateExec(_ context.Context, ref string, req container.ExecCreateRequest) (string, error) {
	if err := e.find(ref); err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.exec = req
	return "exec1", nil
}

func (e *engine) StartExec(_ context.Context, id string, _ container.ExecStartRequest, _, _, _ bool) (runner.Stream, error) {
	if id != "exec1" {
		return runner.Stream{}, runner.Errorf(runner.ErrNotFound, "No such exec instance: %s", id)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	process := e.process
	return runner.Stream{TTY: e.exec.Tty, Close: func() {}, Copy: func(ctx context.Context, s runner.Streams) error {
		if !e.exec.AttachStdin {
			s.Stdin = nil
		}
		code := process(ctx, s)
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.execEnd = code; code == 127 {
			return runner.Errorf(runner.ErrInvalid, "exec failed: no such file")
		}
		return nil
	}}, nil
}

func (e *engine) StartExecDetached(context.Context, string, container.ExecStartRequest) error {
	return nil
}

func (e *engine) ResizeExec(context.Context, string, uint16, uint16) error { return nil }

func (e *engine) InspectExec(_ context.Context, id string) (container.ExecInspectResponse, error) {
	if id != "exec1" {
		return container.ExecInspectResponse{}, runner.Errorf(runner.ErrNotFound, "No such exec instance: %s", id)
	}
	e.mu.Lock()
	code := e.execEnd
	e.mu.Unlock()
	return container.ExecInspectResponse{ID: id, ExitCode: &code, DetachKeys: []byte(e.exec.DetachKeys), ProcessConfig: &container.ExecProcessConfig{}}, nil
}

func (e *engine) ListImages(context.Context, runner.ImageListOptions) ([]image.Summary, error) {
	return []image.Summary{{ID: "sha256:" + theID, Size: 7, Containers: 3}}, nil
}

func (e *engine) InspectImage(_ context.Context, ref, platform string, _ bool) (image.InspectResponse, error) {
	if ref != "busybox" && ref != "127.0.0.1:5000/lib/bb:1" || platform == "linux/riscv64" {
		return image.InspectResponse{}, runner.Errorf(runner.ErrNotFound, "No such image: %s", ref)
	}
	return image.InspectResponse{ID: "sha256:" + theID, Size: 7, Os: "linux", Config: &imageConfig}, nil
}

func (e *engine) PullImage(ctx context.Context, req runner.PullRequest, p runner.Progress) error {
	return e.pull(ctx, req, p)
}

func (e *engine) PushImage(ctx context.Context, req runner.PushRequest, p runner.Progress) error {
	return e.push(ctx, req, p)
}

func (e *engine) LoadImages(ctx context.Context, r io.Reader, quiet bool, p runner.Progress) error {
	return e.load(ctx, r, quiet, p)
}

func (e *engine) SaveImages(_ context.Context, refs, _ []string, w io.Writer) error {
	return e.save(refs, w)
}

func (e *engine) ImportImage(_ context.Context, req runner.ImportRequest, r io.Reader, _ runner.Progress) (string, error) {
	return e.imp(req, r)
}

func (e *engine) InspectNetwork(_ context.Context, ref string) (network.Inspect, error) {
	return network.Inspect{}, runner.Errorf(runner.ErrNotFound, "network %s not found", ref)
}

func (e *engine) CreateNetwork(_ context.Context, req network.CreateRequest) (network.CreateResponse, error) {
	if req.Name == "taken" {
		return network.CreateResponse{}, runner.Errorf(runner.ErrConflict, "network with name taken already exists")
	}
	return network.CreateResponse{ID: "the new network"}, nil
}

func (e *engine) PruneNetworks(context.Context, runner.Filters) (network.PruneReport, error) {
	return network.PruneReport{NetworksDeleted: []string{"unused"}}, nil
}

func (e *engine) RemoveNetwork(_ context.Context, ref string) error {
	return runner.Errorf(runner.ErrNotFound, "network %s not found", ref)
}

func (e *engine) InspectVolume(_ context.Context, ref string) (volume.Volume, error) {
	return volume.Volume{}, runner.Errorf(runner.ErrNotFound, "get %s: no such volume", ref)
}

func (e *engine) CreateVolume(_ context.Context, req volume.CreateRequest) (volume.Volume, error) {
	return e.volume(req)
}

func (e *engine) Info(context.Context) (system.Info, error) {
	return system.Info{
		ID: "id", ServerVersion: "1.2.3", OSType: "linux", Driver: "overlayfs", Name: "host",
		SecurityOptions: []string{"name=seccomp,profile=builtin"}, RuncCommit: system.Commit{ID: "abc"},
		FirewallBackend: &system.FirewallInfo{Driver: "nftables"},
	}, nil
}

func (e *engine) Version(context.Context) (system.VersionResponse, error) {
	return system.VersionResponse{Version: "1.2.3", Os: "linux", Arch: "amd64", Components: []system.ComponentVersion{{Name: "Engine", Version: "1.2.3"}}}, nil
}

func (e *engine) Events(_ context.Context, since, until time.Time, f runner.Filters) iter.Seq[events.Message] {
	return e.events(since, until, f)
}

// serve serves e on a unix socket, and returns its path and what is logged.
func serve(t *testing.T, e api.Engine) (socket string, log *syncBuffer) {
	t.Helper()
	log = &syncBuffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := &http.Server{Handler: api.New(e, api.Options{Log: logger, Version: "1.2.3"})}
	api.Configure(s)
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return socket, log
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// request sends a request over the socket and returns the answer.
func request(t *testing.T, socket, method, path, body string, headers ...string) *http.Response {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://d"+path, r)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// text reads the whole body of an answer.
func text(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
