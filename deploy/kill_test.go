package deploy

import (
	"errors"
	"fmt"
	"io/fs"
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

	"github.com/berth-registry/berth/runner"
)

// moment is all that is left of a host whose daemon was killed.
type moment struct {
	call   string
	dir    string
	engine *fake
}

// recorder takes a moment before and after each change that an engine is told.
type recorder struct {
	t       *testing.T
	w       *world
	mu      sync.Mutex
	moments []moment
}

func (r *recorder) step(call string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dir := filepath.Join(r.t.TempDir(), "killed")
	err := os.CopyFS(dir, os.DirFS(r.w.dir))
	for errors.Is(err, fs.ErrNotExist) { // a file was being replaced, by what goes on beside this call
		err = errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(r.w.dir)))
	}
	if err != nil {
		r.t.Error(err)
	}
	r.moments = append(r.moments, moment{call, dir, r.w.engine.copy()})
}

// A daemon that is killed at any step of a deployment, a rollback or a failure ends,
// when it starts again, at one of the two versions, with all of its replicas, and with
// nothing left of the other but what is kept. On the way there the traffic is never
// empty, nor of two versions.
func TestKilledAtEveryStep(t *testing.T) {
	job := func(s *Service) { s.Job, s.Container.Healthcheck = true, nil }
	first := shop(web("app:1", 2), web("api:1", 2, named("api")))
	second := shop(
		web("migrate:2", 1, named("migrate"), job, labels(exitAfter, "400ms")),
		web("app:2", 2, func(s *Service) { s.Needs = []Need{{Service: "migrate", Condition: NeedCompleted}} }),
		web("api:2", 2, named("api")), web("new:1", 1, named("new")))
	rolling := shop(web("app:2", 2), web("api:2", 2, named("mixed-api"), func(s *Service) { s.Strategy, s.Update.Parallelism = Rolling, 1 }))
	canary := shop(web("app:2", 2, func(s *Service) {
		s.Name, s.Strategy, s.Steps = "mixed-web", Canary, []CanaryStep{{Weight: 20, Pause: time.Second}}
	}))
	mixed := func(s Stack, name string) Stack { // the same service, before
		s.Services = slices.Clone(s.Services)
		for i := range s.Services {
			if strings.TrimPrefix(name, "mixed-") == s.Services[i].Name {
				s.Services[i].Name = name
			}
		}
		return s
	}
	failing := second
	failing.Services = slices.Clone(second.Services)
	failing.Services[2] = web("api:2", 2, named("api"), labels(exitAfter, "3s", exitCode, "1"))
	for name, test := range map[string]struct {
		before Stack
		does   func(w *world) error
		fails  bool
	}{
		"deploy":       {before: first, does: func(w *world) error { _, err := w.deploy(second); return err }},
		"first":        {does: func(w *world) error { _, err := w.deploy(second); return err }},
		"fail":         {before: first, does: func(w *world) error { _, err := w.deploy(failing); return err }, fails: true},
		"rolling":      {before: mixed(first, "mixed-api"), does: func(w *world) error { _, err := w.deploy(rolling); return err }},
		"rolling fail": {before: mixed(first, "mixed-api"), does: func(w *world) error { _, err := w.deploy(lastFails(rolling)); return err }, fails: true},
		"canary":       {before: mixed(shop(first.Services[0]), "mixed-web"), does: func(w *world) error { _, err := w.deploy(canary); return err }},
		"rollback": {before: first, does: func(w *world) error {
			w.mustDeploy(second)
			w.settle()
			_, err := w.Rollback(w.t.Context(), "shop", 1, "", nil)
			return err
		}},
		"rollback within a stop": {before: shop(web("app:1", 2, labels(stopTakes, "20s"))), does: func(w *world) error {
			w.mustDeploy(shop(web("app:2", 2)))
			time.Sleep(3 * time.Second)
			_, err := w.Rollback(w.t.Context(), "shop", 1, "", nil)
			return err
		}},
		"ports": {before: first, does: func(w *world) error {
			more := shop(web("app:2", 2), web("new:1", 1, named("new"), func(s *Service) {
				s.Ports = network.PortMap{network.MustParsePort("80"): {{HostPort: "9090"}}}
			}))
			_, err := w.deploy(more)
			return err
		}},
		"scale": {before: first, does: func(w *world) error {
			_, err := w.Scale(w.t.Context(), "shop", map[string]int{"web": 3, "api": 1}, "", nil)
			return err
		}},
		"again":  {before: first, does: func(w *world) error { _, err := w.deploy(first); return err }},
		"remove": {before: first, does: func(w *world) error { return w.Remove(w.t.Context(), "shop", true, nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in(t, func(t *testing.T, w *world) {
				if test.before.Name != "" {
					w.mustDeploy(test.before)
					w.settle()
				}
				rec := &recorder{t: t, w: w}
				w.engine.step = rec.step
				if err := test.does(w); (err != nil) != test.fails {
					t.Fatal(err)
				}
				w.settle()
				w.engine.step = nil
				if len(rec.moments) < 2 {
					t.Errorf("only %d moments", len(rec.moments))
				}
				for i, m := range rec.moments {
					afterKill(t, fmt.Sprintf("%d: %s", i, m.call), m)
				}
			})
		})
	}
}

// lastFails is a stack whose last service comes up, and ends soon after.
func lastFails(s Stack) Stack {
	s.Services = slices.Clone(s.Services)
	last := &s.Services[len(s.Services)-1]
	*last = web("bad:1", 2, named(last.Name), labels(exitAfter, "1s", exitCode, "1"), func(b *Service) { b.Strategy, b.Update = last.Strategy, last.Update })
	return s
}

// afterKill opens what a killed daemon has left, and looks at what comes of it.
func afterKill(t *testing.T, at string, m moment) {
	t.Helper()
	w := &world{t: t, dir: m.dir, engine: m.engine, edge: &fakeEdge{routes: map[string][]EdgeRoute{}}}
	w.engine.resume()
	w.open()
	w.settle()
	synctest.Wait()
	defer func() {
		w.must(w.Close())
		_ = os.RemoveAll(m.dir)
	}()
	if len(w.engine.broken) > 0 {
		t.Errorf("%s: rules are broken: %q", at, w.engine.broken)
	}
	u, err := w.unit("shop")
	if err != nil { // removed, or never there
		if left := w.running() + w.stopped(); left != "" || len(w.engine.traffic["stack/shop"]) > 0 {
			t.Errorf("%s: without a stack there are %q, %v", at, left, w.engine.traffic)
		}
		return
	}
	rec := u.record()
	if !u.sound() {
		t.Fatalf("%s: it cannot be read: %v", at, u.unread)
	}
	if rec.Under != nil || len(rec.Draining) > 0 {
		t.Errorf("%s: it still goes on: %+v, %+v", at, rec.Under, rec.Draining)
	}
	kept, _, err := u.kept(rec)
	w.must(err)
	found, err := w.find(t.Context(), "shop")
	w.must(err)
	serves := targets(kept[rec.Current], found)
	for _, r := range found {
		isServing := slices.ContainsFunc(serves, func(s replica) bool { return s.ID == r.ID }) && r.Service != "migrate"
		if isServing != (r.State == container.StateRunning) || isServing != w.engine.leads(r.ID) {
			t.Errorf("%s: revision %d: %s is %s, traffic %v", at, rec.Current, r.Name, r.State, w.engine.leads(r.ID))
		}
		if !slices.ContainsFunc(explained(kept, found), func(s replica) bool { return s.ID == r.ID }) {
			t.Errorf("%s: %s is an orphan", at, r.Name)
		}
	}
	if rec.Current != 0 {
		for _, svc := range kept[rec.Current].Stack.Services {
			if got := kept[rec.Current].target(found, &svc); len(got) != replicasOf(&svc) && !svc.Job {
				t.Errorf("%s: %d replicas of %s", at, len(got), svc.Name)
			}
		}
	}
	last := rec.Revisions[len(rec.Revisions)-1]
	if last.Outcome == Deploying || last.Ended.IsZero() || (last.Outcome == Deployed) != (last.Number == rec.Current) {
		t.Errorf("%s: %+v, in service %d", at, last, rec.Current)
	}
	var names []string
	for _, s := range w.engine.traffic["stack/shop"] {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	if want := servicesOf(kept[rec.Current]); !slices.Equal(names, want) {
		t.Errorf("%s: traffic of %q, want %q", at, names, want)
	}
}

func explained(kept map[int]*versioned, found []replica) (list []replica) {
	for _, v := range kept {
		list = append(list, targets(v, found)...)
	}
	return list
}

func servicesOf(v *versioned) (names []string) {
	if v == nil {
		return nil
	}
	for _, svc := range v.Stack.Services {
		if !svc.Job {
			names = append(names, svc.Name)
		}
	}
	slices.Sort(names)
	return names
}

// An engine that fails at any step is no reason for a mixture either.
func TestEngineFailsAtEveryStep(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		calls := 0
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.mustDeploy(shop(web("app:1", 2)))
				w.settle()
				var mu sync.Mutex
				w.engine.failing(func(call string) error {
					mu.Lock()
					defer mu.Unlock()
					if calls++; calls == n {
						return runner.Errorf(runner.ErrUnavailable, "%s: out of order", call)
					}
					return nil
				})
				rev, err := w.deploy(shop(web("app:2", 2)))
				w.settle()
				if want := map[bool]string{true: "web-r2-1 web-r2-2", false: "web-r1-1 web-r1-2"}[err == nil]; w.serving() != want || w.running() != want {
					t.Errorf("%+v, %v: %q serve, %q run", rev, err, w.serving(), w.running())
				}
			})
		})
		if calls < n {
			break
		}
	}
}
