package deploy

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/runner"
)

// What no revision needs is forgotten, with its files.
func TestHistoryIsBounded(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.history = 3
		file := File{Name: "key", Target: "/key", Mode: 0o400}
		for i := range 6 {
			text := fmt.Sprint("secret ", i)
			file.Content = digestOf(text)
			_, err := w.Deploy(t.Context(), Request{
				Stack:    shop(web("app:1", 1, func(s *Service) { s.Files = []File{file} })),
				Contents: Contents{file.Content: []byte(text)},
			}, nil)
			w.must(err)
		}
		w.settle()
		h, err := w.History(t.Context(), "shop")
		w.must(err)
		if len(h) != 3 || h[0].Number != 6 || h[2].Number != 4 {
			t.Errorf("history %+v", h)
		}
		for _, dir := range []string{"contents", "files", "[0-9]*.json"} {
			pattern := filepath.Join(w.dir, "shop", dir)
			if dir[0] != '[' {
				pattern += "/*"
			}
			if left, _ := filepath.Glob(pattern); len(left) != 3 {
				t.Errorf("%s: %q", dir, left)
			}
		}
		if s, err := w.Stack(t.Context(), "shop", 4); err != nil || s.Services[0].Files[0].Content != digestOf("secret 3") {
			t.Errorf("%+v, %v", s, err)
		}
		// The files of one that is remembered are still there.
		if _, err := w.Rollback(t.Context(), "shop", 4, "", nil); err != nil {
			t.Error(err)
		}
	})
}

// A rolling service is returned to in batches, without waiting.
func TestRollbackOfRolling(t *testing.T) {
	roll := func(s *Service) {
		s.Name, s.Strategy, s.Update = "mixed", Rolling, Update{Parallelism: 1, Delay: time.Minute, Monitor: time.Minute}
	}
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 2, roll)))
		w.mustDeploy(shop(web("app:2", 2, roll)))
		w.settle()
		begin := time.Now()
		_, err := w.Rollback(t.Context(), "shop", 0, "", nil)
		w.must(err)
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("it took %s", d)
		}
		w.is("running", w.running(), "mixed-r1-1 mixed-r1-2")
	})
}

// What cannot be repaired is told, and tried again less and less often.
func TestRepairFails(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 1)))
		w.settle()
		w.must(w.engine.change("", func() error {
			c, err := w.engine.find("shop-web-r1-1")
			if err == nil {
				c.req.Labels[startFails] = "1"
				w.engine.end(c, 1)
			}
			return err
		}))
		tries := 0
		w.engine.failing(func(call string) error {
			if call == "start" {
				tries++
			}
			return nil
		})
		time.Sleep(10 * time.Minute)
		st, err := w.Status(t.Context(), "shop")
		if err != nil || len(st.Drift) != 2 || tries < 5 || tries > 30 {
			t.Errorf("%d tries: %q, %v", tries, st.Drift, err)
		}
	})
}

// A removal that fails is told, and tried again by itself.
func TestRemovalFails(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 1)))
		w.settle()
		w.engine.failing(func(call string) error {
			if call == "remove volume" {
				return runner.Errorf(runner.ErrConflict, "volume is in use")
			}
			return nil
		})
		if err := w.Remove(t.Context(), "shop", true, nil); !errors.Is(err, runner.ErrConflict) {
			t.Error(err)
		}
		if _, err := w.deploy(shop(web("app:2", 1))); !errors.Is(err, runner.ErrConflict) || !strings.Contains(err.Error(), "berth-runner rm shop") {
			t.Error(err)
		}
		synctest.Wait() // until the stack knows of it, too
		st, err := w.Status(t.Context(), "shop")
		if err != nil || len(st.Drift) != 2 || !strings.HasSuffix(st.Drift[1], ": volume is in use") {
			t.Errorf("%+v, %v", st, err)
		}
		w.engine.failing(nil)
		w.settle()
		if _, err := w.Status(t.Context(), "shop"); !errors.Is(err, runner.ErrNotFound) || len(w.engine.volumes) > 0 {
			t.Errorf("%v, left: %v", err, w.engine.volumes)
		}
	})
}

// What ends while a stack is deployed is started again as soon as that is over.
func TestEndsWhileDeployed(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 1), web("db:1", 1, named("db"))))
		w.settle()
		time.AfterFunc(time.Second, func() {
			w.must(w.engine.change("", func() error {
				c, err := w.engine.find("shop-db-r1-1")
				if err == nil {
					w.engine.end(c, 1)
				}
				return err
			}))
		})
		w.mustDeploy(shop(web("app:1", 1), web("db:1", 1, named("db")), web("new:1", 1, named("new"), labels(readyAfter, "5s"))))
		time.Sleep(time.Second)
		synctest.Wait()
		if got := w.running(); !strings.Contains(got, "db-r1-1") {
			t.Errorf("running: %s", got)
		}
	})
}

// What cannot be taken back is told, and tried again soon; another version may come
// before it is.
func TestGoingBackFails(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 1)))
		w.settle()
		var tries atomic.Int32
		var well atomic.Bool
		w.engine.failing(func(call string) error {
			if call == "remove" && !well.Load() {
				tries.Add(1)
				return runner.Errorf(runner.ErrUnavailable, "the disk is slow")
			}
			return nil
		})
		if _, err := w.deploy(shop(web("app:2", 1, labels(readyAfter, "never")))); err == nil {
			t.Error("it is taken")
		}
		time.Sleep(10 * time.Minute)
		st, err := w.Status(t.Context(), "shop")
		if err != nil || len(st.Drift) != 1 || !strings.Contains(st.Drift[0], "the disk is slow") || tries.Load() < 5 || tries.Load() > 30 {
			t.Errorf("%+v, %v, %d tries", st, err, tries.Load())
		}
		rev := w.mustDeploy(shop(web("app:3", 1)))
		h, err := w.History(t.Context(), "shop")
		if err != nil || rev.Number != 3 || h[1].Outcome != RolledBack || h[1].Ended.IsZero() {
			t.Errorf("%+v, %+v, %v", rev, h, err)
		}
		well.Store(true)
		w.settle()
		w.is("running", w.running(), "web-r3-1")
		if st, err = w.Status(t.Context(), "shop"); err != nil || st.Deploying != 0 || len(st.Drift) > 0 {
			t.Errorf("%+v, %v", st, err)
		}
	})
}
