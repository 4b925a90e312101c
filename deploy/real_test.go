package deploy_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/internal/freeaddr"
	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/engine"
)

var _ deploy.Engine = (*engine.Engine)(nil)

// host is an engine with real containers, and a Manager of stacks on it.
type host struct {
	*deploy.Manager
	t      *testing.T
	engine *engine.Engine
	dir    string
	port   string // of the host
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "deploy") //nolint:usetesting // a shorter path, for sockets
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(freeaddr.For(t))
	h := &host{t: t, dir: dir, port: port}
	h.openEngine()
	h.open()
	t.Cleanup(func() {
		err := h.Remove(context.Background(), "shop", true, nil)
		if errors.Is(err, runner.ErrNotFound) {
			err = nil
		}
		left, _ := h.engine.ListContainers(context.Background(), runner.ListOptions{All: true})
		if err != nil || len(left) > 0 {
			t.Errorf("%v; left: %+v", err, left)
		}
		for _, c := range left {
			_ = h.engine.RemoveContainer(context.Background(), c.ID, runner.RemoveOptions{Force: true, Volumes: true})
		}
		if err := errors.Join(h.Close(), h.engine.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	if _, err := h.engine.ImportImage(t.Context(), runner.ImportRequest{Repo: "busybox", Tag: "latest"}, busybox(t), nil); err != nil {
		t.Fatal(err)
	}
	return h
}

// log is what the engine and the Manager warn of.
func (h *host) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(h.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func (h *host) openEngine() {
	h.t.Helper()
	var err error
	h.engine, err = engine.Open(context.Background(), engine.Options{
		Data: filepath.Join(h.dir, "data"), Run: filepath.Join(h.dir, "run"), Version: "test", Runtime: "crun",
		Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 231, byte(len(h.t.Name())), 0}), 24), LogMaxSize: 1 << 20, LogMaxFile: 2, StopTimeout: 10 * time.Second, Log: h.log(),
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) open() {
	h.t.Helper()
	var err error
	h.Manager, err = deploy.Open(h.t.Context(), deploy.Options{Dir: filepath.Join(h.dir, "stacks"), Engine: h.engine, Log: h.log()})
	if err != nil {
		h.t.Fatal(err)
	}
}

// busybox is a file tree of one program.
func busybox(t *testing.T) io.Reader {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, dir := range []string{"bin", "proc", "sys", "dev", "etc", "tmp", "run", "www"} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}))
	}
	err = errors.Join(err, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))}))
	if err == nil {
		_, err = w.Write(program)
	}
	for _, name := range []string{"sh", "sleep", "cat", "stat", "httpd", "test", "wget"} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return &b
}

// stack has a web server that answers with its version; edit changes the service.
func (h *host) stack(version string, edit ...func(*deploy.Service)) deploy.Stack {
	web := service("web", "echo "+version+" > /www/index.html; exec httpd -f -p 80 -h /www")
	web.Replicas, web.Strategy = 2, deploy.BlueGreen
	web.Container.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "wget", "-qO-", "http://127.0.0.1/"}, Interval: time.Second, Timeout: 5 * time.Second, Retries: 3}
	web.Ports = network.PortMap{network.MustParsePort("80/tcp"): {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: h.port}}}
	web.Update.Monitor, web.Drain = 300*time.Millisecond, 5*time.Second
	for _, f := range edit {
		f(&web)
	}
	return deploy.Stack{
		Name: "shop", Keep: 1, Services: []deploy.Service{web},
		Networks: []deploy.Network{{Key: "default", Name: "shop_default"}},
	}
}

func service(name, script string) deploy.Service {
	return deploy.Service{
		Name: name, Image: "busybox:latest", Replicas: 1,
		Container: container.CreateRequest{
			Config:           &container.Config{Image: "busybox:latest", Cmd: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}, StopSignal: "SIGKILL"},
			HostConfig:       &container.HostConfig{NetworkMode: "shop_default"},
			NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"shop_default": {}}},
		},
	}
}

func (h *host) deploy(req deploy.Request) (deploy.Revision, error) {
	h.t.Helper()
	begin := time.Now()
	rev, err := h.Deploy(h.t.Context(), req, func(e deploy.Event) {
		h.t.Logf("%6s %s %s: %s", time.Since(begin).Round(time.Millisecond), e.Kind, e.Service, e.Message)
	})
	return rev, err
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) get() (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://127.0.0.1:" + h.port)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(text)), err
}

func (h *host) answers(want string) {
	h.t.Helper()
	for range 4 {
		if got, err := h.get(); got != want || err != nil {
			h.t.Errorf("it answers %q, %v, not %q", got, err, want)
		}
	}
}

// load asks again and again until it is told to stop, and returns how often it was
// answered by whom. Nobody may be refused.
func (h *host) load() (stop func() map[string]int) {
	ctx, cancel := context.WithCancel(h.t.Context())
	counts := map[string]int{}
	var g sync.WaitGroup
	g.Go(func() {
		for ctx.Err() == nil {
			got, err := h.get()
			if err != nil {
				h.t.Errorf("a request failed: %v", err)
			}
			counts[got]++
		}
	})
	return func() map[string]int {
		cancel()
		g.Wait()
		return counts
	}
}

