package edge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/edge"
	"github.com/berth-registry/berth/deploy/edge/proxy"
	"github.com/berth-registry/berth/internal/freeaddr"
	"github.com/berth-registry/berth/runner"
)

// TestMain runs the tests, or, in a process that is started with options, the program.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "--options" {
		o, err := edge.Load(os.Args[2])
		if err == nil {
			err = proxy.Run(context.Background(), o, "test")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// newConfig is of a program that is this test itself.
func newConfig(t *testing.T) edge.Config {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "edge") //nolint:usetesting // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	cfg := edge.Config{Program: program, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Options: edge.Options{
		HTTP: freeaddr.For(t), Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run"),
	}}
	t.Cleanup(func() {
		end(t, cfg)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return cfg
}

// end ends the program, and waits for that.
func end(t *testing.T, cfg edge.Config) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	status, err := edge.NewClient(cfg.Control()).Status(ctx)
	if err != nil {
		return
	}
	if err := edge.Stop(ctx, cfg.Options); err != nil {
		t.Error(err)
	}
	eventually(t, "the program ends", func() bool { return gone(status.PID) })
}

// gone says whether a process has ended.
func gone(pid int) bool {
	s := state(pid)
	return s == "" || s == "Z"
}

// state is the letter that ps shows of a process; empty: there is none.
func state(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(text), ") ")
	if err != nil || !ok {
		return ""
	}
	return rest[:1]
}

