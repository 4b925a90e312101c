package deploy

import (
	"errors"
	"testing"
	"time"

	"github.com/berth-registry/berth/runner"
)

// Deploying the same thing again makes no revision, and a rollback leads to one that
// differs.
func TestDeployedAgain(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		again := func(number int, s Stack) {
			t.Helper()
			rev := w.mustDeploy(s)
			h, err := w.History(t.Context(), "shop")
			w.must(err)
			if rev.Number != number || !rev.Unchanged || h[0].Number != number || h[0].Unchanged {
				t.Errorf("deployed again: %+v; %+v", rev, h)
			}
			p, err := w.Plan(t.Context(), Request{Stack: s, From: "compose.yaml"})
			if err != nil || p.Revision != number || len(p.Steps) > 0 {
				t.Errorf("planned again: %+v, %v", p, err)
			}
		}
		first := shop(web("app:1", 2), web("migrate:1", 1, named("migrate"), labels(exitAfter, "400ms"), func(s *Service) { s.Job = true }))
		w.mustDeploy(first)
		again(1, first)
		second := shop(web("app:2", 2), first.Services[1])
		w.mustDeploy(second)
		again(2, second) // the old ones are still being drained
		w.settle()
		again(2, second)
		w.must(w.Close())
		w.open() // what was read from the disk is the same
		w.settle()
		pulled := shop(web("app:2", 2, func(s *Service) { s.Pull = PullAlways }), first.Services[1])
		if rev := w.mustDeploy(pulled); !rev.Unchanged || len(w.engine.pulled) != 1 {
			t.Errorf("%+v, pulled: %q", rev, w.engine.pulled)
		}
		if rev, err := w.Scale(t.Context(), "shop", map[string]int{"web": 2}, "", nil); err != nil || !rev.Unchanged {
			t.Errorf("%+v, %v", rev, err)
		}
		w.is("running", w.running(), "web-r2-1 web-r2-2")

		// From elsewhere it is a revision, which no rollback leads to.
		rev, err := w.Deploy(t.Context(), Request{Stack: second, From: "other.yaml"}, nil)
		if err != nil || rev.Number != 3 || rev.Unchanged {
			t.Errorf("%+v, %v", rev, err)
		}
		rev, err = w.Rollback(t.Context(), "shop", 0, "", nil)
		if err != nil || rev.Number != 4 || rev.Rollback != 1 {
			t.Errorf("%+v, %v", rev, err)
		}
		if _, err := w.Rollback(t.Context(), "shop", 2, "", nil); err != nil { // as it is told
			t.Error(err)
		}
		w.settle()
		w.is("serving", w.serving(), "web-r2-1 web-r2-2")
	})
}

// There is nothing to return to if all revisions before are the same.
func TestNothingBefore(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		for _, from := range []string{"a", "b"} {
			_, err := w.Deploy(t.Context(), Request{Stack: shop(web("app:1", 1)), From: from}, nil)
			w.must(err)
		}
		if rev, err := w.Rollback(t.Context(), "shop", 0, "", nil); !errors.Is(err, runner.ErrNotFound) {
			t.Errorf("%+v, %v", rev, err)
		}
	})
}

// What is amiss is mended by deploying it again.
func TestDeployedAgainMends(t *testing.T) {
	for name, amiss := range map[string]func(w *world) error{
		"a replica is gone": func(w *world) error {
			c, err := w.engine.find("shop-web-r1-1")
			delete(w.engine.containers, c.id)
			return err
		},
		"a replica has ended": func(w *world) error {
			return w.engine.change("", func() error {
				c, err := w.engine.find("shop-web-r1-1")
				if err == nil {
					w.engine.end(c, 1)
				}
				return err
			})
		},
		"the network is gone": func(w *world) error {
			delete(w.engine.networks, "shop_default")
			return nil
		},
		"the traffic is gone": func(w *world) error {
			delete(w.engine.traffic, "stack/shop")
			return nil
		},
		"a version is paused": func(w *world) error {
			_, err := w.deploy(shop(web("app:2", 2, labels(readyAfter, "never"), func(s *Service) { s.Update.FailureAction = OnFailurePause })))
			if err == nil {
				return errors.New("it was taken")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.mustDeploy(shop(web("app:1", 2)))
				w.settle()
				w.must(amiss(w))
				begin := time.Now()
				w.mustDeploy(shop(web("app:1", 2)))
				if d := time.Since(begin); d > 10*time.Second {
					t.Errorf("it took %s", d)
				}
				if s := w.engine.traffic["stack/shop"]; len(s) != 1 || len(s[0].Backends) != 2 || w.engine.networks["shop_default"] == nil {
					t.Errorf("%+v, %+v", s, w.engine.networks)
				}
				w.settle()
				st, err := w.Status(t.Context(), "shop")
				if err != nil || len(st.Drift) > 0 || st.Services[0].Ready != 2 {
					t.Errorf("%+v, %v", st, err)
				}
				w.is("running", w.running(), w.serving())
			})
		})
	}
}
