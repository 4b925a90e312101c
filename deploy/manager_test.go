package deploy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
)

func digestOf(text string) digest.Digest { return digest.FromString(text) }

// world is a Manager on an engine in memory.
type world struct {
	*Manager
	t      *testing.T
	dir    string
	engine *fake
	edge   *fakeEdge
	events []Event
}

// fakeEdge keeps the routes that it is told.
type fakeEdge struct {
	routes map[string][]EdgeRoute
	err    error
	check  error // of CheckRoutes
	sets   int

	mu       sync.Mutex
	requests map[string]int
}

func (e *fakeEdge) Requests(_ context.Context, id string) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests[id], nil
}

func (e *fakeEdge) CheckRoutes(context.Context, string, []EdgeRoute) error { return e.check }

// of returns the routes of an owner.
func (e *fakeEdge) of(owner string) []EdgeRoute {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.routes[owner]
}

// has says how many requests a container has.
func (e *fakeEdge) has(id string, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.requests == nil {
		e.requests = map[string]int{}
	}
	e.requests[id] = n
}

func (e *fakeEdge) SetRoutes(_ context.Context, owner string, routes []EdgeRoute) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sets++
	if e.err == nil {
		e.routes[owner] = routes
	}
	return e.err
}

// in runs a test in a bubble, on a Manager of its own.
func in(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), engine: newFake(), edge: &fakeEdge{routes: map[string][]EdgeRoute{}}}
		w.open()
		defer func() {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}()
		test(t, w)
		if len(w.engine.broken) > 0 {
			t.Errorf("rules are broken: %q", w.engine.broken)
		}
	})
}

func (w *world) open() {
	w.t.Helper()
	var err error
	w.Manager, err = open(w.t.Context(), Options{
		Dir: w.dir, Engine: w.engine, Edge: w.edge,
		Log: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}, func(context.Context, netip.AddrPort) error { return nil })
	w.must(err)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) deploy(s Stack) (Revision, error) {
	w.t.Helper()
	w.events = nil
	return w.Deploy(w.t.Context(), Request{Stack: s, By: "me", From: "compose.yaml"}, func(e Event) { w.events = append(w.events, e) })
}

func (w *world) mustDeploy(s Stack) Revision {
	w.t.Helper()
	rev, err := w.deploy(s)
	w.must(err)
	return rev
}

// settle lets what goes on in the background happen.
func (w *world) settle() {
	time.Sleep(5 * time.Minute)
	synctest.Wait()
}

// running are the names of the containers that run.
func (w *world) running() string {
	return w.names(func(c *fakeContainer) bool { return c.state == container.StateRunning })
}

// stopped are the names of those that do not.
func (w *world) stopped() string {
	return w.names(func(c *fakeContainer) bool { return c.state != container.StateRunning })
}

// serving are the names of those that have traffic.
func (w *world) serving() string {
	return w.names(func(c *fakeContainer) bool { return w.engine.leads(c.id) })
}

