package fleet

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/runner"
)

// TestMoves follows a tag that moves, and the registry's word on when.
func TestMoves(t *testing.T) {
	inBubble(t, func(w *world) {
		f, stop := w.run()
		defer stop()
		after(time.Minute)
		w.check("")
		w.told("running")
		w.move("a")
		after(1500 * time.Millisecond)
		w.check("a", "deploy a")
		w.told("running", "deploying target a", "running has a")
		w.move("b")
		after(1500 * time.Millisecond)
		w.check("b", "deploy b")
		w.told("running has a", "deploying has a target b", "running has b")
		w.set(func() { w.waits = "paused" })
		w.move("c")
		after(10 * time.Minute)
		w.check("b")
		w.told("running has b")
		if s := f.Status(); s.Reason != "paused" || s.Tag != version("c") || s.Running != version("b") || !s.Watched || time.Since(s.Heard) > 31*time.Second {
			t.Errorf("the status is %+v", s)
		}
		w.set(func() { w.waits = "" })
		after(1500 * time.Millisecond)
		w.check("c", "deploy c")
		w.told("running has b", "deploying has b target c", "running has c")
		w.move("b") // and back
		after(1500 * time.Millisecond)
		w.check("b", "deploy b")
		w.set(func() { w.tag = "" })
		after(10 * time.Minute)
		w.check("b")
		if n := w.count("report"); n > 60 {
			t.Errorf("%d reports in 20 minutes", n)
		}
	})
}

// TestUnusable tells that the files of a stack cannot be read, and goes on when they can.
func TestUnusable(t *testing.T) {
	inBubble(t, func(w *world) {
		w.move("a")
		_, stop := w.run()
		defer stop()
		after(2 * time.Second)
		w.check("a", "deploy a")
		w.told("running", "deploying target a", "running has a")
		w.set(func() { w.damage = "record.json cannot be read" })
		after(time.Minute)
		w.told("failed has a target a: record.json cannot be read ")
		w.move("b")
		after(time.Minute)
		w.check("a")
		w.told("failed has a target a: record.json cannot be read ", "failed has a target b: record.json cannot be read ")
		w.set(func() { w.damage = "" })
		after(time.Minute)
		w.check("b", "deploy b")
		w.told("running has a", "deploying has a target b", "running has b")
	})
}

// TestFails does not try again what has failed, until told.
func TestFails(t *testing.T) {
	inBubble(t, func(w *world) {
		w.fails[version("bad")] = crash
		w.move("a")
		f, stop := w.run()
		after(2 * time.Second)
		w.check("a", "deploy a")
		w.told("running", "deploying target a", "running has a")
		w.move("bad")
		after(10 * time.Minute)
		const failed = "failed has a target bad: revision 2: rolled back: service web: ended with 3 one|two"
		w.check("a", "deploy bad")
		w.told("running has a", "deploying has a target bad", failed)
		if s := f.Status(); s.State != runner.FollowFailed || s.Error == "" || len(s.Log) != 2 {
			t.Errorf("the status is %+v", s)
		}
		stop()
		f, stop = w.run() // it is remembered
		after(10 * time.Minute)
		w.check("a")
		w.told("failed has a target bad: revision 2: rolled back: service web: ended with 3 one|two")
		if s := f.Status(); time.Since(s.Since) < 19*time.Minute {
			t.Errorf("it failed at %s", s.Since)
		}
		w.set(func() { w.attempt++ }) // resumed
		after(10 * time.Minute)
		w.check("a", "deploy bad")
		w.told(failed, "deploying has a target bad", strings.Replace(failed, "revision 2", "revision 3", 1))
		w.move("a") // undone
		after(10 * time.Minute)
		w.check("a")
		w.told(strings.Replace(failed, "revision 2", "revision 3", 1), "running has a")
		w.move("bad") // published again
		after(10 * time.Minute)
		w.check("a", "deploy bad")
		w.move("b")
		after(2 * time.Second)
		w.check("b", "deploy b")
		stop()
		w.logged(3, "the version has failed")
	})
}

