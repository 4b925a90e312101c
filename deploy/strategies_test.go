package deploy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

// weights are the weights of the replicas of a service, by the end of their names.
func (w *world) weights(service string) string {
	w.engine.mu.Lock()
	defer w.engine.mu.Unlock()
	var list []string
	for _, s := range w.engine.traffic["stack/shop"] {
		if s.Name != service {
			continue
		}
		for _, b := range s.Backends {
			c := w.engine.containers[b.Container]
			list = append(list, fmt.Sprintf("%s:%d", strings.TrimPrefix(c.name, "shop-"+service+"-"), b.Weight))
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestCanary(t *testing.T) {
	bird := func(s *Service) {
		s.Name, s.Strategy = "mixed", Canary
		s.Steps = []CanaryStep{{Weight: 10, Pause: 10 * time.Second}, {Weight: 50, Pause: 10 * time.Second}}
		s.Routes = []Route{{Hosts: []string{"example.com"}, Port: 80}}
	}
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 2, bird)))
		done := make(chan error)
		go func() {
			_, err := w.deploy(shop(web("app:2", 1, bird)))
			done <- err
		}()
		time.Sleep(5 * time.Second)
		w.is("weights", w.weights("mixed"), "r1-1:9 r1-2:9 r2-1:2")
		time.Sleep(10 * time.Second)
		w.is("weights", w.weights("mixed"), "r1-1:1 r1-2:1 r2-1:2")
		var shares []int
		for _, up := range w.edge.of("stack/shop")[0].Upstreams {
			shares = append(shares, up.Weight)
		}
		if fmt.Sprint(shares) != "[1 1 2]" {
			t.Errorf("the edge has weights %v", shares)
		}
		w.must(<-done)
		w.is("weights", w.weights("mixed"), "r2-1:1")
		if ups := w.edge.of("stack/shop")[0].Upstreams; len(ups) != 1 || ups[0].Addr.Port() != 80 {
			t.Errorf("upstreams %v", ups)
		}
		// One that fails while it has a part of the traffic goes back.
		if _, err := w.deploy(shop(web("app:3", 1, bird, labels(exitAfter, "9s", exitCode, "1")))); err == nil {
			t.Error("it is taken")
		}
		w.is("weights", w.weights("mixed"), "r2-1:1")
	})
}

func TestRolling(t *testing.T) {
	roll := func(startFirst bool) func(*Service) {
		return func(s *Service) {
			s.Name, s.Strategy = "mixed", Rolling
			s.Update = Update{Parallelism: 2, Delay: 3 * time.Second, Monitor: time.Second, StartFirst: startFirst}
		}
	}
	for _, startFirst := range []bool{false, true} {
		t.Run(fmt.Sprint(startFirst), func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.mustDeploy(shop(web("app:1", 3, roll(startFirst))))
				done := make(chan error)
				go func() {
					_, err := w.deploy(shop(web("app:2", 3, roll(startFirst))))
					done <- err
				}()
				most := map[bool]int{false: 3, true: 5}[startFirst]
				seen := ""
				for range 200 {
					time.Sleep(100 * time.Millisecond)
					if n := len(strings.Fields(w.running())); n > most || n < 1 {
						t.Fatalf("%d containers run", n)
					}
					if now := w.weights("mixed"); now != seen {
						seen = now
					}
					select {
					case err := <-done:
						w.must(err)
						w.is("weights", w.weights("mixed"), "r2-1:1 r2-2:1 r2-3:1")
						w.is("running", w.running(), "mixed-r2-1 mixed-r2-2 mixed-r2-3")
						// The second batch fails: the first goes back, too.
						bad := web("app:3", 3, roll(startFirst), labels(exitAfter, "5s", exitCode, "1"))
						if _, err := w.deploy(shop(bad)); err == nil {
							t.Error("it is taken")
						}
						w.is("weights", w.weights("mixed"), "r2-1:1 r2-2:1 r2-3:1")
						w.settle()
						w.is("running", w.running(), "mixed-r2-1 mixed-r2-2 mixed-r2-3")
						return
					default:
					}
				}
				t.Error("it does not end")
			})
		})
	}
}