func (w *world) names(which func(*fakeContainer) bool) string {
	w.engine.mu.Lock()
	defer w.engine.mu.Unlock()
	var names []string
	for _, c := range w.engine.containers {
		if which(c) {
			names = append(names, strings.TrimPrefix(c.name, "shop-"))
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (w *world) is(what, got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// web is a service with a port and a health check.
func web(image string, replicas int, edit ...func(*Service)) Service {
	svc := Service{
		Name: "web", Image: image, Replicas: replicas, Strategy: BlueGreen,
		Container: container.CreateRequest{
			Config: &container.Config{
				Image: image, Labels: map[string]string{readyAfter: "300ms"},
				Healthcheck: &container.HealthConfig{Test: []string{"CMD", "true"}, Interval: time.Second, Timeout: time.Second, Retries: 2},
			},
			HostConfig: &container.HostConfig{NetworkMode: "shop_default"},
			NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{
				"shop_default": {Aliases: []string{"www"}},
			}},
		},
		Ports:  network.PortMap{network.MustParsePort("80"): {{HostPort: "8080"}}},
		Update: Update{Monitor: 2 * time.Second}, Drain: 10 * time.Second,
	}
	for _, f := range edit {
		f(&svc)
	}
	return svc
}

func named(name string) func(*Service) {
	return func(s *Service) {
		s.Name = name
		s.Ports = nil
	}
}

func labels(pairs ...string) func(*Service) {
	return func(s *Service) {
		for i := 0; i < len(pairs); i += 2 {
			s.Container.Labels[pairs[i]] = pairs[i+1]
		}
	}
}

func shop(services ...Service) Stack {
	return Stack{
		Name: "shop", Services: services, Keep: 1,
		Networks: []Network{{Key: "default", Name: "shop_default"}},
		Volumes:  []Volume{{Key: "data", Name: "shop_data"}},
	}
}

func TestBlueGreen(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		rev := w.mustDeploy(shop(web("app:1", 2)))
		if rev.Number != 1 || rev.Outcome != Deployed || rev.By != "me" || rev.Images["web"] != digestOf("app:1") {
			t.Errorf("revision %+v", rev)
		}
		var said []string
		for _, e := range w.events {
			said = append(said, strings.TrimSpace(e.Service+" "+e.Message))
		}
		if all := strings.Join(said, ", "); !strings.Contains(all, "web healthy; watched for 2s, switch the traffic to revision 1, revision 1 has the traffic; watched for 2s") {
			t.Errorf("told: %s", all)
		}
		w.is("running", w.running(), "web-r1-1 web-r1-2")
		w.is("serving", w.serving(), "web-r1-1 web-r1-2")
		s := w.engine.traffic["stack/shop"][0]
		if s.Ports == nil || strings.Join(s.Aliases["shop_default"], " ") != "web www" {
			t.Errorf("traffic %+v", s)
		}
		w.engine.conns[s.Backends[0].Container] = 1 // for longer than the drain time
		w.mustDeploy(shop(web("app:2", 2)))
		w.is("serving", w.serving(), "web-r2-1 web-r2-2")
		w.is("running", w.running(), "web-r1-1 web-r1-2 web-r2-1 web-r2-2")
		time.Sleep(3 * time.Second)
		w.is("running, once connections have ended", w.running(), "web-r1-1 web-r2-1 web-r2-2")
		w.settle()
		w.is("running, after the drain time", w.running(), "web-r2-1 web-r2-2")
		w.is("kept", w.stopped(), "web-r1-1 web-r1-2")
		w.mustDeploy(shop(web("app:3", 1)))
		w.settle()
		w.is("running", w.running(), "web-r3-1")
		w.is("kept", w.stopped(), "web-r2-1 web-r2-2")
		h, err := w.History(t.Context(), "shop")
		w.must(err)
		if len(h) != 3 || h[0].Number != 3 || !h[1].Kept || h[2].Kept {
			t.Errorf("history %+v", h)
		}
	})
}

// A route that the edge does not take is found before a container is started.
func TestRouteIsTaken(t *testing.T) {
	routed := func(s *Service) { s.Routes = []Route{{Port: 80}} }
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 1, routed)))
		w.edge.check = runner.Errorf(runner.ErrConflict, "another stack has it")
		if _, err := w.deploy(shop(web("app:2", 1, routed))); err == nil || !strings.Contains(err.Error(), "another stack has it") {
			t.Errorf("a route that is taken: %v", err)
		}
		for _, e := range w.events {
			if e.Kind == EventStep && strings.Contains(e.Message, "web-r2-1") && !strings.Contains(e.Message, "remove") {
				t.Errorf("a container is there: %s", e.Message)
			}
		}
		w.is("running", w.running(), "web-r1-1")
		if _, err := w.Plan(t.Context(), Request{Stack: shop(web("app:2", 1, routed))}); !errors.Is(err, runner.ErrConflict) {
			t.Errorf("what a deployment would do: %v", err)
		}
		w.mustDeploy(shop(web("app:2", 1))) // without routes it need not be asked
	})
}

// A service with routes is stopped when its requests have ended, not before and not
// much later.
func TestRequestsOfTheEdgeEnd(t *testing.T) {
	routed := func(s *Service) { s.Routes, s.Drain = []Route{{Port: 80}}, time.Minute }
	in(t, func(_ *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 1, routed)))
		id := w.engine.traffic["stack/shop"][0].Backends[0].Container
		w.edge.has(id, 1)
		w.mustDeploy(shop(web("app:2", 1, routed)))
		time.Sleep(30 * time.Second)
		w.is("running, with a request", w.running(), "web-r1-1 web-r2-1")
		w.edge.has(id, 0)
		time.Sleep(time.Second)
		synctest.Wait()
		w.is("running, without", w.running(), "web-r2-1")
	})
}