// TestAway leaves all as it is while the registry is away, and is there soon after.
func TestAway(t *testing.T) {
	inBubble(t, func(w *world) {
		w.move("a")
		f, stop := w.run()
		after(time.Minute)
		w.check("a", "deploy a")
		w.set(func() { w.away = errors.New("connection refused") })
		w.count("report")
		w.count("watch")
		after(10 * time.Minute)
		w.check("a")
		if s := f.Status(); s.Away == "" || s.Running != version("a") {
			t.Errorf("the status is %+v", s)
		}
		if n, m := w.count("report"), w.count("watch"); n < 50 || n > 140 || m > 140 {
			t.Errorf("%d reports and %d watches in 10 minutes without a registry", n, m)
		}
		w.move("b") // nobody hears of it
		w.set(func() { w.away = nil })
		after(11500 * time.Millisecond)
		w.check("b", "deploy b")
		stop()
		w.logged(1, "the registry does not say what to run")
		w.logged(1, "the registry answers again")
	})
}

// TestAwayWhileDeploying deploys on, and tries again what the registry was needed for.
func TestAwayWhileDeploying(t *testing.T) {
	inBubble(t, func(w *world) {
		w.move("a")
		w.slow = time.Second
		_, stop := w.run()
		defer stop()
		after(500 * time.Millisecond) // it fetches the stack
		w.set(func() { w.away = errors.New("connection refused") })
		after(time.Minute)
		w.set(func() { w.away = nil })
		after(15 * time.Second)
		w.check("a", "deploy a")
		w.set(func() { w.takes = 30 * time.Second })
		w.move("b")
		after(5 * time.Second)
		w.set(func() { w.away = errors.New("connection refused") })
		after(time.Minute)
		w.check("b", "deploy b")
		w.set(func() { w.away, w.reports = nil, nil })
		after(15 * time.Second)
		w.told("running has b")
	})
}

// TestUnwilling asks a registry that refuses no more often than it reports.
func TestUnwilling(t *testing.T) {
	inBubble(t, func(w *world) {
		w.away = runner.Errorf(runner.ErrUnauthorized, "authentication required")
		_, stop := w.run()
		after(30 * time.Minute)
		stop()
		if n := w.count("report"); n > 140 {
			t.Errorf("%d reports in 30 minutes", n)
		}
		w.logged(1, "password_file")
	})
}

// TestNoBerth asks by HEAD, and takes what the tag names.
func TestNoBerth(t *testing.T) {
	inBubble(t, func(w *world) {
		w.noBerth = true
		f, stop := w.run()
		after(time.Minute)
		w.check("")
		w.move("a")
		after(3100 * time.Millisecond)
		w.check("a", "deploy a")
		w.count("report")
		w.count("head")
		after(10 * time.Minute)
		if n, m := w.count("report"), w.count("head"); n > 25 || m < 295 || m > 360 {
			t.Errorf("%d reports and %d HEADs in 10 minutes", n, m)
		}
		w.move("b")
		after(3100 * time.Millisecond)
		w.check("b", "deploy b")
		if f.Status().Watched {
			t.Error("it is watched")
		}
		// It becomes one, which has a say in whose turn it is.
		w.set(func() { w.noBerth, w.waits = false, "not its turn" })
		w.move("c")
		after(10 * time.Minute)
		w.check("b")
		w.told("running has b")
		w.set(func() { w.waits = "" })
		after(1500 * time.Millisecond)
		w.check("c", "deploy c")
		stop()
		w.logged(1, "the registry is no Berth")
	})
}

