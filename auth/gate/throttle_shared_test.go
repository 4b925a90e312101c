package gate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// counted is a store that several processes share.
type counted struct {
	storage.Meta
	views, updates atomic.Int64
	full           atomic.Bool // it can be read, and not written to
	away           atomic.Bool
}

var errFull = errors.New("the store is full")

func (c *counted) View(ctx context.Context, fn func(storage.Tx) error) error {
	c.views.Add(1)
	if c.away.Load() {
		return errFull
	}
	return c.Meta.View(ctx, fn)
}

func (c *counted) Update(ctx context.Context, fn func(storage.Tx) error) error {
	c.updates.Add(1)
	if c.full.Load() || c.away.Load() {
		return errFull
	}
	return c.Meta.Update(ctx, fn)
}

// fleet is the throttles of n processes, each with what open returns.
func fleet(n int, c *clock, open func() storage.Meta) (ths []*throttle) {
	for range n {
		th := newThrottle(c.now)
		th.shared, th.replicas = &guesses{meta: open(), now: c.now}, func() int { return n }
		ths = append(ths, th)
	}
	return ths
}

// eachShared runs a test over memory and over a database.
func eachShared(t *testing.T, test func(t *testing.T, open func() storage.Meta)) {
	t.Run("mem", func(t *testing.T) {
		meta := mem.NewMeta()
		test(t, func() storage.Meta { return meta })
	})
	t.Run("postgres", func(t *testing.T) {
		dsn := postgrestest.Shared(t)
		test(t, func() storage.Meta {
			meta, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = meta.Close() })
			return meta
		})
	})
}

// flood guesses for half an hour as fast as it can, at one process after the other, and
// returns how many guesses were looked at.
func flood(t *testing.T, ths []*throttle, c *clock, account, client func(i int) string) (n int) {
	t.Helper()
	end := c.now().Add(30 * time.Minute)
	for i := 0; c.now().Before(end); i++ {
		if try(t, ths[i%len(ths)], c, account(i), client(i), wrong) < 0 {
			c.pass(time.Second)
			continue
		}
		n++
	}
	return n
}

// floodTogether is flood with guesses at all processes at the same moment.
func floodTogether(t *testing.T, ths []*throttle, c *clock) (n int) {
	t.Helper()
	end := c.now().Add(2 * time.Hour)
	for c.now().Before(end) {
		var begun []*attempt
		wait := time.Second
		for _, th := range ths {
			a, err := th.begin(t.Context(), "alice", "192.0.2.1")
			if err == nil {
				begun, wait = append(begun, a), max(wait, a.wait)
			} else if !errors.Is(err, ErrThrottled) {
				t.Fatal(err)
			}
		}
		c.pass(wait)
		for _, a := range begun {
			a.end(t.Context(), wrong)
		}
		n += len(begun)
	}
	return n
}

// TestFloodTogether guesses at three processes in the same moment, each time that one
// guess may be made.
func TestFloodTogether(t *testing.T) {
	c := newClock()
	want := floodTogether(t, []*throttle{newThrottle(c.now)}, c)
	eachShared(t, func(t *testing.T, open func() storage.Meta) {
		c := newClock()
		got := floodTogether(t, fleet(3, c, open), c)
		t.Logf("%d guesses with three, %d with one", got, want)
		if got > want+want/10+3 || got < want/2 {
			t.Errorf("%d guesses with three, %d with one", got, want)
		}
	})
}

func same(s string) func(int) string { return func(int) string { return s } }

// TestFloodOfReplicas has a flood of guesses over three processes be as limited as one over one.
func TestFloodOfReplicas(t *testing.T) {
	many := func(i int) string { return fmt.Sprint("user", i) }
	for _, kind := range []struct {
		name            string
		account, client func(int) string
	}{
		{"of one account from one address", same("alice"), same("192.0.2.1")},
		{"of many accounts from one address", many, same("192.0.2.1")},
	} {
		t.Run(kind.name, func(t *testing.T) {
			c := newClock()
			want := flood(t, []*throttle{newThrottle(c.now)}, c, kind.account, kind.client)
			eachShared(t, func(t *testing.T, open func() storage.Meta) {
				c := newClock()
				got := flood(t, fleet(3, c, open), c, kind.account, kind.client)
				t.Logf("%d guesses with three, %d with one", got, want)
				if got > want+want/20+1 || got < want/2 {
					t.Errorf("%d guesses with three, %d with one", got, want)
				}
			})
		})
	}
}