// A port that is taken is found before any container is started.
func TestTakenPort(t *testing.T) {
	more := func(s *Service) {
		s.Ports = network.PortMap{
			network.MustParsePort("80"): {{HostPort: "8080"}, {HostPort: "9090"}},
			network.MustParsePort("81"): {{}, {HostPort: "7000-7010"}}, // any that is free
		}
	}
	in(t, func(t *testing.T, w *world) {
		w.engine.taken = "8080"
		if rev, err := w.deploy(shop(web("app:1", 1))); err == nil || rev.Outcome != Failed || w.engine.n > 0 {
			t.Errorf("the first: %v, %s, %d containers", err, rev.Outcome, w.engine.n)
		}
		w.engine.taken = "9090"
		w.mustDeploy(shop(web("app:1", 1)))
		n := w.engine.n
		rev, err := w.deploy(shop(web("app:2", 1, more)))
		if err == nil || !strings.Contains(rev.Reason, "port 9090 is taken") || rev.Outcome != RolledBack || w.engine.n > n {
			t.Errorf("%v, %s, %d containers more", err, rev.Outcome, w.engine.n-n)
		}
		w.is("serving", w.serving(), "web-r2-1")
		w.engine.taken = ""
		w.mustDeploy(shop(web("app:2", 1, more)))
		if all := w.engine.traffic["stack/shop"]; len(all) != 1 || len(all[0].Ports) != 2 {
			t.Errorf("the traffic is %+v", all)
		}
		// One that fails gives up what it has reserved.
		if _, err := w.deploy(shop(web("app:3", 1, labels(readyAfter, "never")), web("app:3", 1, func(s *Service) {
			s.Name, s.Ports = "other", network.PortMap{network.MustParsePort("80"): {{HostPort: "9999"}}}
		}))); err == nil {
			t.Error("it is taken")
		}
		if all := w.engine.traffic["stack/shop"]; len(all) != 1 || len(all[0].Ports) != 2 {
			t.Errorf("the traffic is %+v", all)
		}
	})
}

func TestNothingChanged(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 2), web("db:1", 1, named("db"))))
		rev := w.mustDeploy(shop(web("app:2", 2), web("db:1", 1, named("db"))))
		w.settle()
		if rev.Number != 2 {
			t.Errorf("revision %d", rev.Number)
		}
		w.is("running", w.running(), "db-r1-1 web-r2-1 web-r2-2")
		begin := time.Now()
		w.mustDeploy(shop(web("app:2", 3, func(s *Service) { s.Drain = time.Minute }), web("db:1", 1, named("db"))))
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("one more replica took %s", d)
		}
		w.settle()
		w.is("running", w.running(), "db-r1-1 web-r2-1 web-r2-2 web-r3-3")
		_, err := w.Scale(t.Context(), "shop", map[string]int{"web": 1}, "me", nil)
		w.must(err)
		w.is("serving", w.serving(), "db-r1-1 web-r2-1")
		w.settle()
		w.is("running", w.running(), "db-r1-1 web-r2-1")
	})
}

func TestGateFails(t *testing.T) {
	for name, bad := range map[string]struct {
		edit   func(*Service)
		reason string
		exit   int
	}{
		"never ready":       {labels(readyAfter, "never"), "it is not ready within 10s: health check: exit code 1: not yet", 0},
		"ends at once":      {labels(exitAfter, "100ms", exitCode, "3"), "it ended with exit code 3", 3},
		"ends when watched": {labels(exitAfter, "1500ms", exitCode, "4"), "it ended with exit code 4", 4},
		"ends with traffic": {labels(exitAfter, "3s", exitCode, "5"), "it ended with exit code 5", 5},
		"does not start":    {labels(startFails, "1"), "it does not start: exec: not found", 0},
		"no image":          {func(s *Service) { s.Image = "nowhere:1" }, "manifest unknown", 0},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.mustDeploy(shop(web("app:1", 2)))
				rev, err := w.deploy(shop(web("app:2", 2, bad.edit)))
				var f *Failure
				if !errors.As(err, &f) || f.Reason != bad.reason || f.ExitCode != bad.exit || rev.Outcome != RolledBack || f.Revision.Reason == "" {
					t.Fatalf("%+v, %v: %+v", rev, err, f)
				}
				if f.Container != "" && !slices.Contains(f.Log, "last words of "+f.Container) {
					t.Errorf("log %q", f.Log)
				}
				w.is("serving", w.serving(), "web-r1-1 web-r1-2")
				w.is("running", w.running(), "web-r1-1 web-r1-2")
				w.is("left", w.stopped(), "")
				w.settle()
				w.is("running", w.running(), "web-r1-1 web-r1-2")
			})
		})
	}
}