// TestNoWatch asks one who takes reports, but cannot be watched, as often as by HEAD.
func TestNoWatch(t *testing.T) {
	inBubble(t, func(w *world) {
		w.noWatch = true
		w.move("a")
		_, stop := w.run()
		defer stop()
		after(10 * time.Second)
		w.move("b")
		after(3500 * time.Millisecond)
		w.check("b", "deploy a", "deploy b")
		w.count("report")
		after(10 * time.Minute)
		if n := w.count("report"); n > 310 {
			t.Errorf("%d reports in 10 minutes", n)
		}
	})
}

// TestTurn has a node that comes to wait for its turn without having been told of anything
// hear at once of one that is free.
func TestTurn(t *testing.T) {
	inBubble(t, func(w *world) {
		w.move("a")
		_, stop := w.run()
		defer stop()
		after(10 * time.Second)
		w.wake(func() { w.tag, w.waits = version("b"), "not its turn" })
		after(35 * time.Second) // with its next report it waits
		w.check("a", "deploy a")
		w.wake(func() { w.waits, w.turns = "", 1 })
		after(3 * time.Second)
		w.check("b", "deploy b")
	})
}

// TestRestless is not driven by a registry that always has something new.
func TestRestless(t *testing.T) {
	inBubble(t, func(w *world) {
		w.move("a")
		_, stop := w.run()
		defer stop()
		for range 10000 {
			w.set(func() {})
			after(time.Millisecond)
		}
		if n := w.count("report"); n > 60 {
			t.Errorf("%d reports in 10 seconds", n)
		}
	})
}

// TestMovesBack takes back what is deployed when the tag names something else.
func TestMovesBack(t *testing.T) {
	inBubble(t, func(w *world) {
		w.takes = time.Minute
		w.move("a")
		_, stop := w.run()
		defer stop()
		after(70 * time.Second)
		w.move("b")
		after(10 * time.Second)
		w.move("c")
		after(2 * time.Second)
		w.check("a", "deploy a", "deploy b", "cancel", "deploy c")
		w.told("running", "deploying target a", "running has a", "deploying has a target b", "running has a", "deploying has a target c")
		w.move("a")
		after(2 * time.Second)
		w.check("a", "cancel")
		w.told("deploying has a target c", "running has a")
		// A pause lets it end.
		w.move("b")
		after(10 * time.Second)
		w.set(func() { w.waits = "paused" })
		after(time.Minute)
		w.check("b", "deploy b")
		// While the stack is fetched there is nothing to take back.
		w.set(func() { w.waits, w.slow = "", time.Minute })
		w.move("c")
		after(10 * time.Second)
		w.move("b")
		after(2 * time.Minute)
		w.check("b")
		w.move("bad")
		after(10 * time.Second)
		w.move("c")
		after(3 * time.Minute)
		w.check("c", "deploy c")
	})
}

// TestByHand gives the fleet the last word.
func TestByHand(t *testing.T) {
	inBubble(t, func(w *world) {
		w.move("a")
		_, stop := w.run()
		after(5 * time.Second)
		w.set(func() { w.did, w.takes = nil, 10*time.Second; w.begin("alice", "compose.yaml") })
		w.move("b")
		after(time.Minute)
		w.check("b", "deploy by hand", "deploy b")
		w.told("running", "deploying target a", "running has a", "running", "deploying target b", "running has b")
		w.set(func() { w.begin("alice", "compose.yaml") })
		after(time.Minute)
		w.check("b", "deploy by hand", "deploy b")
		stop()
		w.logged(2, "the fleet takes it over")
	})
}