func TestNeeds(t *testing.T) {
	job := func(s *Service) { s.Job, s.Container.Healthcheck = true, nil }
	needs := func(n ...Need) func(*Service) { return func(s *Service) { s.Needs = n } }
	in(t, func(t *testing.T, w *world) {
		stack := func(v string, code string) Stack {
			return shop(
				web("app:"+v, 1, needs(Need{Service: "migrate", Condition: NeedCompleted})),
				web("app:"+v, 1, named("migrate"), job, labels(exitAfter, "2s", exitCode, code), needs(Need{Service: "db", Condition: NeedHealthy})),
				web("db:1", 1, named("db"), labels(readyAfter, "3s")))
		}
		begin := time.Now()
		w.mustDeploy(stack("1", "0"))
		var started []string
		for _, e := range w.events {
			if strings.HasPrefix(e.Message, "start") || strings.HasPrefix(e.Message, "run") {
				started = append(started, fmt.Sprintf("%s %s", e.Service, e.Time.Sub(begin).Round(time.Second)))
			}
		}
		w.is("order", strings.Join(started, ", "), "db 0s, migrate 3s, web 5s")
		st, err := w.Status(t.Context(), "shop")
		w.must(err)
		if job := st.Services[1]; !job.Job || job.Ready != 1 || job.Replicas != 1 || len(st.Drift) > 0 {
			t.Errorf("a job that was done: %+v, %q", job, st.Drift)
		}
		// The same version does not run its job again.
		_, err = w.Deploy(t.Context(), Request{Stack: stack("1", "0"), From: "elsewhere"}, nil)
		w.must(err)
		w.is("job containers", w.stopped(), "migrate-r1-1")
		_, err = w.deploy(stack("2", "9"))
		var f *Failure
		if !errors.As(err, &f) || f.Service != "migrate" || f.ExitCode != 9 || len(f.Log) != 2 {
			t.Errorf("%+v", f)
		}
		w.is("serving", w.serving(), "db-r1-1 web-r1-1")
		w.is("job containers", w.stopped(), "migrate-r1-1")
		// What is replaced takes those with it that want that.
		w.mustDeploy(shop(
			web("app:1", 1, needs(Need{Service: "db", Restart: true})),
			web("db:1", 1, named("db"), labels(readyAfter, "3s"))))
		w.mustDeploy(shop(
			web("app:1", 1, needs(Need{Service: "db", Restart: true})),
			web("db:2", 1, named("db"))))
		w.settle()
		w.is("running", w.running(), "db-r5-1 web-r5-1")
		// A service that nobody needs for certain may fail.
		w.mustDeploy(shop(
			web("app:2", 1, needs(Need{Service: "extra", Optional: true}, Need{Service: "absent", Optional: true})),
			web("db:2", 1, named("db")),
			web("extra:1", 1, named("extra"), labels(startFails, "1"))))
		if !slices.ContainsFunc(w.events, func(e Event) bool { return e.Kind == EventWarning && e.Service == "extra" }) {
			t.Error("nobody is told")
		}
	})
}

func TestInvalid(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		for name, s := range map[string]Stack{
			"name":     {Name: "../etc"},
			"twice":    shop(web("a", 1), web("b", 1)),
			"circle":   shop(web("a", 1, func(s *Service) { s.Needs = []Need{{Service: "web"}} })),
			"nobody":   shop(web("a", 1, func(s *Service) { s.Needs = []Need{{Service: "db"}} })),
			"no job":   shop(web("a", 1, func(s *Service) { s.Needs = []Need{{Service: "db", Condition: NeedCompleted}} }), web("b", 1, named("db"))),
			"no image": shop(web("", 1)),
			"no steps": shop(web("a", 1, func(s *Service) { s.Strategy = Canary })),
			"content":  shop(web("a", 1, func(s *Service) { s.Files = []File{{Name: "key", Content: digestOf("x")}} })),
		} {
			if _, err := w.deploy(s); !errors.Is(err, runner.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		w.edge, w.Manager.edge = nil, nil
		s := shop(web("a", 1, func(s *Service) { s.Routes = []Route{{Port: 80}} }))
		if _, err := w.deploy(s); !errors.Is(err, runner.ErrPrecondition) {
			t.Errorf("without an edge: %v", err)
		}
		if list, err := w.Stacks(t.Context()); err != nil || len(list) > 0 {
			t.Errorf("%v, %v", list, err)
		}
		// A network that containers have cannot change.
		w.mustDeploy(shop(web("a", 1)))
		s = shop(web("b", 1))
		s.Networks[0].Request.Internal = true
		if _, err := w.Plan(t.Context(), Request{Stack: s}); !errors.Is(err, runner.ErrConflict) {
			t.Errorf("plan: %v", err)
		}
		if _, err := w.deploy(s); err == nil {
			t.Error("another network is taken")
		}
		w.is("serving", w.serving(), "web-r1-1")
	})
}