func TestFirstFails(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		rev, err := w.deploy(shop(web("app:1", 1, labels(readyAfter, "never"))))
		if err == nil || rev.Outcome != Failed {
			t.Errorf("%+v, %v", rev, err)
		}
		w.is("left", w.running()+w.stopped(), "")
		if len(w.engine.networks) > 0 || len(w.engine.traffic["stack/shop"]) > 0 {
			t.Errorf("left: %v, %v", w.engine.networks, w.engine.traffic)
		}
		st, err := w.Status(t.Context(), "shop")
		if err != nil || st.Revision != 0 || st.Deploying != 0 || len(st.Services) != 1 || st.Services[0].Ready != 0 || st.Services[0].Replicas != 1 {
			t.Errorf("%+v, %v", st, err)
		}
		w.is("it is", strings.Join(st.Drift, "\n"), "revision 1: failed: service web: shop-web-r1-1: it is not ready within 10s: health check: exit code 1: not yet")
		w.mustDeploy(shop(web("app:1", 1)))
		w.is("serving", w.serving(), "web-r2-1")
	})
}

func TestFailureActions(t *testing.T) {
	action := func(a FailureAction) func(*Service) { return func(s *Service) { s.Update.FailureAction = a } }
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 1)))
		rev, err := w.deploy(shop(web("app:2", 1, labels(readyAfter, "never"), action(OnFailurePause))))
		if err == nil || rev.Outcome != Paused {
			t.Errorf("%+v, %v", rev, err)
		}
		w.settle()
		w.is("running", w.running(), "web-r1-1 web-r2-1")
		w.is("serving", w.serving(), "web-r1-1")
		st, err := w.Status(t.Context(), "shop")
		if err != nil || st.Deploying != 2 || len(st.Drift) != 1 {
			t.Errorf("%+v, %v", st, err)
		}
		_, err = w.Rollback(t.Context(), "shop", 0, "me", nil)
		w.must(err)
		w.settle()
		w.is("running", w.running()+w.stopped(), "web-r1-1")
		rev, err = w.deploy(shop(web("app:4", 1, labels(readyAfter, "never"), action(OnFailureContinue))))
		if err != nil || rev.Outcome != Deployed {
			t.Errorf("%+v, %v", rev, err)
		}
		w.is("serving", w.serving(), "web-r4-1")
	})
}

func TestRollback(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 2)))
		w.mustDeploy(shop(web("app:2", 2)))
		w.settle()
		begin := time.Now()
		rev, err := w.Rollback(t.Context(), "shop", 0, "me", nil)
		if d := time.Since(begin); err != nil || d > time.Second || rev.Rollback != 1 || rev.Number != 3 {
			t.Errorf("%+v, %v after %s", rev, err, d)
		}
		w.is("serving", w.serving(), "web-r1-1 web-r1-2")
		// Back again at once, while the others are drained.
		begin = time.Now()
		if _, err = w.Rollback(t.Context(), "shop", 2, "me", nil); err != nil || time.Since(begin) > time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		w.is("serving", w.serving(), "web-r2-1 web-r2-2")
		w.settle()
		w.is("running", w.running(), "web-r2-1 web-r2-2")
		w.is("kept", w.stopped(), "web-r1-1 web-r1-2")
		w.mustDeploy(shop(web("app:5", 1)))
		w.settle()
		// The containers of 1 are gone.
		if _, err = w.Rollback(t.Context(), "shop", 1, "me", nil); err != nil {
			t.Error(err)
		}
		w.is("serving", w.serving(), "web-r6-1 web-r6-2")
		for to, kind := range map[int]error{6: runner.ErrInvalid, 99: runner.ErrNotFound} {
			if _, err = w.Rollback(t.Context(), "shop", to, "me", nil); !errors.Is(err, kind) {
				t.Errorf("to %d: %v", to, err)
			}
		}
	})
}