// TestRestart goes on where it was: what the manager resumes is not begun anew.
func TestRestart(t *testing.T) {
	inBubble(t, func(w *world) {
		w.takes = time.Minute
		w.move("a")
		_, stop := w.run()
		after(10 * time.Second)
		stop()
		w.check("", "deploy a")
		_, stop = w.run()
		after(10 * time.Second)
		w.told("running", "deploying target a")
		after(41 * time.Second) // a second after its end
		w.check("a")
		w.told("deploying target a", "running has a")
		w.move("b")
		after(10 * time.Second)
		stop()
		w.move("a")
		_, stop = w.run()
		after(5 * time.Second)
		w.check("a", "deploy b", "cancel")
		stop()
		// What failed meanwhile is seen to fail.
		w.fails[version("bad")] = crash
		w.takes = time.Second
		w.set(func() { w.begin(By, ref+"@"+version("bad").String()) })
		after(2 * time.Second)
		w.move("bad")
		w.did, w.reports = nil, nil
		_, stop = w.run()
		after(time.Minute)
		w.check("a", "deploy bad")
		stop()
	})
}

// TestKilled gives up what kills the runner.
func TestKilled(t *testing.T) {
	inBubble(t, func(w *world) {
		w.move("a")
		_, stop := w.run()
		after(5 * time.Second)
		stop()
		w.check("a", "deploy a")
		w.takes = time.Minute
		w.move("crash")
		for range 5 {
			_, stop := w.run()
			after(5 * time.Second)
			kept, err := os.ReadFile(filepath.Join(w.dir, "shop.json"))
			if err != nil {
				t.Fatal(err)
			}
			stop()
			// As if it had been killed: nothing was written at the end, and the manager
			// has taken it back.
			if err := os.WriteFile(filepath.Join(w.dir, "shop.json"), kept, 0o600); err != nil {
				t.Fatal(err)
			}
			if w.going != 0 {
				close(w.undo)
			}
			after(time.Second)
		}
		w.check("a", "deploy crash", "deploy crash", "deploy crash")
		w.logged(1, "the runner did not live")
		w.move("b")
		for range 5 { // to be stopped is another thing
			_, stop := w.run()
			after(5 * time.Second)
			stop()
			close(w.undo)
			after(time.Second)
		}
		w.check("a", "deploy b", "deploy b", "deploy b", "deploy b", "deploy b")
		_, stop = w.run()
		after(2 * time.Minute)
		stop()
		w.check("b", "deploy b")
	})
}

// TestTries tries again what is not the version's own fault.
func TestTries(t *testing.T) {
	inBubble(t, func(w *world) {
		left := 2
		w.fails[version("no image")] = func() error {
			if left--; left == 0 {
				delete(w.fails, version("no image"))
			}
			return pull()
		}
		w.move("no image")
		_, stop := w.run()
		after(20 * time.Second)
		w.check("no image", "deploy no image", "deploy no image", "deploy no image")
		w.told("running", "deploying target no image", "running has no image")
		w.fails[version("no image")] = pull
		w.move("a")
		after(2 * time.Second)
		w.move("no image")
		after(time.Minute)
		w.check("a", "deploy a", "deploy no image", "deploy no image", "deploy no image")
		w.move("b")
		after(5 * time.Second)
		w.set(func() { w.did, w.reports, w.slow = nil, nil, time.Second })
		w.move("no stack")
		after(time.Minute)
		w.check("b")
		w.told("running has b", "deploying has b target "+version("no stack").String(), "failed has b target "+version("no stack").String()+": it is no stack ")
		stop()
		w.logged(2, "the version has failed")
	})
}

// TestMemory begins anew with a memory that cannot be read, or is of another tag.
func TestMemory(t *testing.T) {
	inBubble(t, func(w *world) {
		path := filepath.Join(w.dir, "shop.json")
		for _, text := range []string{"", "{", "null", `{"Ref":"other","Failed":{"Digest":"` + version("a").String() + `"}}`} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if m := w.follower().recall(t.Context()); m.Ref != ref || m.Failed.Digest != "" {
				t.Errorf("%q is read as %+v", text, m)
			}
		}
		w.dir = path // no directory: it can remember nothing
		w.move("a")
		_, stop := w.run()
		after(5 * time.Second)
		stop()
		w.check("a", "deploy a")
		w.logged(2, "cannot remember")
	})
}