// open opens an edge, for as long as the test goes on.
func open(t *testing.T, cfg edge.Config) *edge.Edge {
	t.Helper()
	e, err := edge.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func status(t *testing.T, e *edge.Edge) edge.Status {
	t.Helper()
	s, err := e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve sets a route to a server that answers with a text.
func serve(t *testing.T, e *edge.Edge, host, text string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
	t.Cleanup(s.Close)
	set(t, e, host, s)
}

func set(t *testing.T, e *edge.Edge, host string, s *httptest.Server) {
	t.Helper()
	err := e.SetRoutes(t.Context(), "stack/"+host, []deploy.EdgeRoute{{
		Service: "web", Route: deploy.Route{Hosts: []string{host}},
		Upstreams: []deploy.Upstream{{ID: text(s), Addr: netip.MustParseAddrPort(text(s)), Weight: 1}},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func text(s *httptest.Server) string { return s.Listener.Addr().String() }

// get asks for a host at an address.
func get(c *http.Client, addr, host string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		return "", err
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func newClient(t *testing.T, keepAlive bool) *http.Client {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: !keepAlive}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for begin := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// TestOutlives: the program serves while nobody watches it, and the next one finds it;
// if it is killed, another one comes with the routes.
func TestOutlives(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	first := open(t, cfg)
	serve(t, first, "a.test", "hello")
	before := status(t, first)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, false)
	if got, err := get(c, cfg.HTTP, "a.test"); got != "hello" || err != nil {
		t.Errorf("nobody watches: %q, %v", got, err)
	}
	second := open(t, cfg)
	now := status(t, second)
	if now.PID != before.PID || now.Owners != 1 || now.Version != "test" {
		t.Errorf("another program: %+v, before %+v", now, before)
	}
	if err := syscall.Kill(now.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is there again", func() bool {
		got, err := get(c, cfg.HTTP, "a.test")
		return got == "hello" && err == nil
	})
	// What was told while it was away waits for it. What it has said at its end is kept.
	if err := syscall.Kill(status(t, second).PID, syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	serve(t, second, "b.test", "there")
	if text, err := os.ReadFile(filepath.Join(cfg.Run, "crash.log.before")); err != nil || !strings.Contains(string(text), "SIGQUIT: quit") {
		t.Errorf("its last words: %.100s, %v", text, err)
	}
	if got, err := get(c, cfg.HTTP, "b.test"); got != "there" || err != nil {
		t.Errorf("told while it was away: %q, %v", got, err)
	}
	// Another owner's host.
	err := second.SetRoutes(t.Context(), "stack/c", []deploy.EdgeRoute{{Service: "c", Route: deploy.Route{Hosts: []string{"b.test"}}}})
	if !errors.Is(err, runner.ErrConflict) || !strings.Contains(err.Error(), "stack/b.test") {
		t.Errorf("another's host: %v", err)
	}
}

// TestKilled kills the program at any moment while it is told routes: what was
// acknowledged is there in the end.
func TestKilled(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	e := open(t, cfg)
	serve(t, e, "first.test", "first")
	stop := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(n%7) * 30 * time.Millisecond):
			}
			if s, err := edge.NewClient(cfg.Control()).Status(t.Context()); err == nil {
				_ = syscall.Kill(s.PID, syscall.SIGKILL) // it may have ended
			}
			if n == 4 {
				return
			}
		}
	})
	const hosts = 40
	for i := range hosts {
		serve(t, e, fmt.Sprintf("h%d.test", i), fmt.Sprint(i))
	}
	close(stop)
	killer.Wait()
	c := newClient(t, true)
	for i := range hosts {
		eventually(t, "all is there", func() bool {
			got, err := get(c, cfg.HTTP, fmt.Sprintf("h%d.test", i))
			return err == nil && got == fmt.Sprint(i)
		})
	}
	// A file that no crash leaves behind is put aside.
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	end(t, cfg)
	half := filepath.Join(cfg.Data, ".new-1")
	for _, path := range []string{half, cfg.Routes()} {
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e = open(t, cfg)
	if s := status(t, e); s.Owners != 0 {
		t.Errorf("of a file that cannot be read: %+v", s)
	}
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was half written: %v", err)
	}
	serve(t, e, "again.test", "again")
}

// TestHandover replaces the program by another version while clients use it.
func TestHandover(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	e := open(t, cfg)
	slow := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Slow") != "" {
			<-slow
		}
		_, _ = io.WriteString(w, "hello")
	}))
	defer s.Close()
	set(t, e, "a.test", s)
	old := status(t, e)

	var requests, failed atomic.Int64
	stop := make(chan struct{})
	var all sync.WaitGroup
	for i := range 4 {
		c := newClient(t, i%2 == 0)
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got, err := get(c, cfg.HTTP, "a.test"); err != nil || got != "hello" {
					failed.Add(1)
					t.Errorf("%q, %v", got, err)
					return
				}
				requests.Add(1)
			}
		})
	}
	all.Go(func() { // goes on through it all
		req, err := http.NewRequest(http.MethodGet, "http://"+cfg.HTTP+"/", nil)
		if err != nil {
			t.Error(err)
			return
		}
		req.Host = "a.test"
		req.Header.Set("X-Slow", "1")
		resp, err := newClient(t, false).Do(req)
		if err != nil {
			t.Errorf("the slow request: %v", err)
			return
		}
		resp.Body.Close()
	})
	eventually(t, "there are requests", func() bool { return requests.Load() > 100 })
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	next := cfg
	next.Program = filepath.Join(filepath.Dir(cfg.Data), "berth-edge")
	copyFile(t, cfg.Program, next.Program)
	e = open(t, next)
	now := status(t, e)
	if now.PID == old.PID || now.Owners != 1 {
		t.Errorf("the program is the old one: %+v", now)
	}
	at := requests.Load()
	eventually(t, "there are requests after it", func() bool { return requests.Load() > at+100 || failed.Load() > 0 })
	close(stop)
	eventually(t, "the request that the old one has is the only one", func() bool {
		n, err := e.Requests(t.Context(), text(s))
		return n == 1 && err == nil && !gone(old.PID)
	})
	close(slow)
	all.Wait()
	eventually(t, "the old one ends", func() bool { return gone(old.PID) })
	if n, err := e.Requests(t.Context(), text(s)); n != 0 || err != nil {
		t.Errorf("the old one has ended: %d requests, %v", n, err)
	}
	t.Logf("%d requests", requests.Load())

	// Other options are a reason too: another address for the same port, and then none
	// that can be had, with which the one that serves goes on.
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(cfg.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	other := next
	other.HTTP = "127.0.0.1:" + port
	if other.HTTP == next.HTTP {
		other.HTTP = "0.0.0.0:" + port
	}
	e = open(t, other)
	if s := status(t, e); s.PID == now.PID || s.Options.HTTP != other.HTTP {
		t.Errorf("with another address: %+v", s)
	}
	if got, err := get(newClient(t, false), cfg.HTTP, "a.test"); got != "hello" || err != nil {
		t.Errorf("with another address: %q, %v", got, err)
	}
	now = status(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bad := other
	bad.HTTPS = taken.Addr().String()
	e = open(t, bad)
	if s := status(t, e); s.PID != now.PID {
		t.Errorf("with an address that is taken: %+v", s)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestTaken: an address that somebody else has is told, and taken when it comes free.
func TestTaken(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	taken, err := net.Listen("tcp", cfg.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	e := open(t, cfg)
	eventually(t, "it is told", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := e.SetRoutes(ctx, "o", []deploy.EdgeRoute{{Service: "o"}})
		return errors.Is(err, runner.ErrUnavailable) && strings.Contains(err.Error(), "address already in use")
	})
	// Who has no routes need not wait.
	if err := e.SetRoutes(t.Context(), "o", nil); err != nil {
		t.Error(err)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	serve(t, e, "a.test", "hello")
	if got, err := get(newClient(t, false), cfg.HTTP, "a.test"); got != "hello" || err != nil {
		t.Errorf("when it is free: %q, %v", got, err)
	}
	missing := cfg
	missing.Program += "-not-there"
	if _, err := edge.Open(t.Context(), missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a program that is not there: %v", err)
	}
}

// TestHung: a program that does not answer is replaced.
func TestHung(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	e := open(t, cfg)
	serve(t, e, "a.test", "hello")
	old := status(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(old.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it stands still", func() bool { return state(old.PID) == "T" })
	e = open(t, cfg)
	if now := status(t, e); now.PID == old.PID || now.Owners != 1 {
		t.Errorf("%+v", now)
	}
}

// TestToldMeanwhile sets routes while the program is replaced: what was acknowledged is
// in force in the end.
func TestToldMeanwhile(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	e := open(t, cfg)
	old := status(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	told := make(chan int)
	go func() { // as a daemon does that does not know of it
		c := edge.NewClient(cfg.Control())
		for n := 0; ; n++ {
			route := []deploy.EdgeRoute{{Service: "web", Route: deploy.Route{Hosts: []string{fmt.Sprintf("h%d.test", n)}}}}
			for errors.Is(c.SetRoutes(context.WithoutCancel(t.Context()), fmt.Sprint(n), route), runner.ErrUnavailable) {
				time.Sleep(time.Millisecond)
			}
			select {
			case <-stop:
				told <- n + 1
				return
			default:
			}
		}
	}()
	next := cfg
	next.AccessLog = true
	e = open(t, next)
	now := status(t, e)
	close(stop)
	if n := <-told; now.PID == old.PID || status(t, e).Owners != n {
		t.Errorf("%d owners were told; %+v, before %+v", n, status(t, e), old)
	}
}

// TestStop ends a program that is not wanted any more, also one whose sockets are gone;
// nothing of its routes is left.
func TestStop(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	ctx := t.Context()
	if err := edge.Stop(ctx, cfg.Options); err != nil {
		t.Errorf("there was none: %v", err)
	}
	for _, lost := range []bool{false, true} {
		e := open(t, cfg)
		serve(t, e, "a.test", "hello")
		pid := status(t, e).PID
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if lost {
			if err := os.RemoveAll(cfg.Run); err != nil {
				t.Fatal(err)
			}
		}
		if err := edge.Stop(ctx, cfg.Options); err != nil {
			t.Error(err)
		}
		eventually(t, "it ends", func() bool { return gone(pid) })
		if _, err := os.Stat(cfg.Routes()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its routes: %v", err)
		}
	}
}

// TestSocketsGone: who removes the sockets has them again, without a request that fails.
func TestSocketsGone(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	e := open(t, cfg)
	serve(t, e, "a.test", "hello")
	before := status(t, e)
	if err := os.RemoveAll(cfg.Run); err != nil {
		t.Fatal(err)
	}
	serve(t, e, "b.test", "there")
	if now := status(t, e); now.PID != before.PID || now.Owners != 2 {
		t.Errorf("%+v, before %+v", now, before)
	}
}

// TestReboot: since the host was started again, the addresses of replicas may be those of
// others.
func TestReboot(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	if err := os.Mkdir(cfg.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	for boot, upstreams := range map[string]int{"": 0, bootOf(t): 1} {
		text := fmt.Sprintf(`{"Boot": %q, "Owners": {"o": [{"Service": "s", "Hosts": ["a.test"], "TLS": "off", "Upstreams": [{"ID": "a", "Addr": "127.0.0.1:1", "Weight": 1}]}]}}`, boot)
		if err := os.WriteFile(cfg.Routes(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		routes, err := edge.LoadRoutes(cfg.Options)
		if r := routes["o"]; err != nil || len(r) != 1 || len(r[0].Upstreams) != upstreams {
			t.Errorf("boot %q: %v, %v", boot, routes, err)
		}
	}
}

func bootOf(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}