// A rollback to containers that are just being stopped does not wait for them.
func TestRollbackWithinAStop(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 2, labels(stopTakes, "20s"))))
		w.mustDeploy(shop(web("app:2", 2)))
		time.Sleep(3 * time.Second) // both have got the signal
		begin := time.Now()
		rev, err := w.Rollback(t.Context(), "shop", 0, "me", nil)
		if d := time.Since(begin); err != nil || d > time.Second {
			t.Errorf("%+v, %v after %s", rev, err, d)
		}
		w.is("serving", w.serving(), "web-r3-1 web-r3-2")
		w.settle()
		w.is("running", w.running(), "web-r3-1 web-r3-2")
		w.is("kept", w.stopped(), "web-r2-1 web-r2-2")
		// Removing waits for all.
		w.mustDeploy(shop(web("app:2", 2)))
		time.Sleep(3 * time.Second)
		w.must(w.Remove(t.Context(), "shop", true, nil))
		w.is("left", w.running()+w.stopped(), "")
		w.settle()
		if left, _ := filepath.Glob(w.dir + "/shop*"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

func TestConflictAndCancel(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 1)))
		done := make(chan error)
		go func() {
			rev, err := w.deploy(shop(web("app:2", 1, labels(readyAfter, "8s"))))
			if rev.Outcome != Cancelled {
				t.Errorf("%+v", rev)
			}
			done <- err
		}()
		time.Sleep(time.Second)
		_, err := w.Scale(t.Context(), "shop", map[string]int{"web": 2}, "you", nil)
		if !errors.Is(err, runner.ErrConflict) || !strings.Contains(err.Error(), "by me") {
			t.Errorf("%v", err)
		}
		w.must(w.Cancel(t.Context(), "shop"))
		var f *Failure
		if err := <-done; !errors.As(err, &f) || err.Error() != "revision 2: it was cancelled" || f.Revision.Reason != "" {
			t.Error(err)
		}
		w.is("running", w.running()+w.stopped(), "web-r1-1")
		if err := w.Cancel(t.Context(), "shop"); !errors.Is(err, runner.ErrNotFound) {
			t.Error(err)
		}
		// Whoever watches can leave: the deployment goes on.
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, err := w.Deploy(ctx, Request{Stack: shop(web("app:3", 1))}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		w.settle()
		w.is("serving", w.serving(), "web-r3-1")
	})
}

func TestRemove(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		file := File{Name: "key", Target: "/run/secrets/key", Mode: 0o400, Content: digestOf("secret")}
		_, err := w.Deploy(t.Context(), Request{
			Stack:    shop(web("app:1", 2, func(s *Service) { s.Files = []File{file} })),
			Contents: Contents{file.Content: []byte("secret")},
		}, nil)
		w.must(err)
		mounted := w.engine.containers["0000000000000000000000000000000000000000000000000000000000000001"].req.HostConfig.Mounts[0]
		if text, err := os.ReadFile(mounted.Source); string(text) != "secret" || err != nil || !mounted.ReadOnly {
			t.Errorf("%q, %v", text, err)
		}
		w.mustDeploy(shop(web("app:2", 2)))
		w.must(w.Remove(t.Context(), "shop", false, nil))
		w.is("left", w.running()+w.stopped(), "")
		if len(w.engine.networks) > 0 || len(w.engine.volumes) == 0 || len(w.engine.traffic["stack/shop"]) > 0 {
			t.Errorf("left: %v, %v, %v", w.engine.networks, w.engine.volumes, w.engine.traffic)
		}
		if _, err := w.Status(t.Context(), "shop"); !errors.Is(err, runner.ErrNotFound) {
			t.Error(err)
		}
		w.mustDeploy(shop(web("app:2", 1)))
		w.must(w.Remove(t.Context(), "shop", true, nil))
		if len(w.engine.volumes) > 0 {
			t.Error("a volume is left")
		}
		if left, _ := filepath.Glob(w.dir + "/*/*"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}