// A replica that ends is out of the balance at once, whoever starts it again and
// whatever goes on, and is back when it is ready.
func TestFall(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 2)))
		w.settle()
		ends := func(name string) {
			w.engine.mu.Lock()
			defer w.engine.mu.Unlock()
			c, err := w.engine.find(name)
			w.must(err)
			w.engine.end(c, 1)
		}
		fall := func() {
			t.Helper()
			ends("shop-web-r1-1")
			synctest.Wait()
			w.is("fallen", w.weights("web"), "r1-1:0 r1-2:1")
			w.must(w.engine.StartContainer(t.Context(), "shop-web-r1-1")) // as its policy does
			time.Sleep(250 * time.Millisecond)
			w.is("not ready", w.weights("web"), "r1-1:0 r1-2:1")
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			w.is("ready again", w.weights("web"), "r1-1:1 r1-2:1")
		}
		fall()
		done := make(chan error)
		go func() {
			_, err := w.deploy(shop(web("app:2", 2, labels(readyAfter, "8s"))))
			done <- err
		}()
		time.Sleep(2 * time.Second)
		fall()
		fall()
		w.must(<-done)
		w.settle()
		// If all are gone there is nobody else.
		ends("shop-web-r2-1")
		ends("shop-web-r2-2")
		synctest.Wait()
		w.is("all fallen", w.weights("web"), "r2-1:1 r2-2:1")
		w.must(w.engine.StartContainer(t.Context(), "shop-web-r2-2"))
		time.Sleep(4 * time.Second)
		ends("shop-web-r2-1") // it was started as well
		time.Sleep(5 * time.Second)
		w.is("one is ready", w.weights("web"), "r2-1:0 r2-2:1")
		w.settle()
		w.is("both are", w.weights("web"), "r2-1:1 r2-2:1")
		if len(w.unitOrNew("shop").rising) > 0 {
			t.Error("one is still waited for")
		}
	})
}

func TestRepair(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 2, func(s *Service) { s.Routes = []Route{{Port: 80}} })))
		soon := func() {
			time.Sleep(3 * time.Second)
			synctest.Wait()
		}
		soon()
		w.engine.setHealth("shop-web-r1-1", container.Unhealthy)
		soon()
		w.is("an unhealthy one", w.weights("web"), "r1-1:0 r1-2:1")
		if n := len(w.edge.of("stack/shop")[0].Upstreams); n != 1 {
			t.Errorf("%d upstreams", n)
		}
		st, err := w.Status(t.Context(), "shop")
		if err != nil || st.Services[0].Ready != 1 || fmt.Sprint(st.Drift) != "[service web: shop-web-r1-1 is unhealthy]" {
			t.Errorf("%+v, %v", st, err)
		}
		w.engine.setHealth("shop-web-r1-2", container.Unhealthy)
		soon()
		w.is("all unhealthy", w.weights("web"), "r1-1:1 r1-2:1")
		w.engine.setHealth("shop-web-r1-2", container.Healthy)
		w.engine.setHealth("shop-web-r1-1", container.Healthy)
		soon()
		w.is("healthy again", w.weights("web"), "r1-1:1 r1-2:1")

		addr := w.edge.of("stack/shop")[0].Upstreams[0].Addr
		w.engine.mu.Lock()
		c, _ := w.engine.find("shop-web-r1-1")
		w.engine.end(c, 1)
		w.engine.mu.Unlock()
		time.Sleep(200 * time.Millisecond)
		w.is("just started again", w.weights("web"), "r1-1:0 r1-2:1")
		soon()
		w.is("started again", w.weights("web"), "r1-1:1 r1-2:1")
		if now := w.edge.of("stack/shop")[0].Upstreams[0].Addr; now == addr {
			t.Errorf("the edge still has %s", addr)
		}
		w.engine.mu.Lock()
		delete(w.engine.containers, c.id)
		w.engine.mu.Unlock()
		w.settle()
		w.is("created again", w.running(), "web-r1-1 web-r1-2")
		w.is("traffic", w.weights("web"), "r1-1:1 r1-2:1")
		// An orphan, and the edge that has forgotten all.
		w.must(w.Close())
		w.edge.routes = map[string][]EdgeRoute{}
		req := w.engine.containers[slices.Sorted(maps.Keys(w.engine.containers))[0]].req
		cfg := *req.Config
		req.Config, req.Name = &cfg, "stray"
		req.Labels = map[string]string{labelStack: "shop", labelService: "web"}
		_, err = w.engine.CreateContainer(t.Context(), req)
		w.must(err)
		w.open()
		w.settle()
		w.is("stopped", w.stopped(), "")
		if len(w.edge.of("stack/shop")) != 1 {
			t.Error("no routes")
		}
	})
}