// Real containers, a real port, and requests all the time: a new version, a broken
// one, a canary, one that is killed, and back.
func TestRealStack(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	_, err := h.deploy(deploy.Request{Stack: h.stack("one")})
	h.must(err)
	h.answers("one")
	h.taken()
	stop := h.load()

	_, err = h.deploy(deploy.Request{Stack: h.stack("two")})
	h.must(err)
	h.answers("two")

	var f *deploy.Failure
	rev, err := h.deploy(deploy.Request{Stack: h.stack("three", func(s *deploy.Service) {
		s.Container.Cmd[2] = "echo I am broken >&2; sleep 0.3; exit 7"
	})})
	if !errors.As(err, &f) || f.ExitCode != 7 || len(f.Log) != 1 || f.Log[0] != "I am broken" || rev.Outcome != deploy.RolledBack {
		t.Errorf("%v: %+v", err, f)
	}
	h.answers("two")

	h.eventually("the old ones are stopped", func() bool {
		st, err := h.Status(t.Context(), "shop")
		return err == nil && strings.Count(fmt.Sprint(st.Services[0].Containers), "exited") == 2
	})
	begin := time.Now()
	_, err = h.Rollback(t.Context(), "shop", 0, "", nil)
	h.must(err)
	t.Logf("rolled back in %s", time.Since(begin))
	if d := time.Since(begin); d > 3*time.Second { // under a second on a machine that is not busy
		t.Errorf("a rollback took %s", d)
	}
	h.answers("one")
	if c := stop(); len(c) != 2 || c["one"] == 0 || c["two"] == 0 {
		t.Errorf("answers: %v", c)
	}

	stop = h.load()
	_, err = h.deploy(deploy.Request{Stack: h.stack("four", func(s *deploy.Service) {
		s.Strategy, s.Steps = deploy.Canary, []deploy.CanaryStep{{Weight: 50, Pause: 500 * time.Millisecond}}
	})})
	h.must(err)
	if c := stop(); len(c) != 2 || c["four"] == 0 || c["one"] == 0 {
		t.Errorf("answers: %v", c)
	}
	h.answers("four")

	// A replica that is removed by hand comes again.
	h.must(h.engine.RemoveContainer(t.Context(), h.serving(), runner.RemoveOptions{Force: true}))
	h.eventually("two replicas", h.whole)
	h.answers("four")
	h.unread()
}

// whole says whether the stack is as it should be.
func (h *host) whole() bool {
	st, err := h.Status(h.t.Context(), "shop")
	return err == nil && st.Services[0].Ready == 2 && len(st.Drift) == 0
}

// serving returns one of the containers that have traffic.
func (h *host) serving() string {
	h.t.Helper()
	st, err := h.Status(h.t.Context(), "shop")
	h.must(err)
	if st.Services[0].Ready != 2 || len(st.Drift) > 0 {
		h.t.Errorf("%+v", st)
	}
	for _, c := range st.Services[0].Containers {
		if c.Weight > 0 {
			return c.ID
		}
	}
	h.t.Fatalf("nobody serves: %+v", st)
	return ""
}

// unread has the record of a replica be damaged while neither engine nor Manager is
// there: another one comes for it, and nobody is refused.
func (h *host) unread() {
	h.t.Helper()
	id := h.serving()
	h.must(errors.Join(h.Close(), h.engine.Close()))
	stop := h.load()
	h.must(os.WriteFile(filepath.Join(h.dir, "data/containers", id, "record.json"), []byte("{}"), 0o600))
	h.openEngine()
	h.open()
	h.eventually("two replicas that are known", h.whole)
	if other := h.serving(); other == id {
		h.t.Errorf("the damaged one serves as one that is known")
	}
	h.must(h.engine.RemoveContainer(h.t.Context(), id, runner.RemoveOptions{Force: true}))
	if c := stop(); len(c) != 1 || c["four"] == 0 {
		h.t.Errorf("answers: %v", c)
	}
	h.answers("four")

	// Where the traffic goes is told again if it is not known any more.
	h.must(errors.Join(h.Close(), h.engine.Close()))
	h.must(os.WriteFile(filepath.Join(h.dir, "data/network/services.json"), nil, 0o600))
	h.openEngine()
	h.open()
	h.eventually("an answer", func() bool { _, err := h.get(); return err == nil })
	h.answers("four")
	h.eventually("two replicas", h.whole)
}

