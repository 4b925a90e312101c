package runner

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-registry/berth/deploy/edge"
	"github.com/berth-registry/berth/e2e/berthtest"
)

const edgeStack = `name: shop
services:
  web:
    image: ${REGISTRY}/seedtest/web:${VERSION}
    labels: {berth.edge.host: shop.test, berth.edge.port: "8080", berth.edge.tls: "off"}
    deploy: {replicas: 2, update_config: {monitor: 100ms}}
    stop_grace_period: 1s
    x-berth: {drain: 1s}
`

// TestEdge has the HTTP edge serve a stack under its host name while the stack is
// deployed, the daemon is killed and replaced, the edge is killed, and the host is
// rebooted. Only the kill of the edge and the reboot cost requests.
func TestEdge(t *testing.T) {
	t.Parallel()
	if os.Getenv("BERTH_RUNNER_BIN") == "" {
		berthtest.Binary(t, "berth-edge") // is built beside the runner, which finds it there
	}
	dir := t.TempDir()
	config, file := filepath.Join(dir, "runner.yaml"), filepath.Join(dir, "compose.yaml")
	for path, text := range map[string]string{config: "edge: {http: \":80\"}\n", file: edgeStack} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := newHost(t, berthtest.MachineOptions{}, "--config", config, "--metrics-addr", "127.0.0.1:5002")
	f := &fronted{host: h, dir: dir}
	for _, image := range []string{"web:v1", "web:v2"} {
		h.docker.Run("pull", "-q", h.image(image))
	}
	f.deploy(t, "v1")
	if got, err := f.get("shop.test"); got != "200 seedtest web v1" || err != nil {
		t.Fatalf("the first version: %q, %v", got, err)
	}
	if got, err := f.get("other.test"); !strings.HasPrefix(got, "404 ") || err != nil {
		t.Errorf("a name that nobody has: %q, %v", got, err)
	}

	if err := eventually(func() error {
		return f.counted(`berth_runner_edge_requests_total{owner="stack/shop",service="web",status="2xx"} 1`)
	}); err != nil {
		t.Error(err)
	}

	first := f.status(t)
	clients := f.load(t)
	f.deploy(t, "v2")
	h.Kill()
	clients.some(t)
	h.Restart()
	clients.some(t)
	if now := f.status(t); now.PID != first.PID {
		t.Errorf("the daemon's end was the edge's: %+v", now)
	}
	h.Kill()
	h.Upgrade(copyPrograms(t, "berth-runner", "berth-edge"))
	h.Restart()
	second := f.statusUnless(t, first.PID)
	clients.some(t)
	clients.end(t)
	if got, err := f.get("shop.test"); got != "200 seedtest web v2" || err != nil {
		t.Errorf("the second version: %q, %v", got, err)
	}

	berthtest.NewCommand(t, "kill").On(h.Machine).Run("-9", strconv.Itoa(second.PID))
	f.serves(t, "after the edge was killed")
	f.statusUnless(t, second.PID)
	h.reboot()
	f.serves(t, "after the reboot")

	h.Berth(t, "rm", "--yes", "shop").Run()
	if got, err := f.get("shop.test"); !strings.HasPrefix(got, "404 ") || err != nil {
		t.Errorf("a stack that is removed: %q, %v", got, err)
	}
	// Without an edge in the configuration there is none.
	last := f.status(t)
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.Kill()
	h.Restart()
	if err := eventually(func() error {
		if h.Machine.Exists(last.PID) {
			return fmt.Errorf("process %d serves on", last.PID)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// fronted is a host with an HTTP edge.
type fronted struct {
	*host

	dir string
}

func (f *fronted) deploy(t *testing.T, version string) {
	t.Helper()
	f.Berth(t, "deploy").Dir(f.dir).Env("REGISTRY="+strings.TrimSuffix(f.repository(""), "/"), "VERSION="+version).Run()
}

// get asks the edge for a host, and returns status and body.
func (f *fronted) get(host string) (string, error) {
	c := f.Machine.Client()
	defer c.CloseIdleConnections()
	return ask(c, host)
}

func ask(c *http.Client, host string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, "http://127.0.0.1/", nil)
	if err != nil {
		return "", err
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(text))), err
}

// counted says whether a line is in the metrics of the runner.
func (f *fronted) counted(line string) error {
	resp, err := f.Machine.Client().Get("http://127.0.0.1:5002/metrics")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && !strings.Contains(string(text), line+"\n") {
		err = fmt.Errorf("not in the metrics: %s", line)
	}
	return err
}

func (f *fronted) serves(t *testing.T, when string) {
	t.Helper()
	if err := eventually(func() error {
		if got, err := f.get("shop.test"); got != "200 seedtest web v2" || err != nil {
			return fmt.Errorf("%s: %q, %w", when, got, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func (f *fronted) client() *edge.Client {
	return edge.NewClient(f.Machine.Path(f.Run, "edge", "control.sock"))
}

func (f *fronted) status(t *testing.T) edge.Status {
	t.Helper()
	return f.statusUnless(t, 0)
}

// statusUnless waits for an edge that is another process.
func (f *fronted) statusUnless(t *testing.T, pid int) (s edge.Status) {
	t.Helper()
	if err := eventually(func() (err error) {
		if s, err = f.client().Status(t.Context()); err == nil && s.PID == pid {
			err = fmt.Errorf("process %d serves on", pid)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// copyPrograms copies programs, which are others to who looks at their files, and
// returns the path of the first.
func copyPrograms(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(berthtest.Binary(t, "berth-runner")), name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, names[0])
}

// edgeClients ask the edge all the time.
type edgeClients struct {
	stop     chan struct{}
	all      sync.WaitGroup
	requests atomic.Int64
	failed   atomic.Int64
}

// load starts clients, with new connections and with old ones.
func (f *fronted) load(t *testing.T) *edgeClients {
	e := &edgeClients{stop: make(chan struct{})}
	for i := range 4 {
		c := f.Machine.Client()
		c.Transport.(*http.Transport).DisableKeepAlives = i%2 == 0
		e.all.Go(func() {
			defer c.CloseIdleConnections()
			for {
				select {
				case <-e.stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				got, err := ask(c, "shop.test")
				e.requests.Add(1)
				if !strings.HasPrefix(got, "200 seedtest web v") || err != nil {
					e.failed.Add(1)
					t.Errorf("a request: %q, %v", got, err)
				}
			}
		})
	}
	return e
}

// some waits for some requests.
func (e *edgeClients) some(t *testing.T) {
	t.Helper()
	before := e.requests.Load()
	if err := eventually(func() error {
		if n := e.requests.Load() - before; n < 50 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func (e *edgeClients) end(t *testing.T) {
	t.Helper()
	close(e.stop)
	e.all.Wait()
	t.Logf("%d of %d requests failed", e.failed.Load(), e.requests.Load())
}