// TestFloodAtOnce guesses a hundred times at once at three processes.
func TestFloodAtOnce(t *testing.T) {
	eachShared(t, func(t *testing.T, open func() storage.Meta) {
		c := newClock()
		ths := fleet(3, c, open)
		var begun sync.Map
		var n atomic.Int64
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				a, err := ths[i%3].begin(t.Context(), "alice", "192.0.2.1")
				switch {
				case err == nil:
					n.Add(1)
					begun.Store(i, a)
				case !errors.Is(err, ErrThrottled):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n.Load() < 3 || n.Load() > int64(guardPair.free)+3 {
			t.Errorf("%d guesses are looked at", n.Load())
		}
		for _, a := range begun.Range {
			a.(*attempt).end(t.Context(), wrong)
		}
		for i, th := range ths {
			if w := try(t, th, c, "alice", "192.0.2.1", wrong); w == 0 {
				t.Errorf("number %d: another one, without waiting", i)
			}
		}
	})
}

// TestRightElsewhere clears what has failed when somebody signs in, wherever that is,
// and for nobody else.
func TestRightElsewhere(t *testing.T) {
	eachShared(t, func(t *testing.T, open func() storage.Meta) {
		c := newClock()
		ths := fleet(3, c, open)
		for i := range 5 {
			try(t, ths[i%3], c, "alice", "192.0.2.1", wrong)
		}
		if w := try(t, ths[2], c, "alice", "192.0.2.1", right); w < 0 {
			t.Error("somebody who knows the password was refused")
		}
		for i := range 3 {
			if w := try(t, ths[i], c, "alice", "192.0.2.1", wrong); w != 0 {
				t.Errorf("number %d still waits: %v", i, w)
			}
		}
	})
}

// TestKnownElsewhere has a process know at once what was counted at another one, for
// and against who signs in.
func TestKnownElsewhere(t *testing.T) {
	eachShared(t, func(t *testing.T, open func() storage.Meta) {
		c := newClock()
		ths := fleet(3, c, open)
		for range 9 {
			try(t, ths[0], c, "alice", "192.0.2.1", wrong)
		}
		if w := try(t, ths[1], c, "alice", "192.0.2.1", wrong); w != -1 {
			t.Errorf("one who must wait elsewhere waits %v", w)
		}
		c.pass(15 * time.Second)
		if w := try(t, ths[1], c, "alice", "192.0.2.1", right); w < 0 {
			t.Error("somebody who knows the password was refused after long")
		}
		if w := try(t, ths[0], c, "alice", "192.0.2.1", wrong); w != 0 {
			t.Errorf("after a login elsewhere one still waits %v", w)
		}
	})
}

// TestSourceFails holds nobody's failure against who signs in.
func TestSourceFails(t *testing.T) {
	c, meta := newClock(), mem.NewMeta()
	ths := fleet(3, c, func() storage.Meta { return meta })
	for i := range 3 {
		try(t, ths[i], c, "alice", "192.0.2.1", wrong)
	}
	for i := range 30 {
		if w := try(t, ths[i%3], c, "alice", "192.0.2.1", unknown); w != 0 {
			t.Fatalf("attempt %d waits %v", i, w)
		}
	}
}

// TestWritesOfLogins writes nothing for those who sign in, and little for those who
// knock all the time.
func TestWritesOfLogins(t *testing.T) {
	c, meta := newClock(), &counted{Meta: mem.NewMeta()}
	ths := fleet(3, c, func() storage.Meta { return meta })
	for i := range 300 {
		if w := try(t, ths[i%3], c, fmt.Sprint("user", i%10), "192.0.2.1", right); w != 0 {
			t.Fatalf("somebody waits %v", w)
		}
	}
	if n := meta.updates.Load(); n != 0 {
		t.Errorf("%d writes for who signs in", n)
	}
	for range 20 {
		try(t, ths[0], c, "eve", "192.0.2.9", wrong)
	}
	views, updates := meta.views.Load(), meta.updates.Load()
	for i := range 3000 {
		if w := try(t, ths[i%3], c, "eve", "192.0.2.9", wrong); w >= 0 {
			t.Fatal("a guess is looked at")
		}
	}
	if v, u := meta.views.Load()-views, meta.updates.Load()-updates; v > 6 || u > 3 {
		t.Errorf("%d reads and %d writes for who is refused", v, u)
	}
}

// TestFullStore limits guesses also when failures cannot be written down; and nobody
// signs in by a password when it is not known how many have failed.
func TestFullStore(t *testing.T) {
	c, meta := newClock(), &counted{Meta: mem.NewMeta()}
	th := fleet(1, c, func() storage.Meta { return meta })[0]
	meta.full.Store(true)
	n := 0
	for range 100 {
		a, err := th.begin(t.Context(), "alice", "192.0.2.1")
		if err == nil {
			c.pass(a.wait)
			a.end(t.Context(), wrong)
			n++
		}
	}
	if n > int(guardPair.free)+2 { // two that had to wait for seconds
		t.Errorf("%d guesses are looked at", n)
	}
	meta.away.Store(true)
	if _, err := th.begin(t.Context(), "bob", "192.0.2.2"); !errors.Is(err, errFull) {
		t.Errorf("error is %v", err)
	}
	meta.full.Store(false)
	meta.away.Store(false)
	if w := try(t, th, c, "bob", "192.0.2.2", right); w != 0 {
		t.Errorf("once it is there again somebody waits %v", w)
	}
}

// TestForgotten removes rows that say nothing any more, and only those.
func TestForgotten(t *testing.T) {
	eachShared(t, func(t *testing.T, open func() storage.Meta) {
		c, meta := newClock(), open()
		th := fleet(1, c, func() storage.Meta { return meta })[0]
		rows := func() (n int) {
			if err := meta.View(t.Context(), func(tx storage.Tx) error {
				n = 0
				for _, err := range storage.Guesses.Scan(tx, nil, nil) {
					if n++; err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			return n
		}
		for i := range 40 {
			try(t, th, c, fmt.Sprint("user", i), "192.0.2.1", wrong)
		}
		c.pass(time.Minute)
		try(t, th, c, "alice", "192.0.2.1", wrong)
		if n := rows(); n != 83 {
			t.Errorf("%d rows, want 2 for each account and one for the address", n)
		}
		for _, step := range []struct {
			pass time.Duration
			want int
		}{{0, 43}, {70 * time.Second, 2}, {time.Hour, 0}} {
			c.pass(step.pass)
			if err := th.shared.sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := rows(); n != step.want {
				t.Errorf("%v later %d rows, want %d", step.pass, n, step.want)
			}
		}
	})
}