// taken deploys a version with a port that another process has: it is found before any
// container is there. Others are told who has a port of the stack.
func (h *host) taken() {
	h.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	h.must(err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	h.must(err)
	http := network.MustParsePort("80/tcp")
	rev, err := h.Deploy(h.t.Context(), deploy.Request{Stack: h.stack("two", func(s *deploy.Service) {
		s.Ports[http] = append(s.Ports[http], network.PortBinding{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: port})
	})}, func(e deploy.Event) {
		if strings.HasPrefix(e.Message, "start") {
			h.t.Errorf("before the port is found to be taken: %s", e.Message)
		}
	})
	if err == nil || !strings.Contains(rev.Reason, "address already in use") {
		h.t.Errorf("a port that is taken: %v: %+v", err, rev)
	}
	h.answers("one")
	other := runner.Service{Name: "web", Ports: network.PortMap{http: {{HostPort: h.port}}}}
	if _, err := h.engine.SetTraffic(h.t.Context(), "other", []runner.Service{other}); !errors.Is(err, runner.ErrConflict) || !strings.Contains(err.Error(), "by service web of stack/shop") {
		h.t.Errorf("a port of the stack: %v", err)
	}
}

func (h *host) eventually(what string, holds func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			st, err := h.Status(h.t.Context(), "shop")
			h.t.Fatalf("not in time: %s: %+v, %v", what, st, err)
		}
	}
}

// A job is run before who needs it, files are what was asked for, a service is found
// by its name, and a Manager that is opened again finds all.
func TestRealNeeds(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	secret := []byte("it is a secret")
	file := deploy.File{Name: "key", Target: "/run/secrets/key", UID: 12, GID: 34, Mode: 0o440, Content: digest.FromBytes(secret), Secret: true}
	stack := h.stack("one")
	api := service("api", "exec httpd -f -p 80 -h /run/secrets")
	api.Files = []deploy.File{file}
	api.Update.Monitor = 200 * time.Millisecond
	job := service("job", "wget -qO- http://api/key && stat -c '%u %g %a' /run/secrets/key > /proc/1/fd/1")
	job.Job, job.Files = true, []deploy.File{file}
	job.Needs = []deploy.Need{{Service: "api", Condition: deploy.NeedHealthy}}
	api.Container.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "wget", "-qO-", "http://127.0.0.1/key"}}
	api.Files[0].UID = 0
	job.Files[0].UID = 12
	stack.Services[0].Needs = []deploy.Need{{Service: "job", Condition: deploy.NeedCompleted}}
	stack.Services = append(stack.Services, job, api)
	if _, err := h.deploy(deploy.Request{Stack: stack}); !errors.Is(err, runner.ErrInvalid) {
		t.Errorf("without the content: %v", err)
	}
	_, err := h.deploy(deploy.Request{Stack: stack, Contents: deploy.Contents{file.Content: secret}})
	h.must(err)
	h.answers("one")
	st, err := h.Status(t.Context(), "shop")
	h.must(err)
	if got := h.logs(st.Services[1].Containers[0].ID); got != "it is a secret"+"12 34 440\n" {
		t.Errorf("the job says %q", got)
	}
	h.damaged()
	h.answers("one")
	failing := h.stack("two")
	job.Container.Cmd = []string{"/bin/sh", "-c", "echo no >&2; exit 3"}
	failing.Services = append(failing.Services, job, api)
	failing.Services[0].Needs = stack.Services[0].Needs
	var f *deploy.Failure
	if _, err := h.deploy(deploy.Request{Stack: failing}); !errors.As(err, &f) || f.Service != "job" || f.ExitCode != 3 || fmt.Sprint(f.Log) != "[no]" {
		t.Errorf("%v: %+v", err, f)
	}
	h.answers("one")
}

// damaged opens the stacks again with a record that is empty, and puts it back.
func (h *host) damaged() {
	h.t.Helper()
	h.must(h.Close())
	path := filepath.Join(h.dir, "stacks/shop/record.json")
	h.must(os.Rename(path, path+".kept"))
	h.must(os.WriteFile(path, nil, 0o600))
	h.open()
	h.answers("one")
	st, err := h.Status(h.t.Context(), "shop")
	if err != nil || !strings.Contains(st.Error, path+" cannot be read: it is empty") || len(st.Services) != 3 || st.Services[2].Ready != 2 || len(st.Services[2].Ports) == 0 {
		h.t.Errorf("%+v, %v", st, err)
	}
	if _, err := h.deploy(deploy.Request{Stack: h.stack("two")}); !errors.Is(err, runner.ErrPrecondition) {
		h.t.Errorf("deployed: %v", err)
	}
	h.must(os.Rename(path+".kept", path))
	if st, err = h.Status(h.t.Context(), "shop"); err != nil || st.Error != "" || st.Services[0].Ready != 2 || len(st.Drift) > 0 {
		h.t.Errorf("%+v, %v", st, err)
	}
}

func (h *host) logs(id string) string {
	h.t.Helper()
	var out bytes.Buffer
	stream, err := h.engine.ContainerLogs(h.t.Context(), id, runner.LogOptions{Stdout: true, Stderr: true, Tail: -1})
	h.must(err)
	h.must(stream.Copy(h.t.Context(), runner.Streams{Stdout: &out, Stderr: &out}))
	return out.String()
}
