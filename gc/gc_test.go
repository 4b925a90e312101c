package gc_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// scripted is a collector that does what a test says. It fails the test if two
// collections run at once.
type scripted struct {
	t  *testing.T
	do func(ctx context.Context, all bool, progress func(registry.Collected)) error

	mu      sync.Mutex
	running bool
	at      []time.Time // when collections began
	all     []bool
}

func (s *scripted) Collect(ctx context.Context, all bool, progress func(registry.Collected)) error {
	s.mu.Lock()
	if s.running {
		s.t.Error("two collections at once")
	}
	s.running = true
	s.at, s.all = append(s.at, time.Now()), append(s.all, all)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running = false
	}()
	if s.do == nil {
		return nil
	}
	return s.do(ctx, all, progress)
}

func (s *scripted) Plan(context.Context, bool) ([]registry.Garbage, error) {
	return []registry.Garbage{{Repo: "a"}}, nil
}

// times returns when collections began, since start.
func (s *scripted) times(start time.Time) (since []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.at {
		since = append(since, at.Sub(start))
	}
	return since
}

// within fails unless each time is at most a tenth of interval later than wanted,
// for each of the waits so far.
func within(t *testing.T, got []time.Duration, interval time.Duration, want ...time.Duration) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("collections at %v, want about %v", got, want)
	}
	for i := range got {
		if late := got[i] - want[i]; late < 0 || late > time.Duration(i+1)*(interval/10+1) {
			t.Errorf("collections at %v, want about %v", got, want)
		}
	}
}

// run has a worker run until the test says so.
func run(t *testing.T, w *gc.Worker) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	return func() { cancel(); <-done }
}

// The first look is soon, the next ones follow the interval, also a new one.
func TestInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, start := &scripted{t: t}, time.Now()
		w := gc.New(c, gc.Options{Interval: 10 * time.Minute})
		defer run(t, w)()
		time.Sleep(35 * time.Minute)
		within(t, c.times(start), 10*time.Minute, 0, 10*time.Minute, 20*time.Minute, 30*time.Minute)
		w.SetInterval(time.Minute)
		synctest.Wait()
		before := len(c.times(start))
		start = time.Now()
		time.Sleep(3*time.Minute + 20*time.Second)
		within(t, c.times(start)[before:], time.Minute, time.Minute, 2*time.Minute, 3*time.Minute)
		w.SetInterval(0) // is the default
		w.SetInterval(time.Minute)
		if last := w.Stats().Last; time.Since(last) > 2*time.Minute || last.IsZero() {
			t.Errorf("last at %v", last)
		}
	})
}

// Failures make it wait longer, up to an hour; a success ends that. The next
// interval does, too.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var well atomic.Bool
		c, start := &scripted{t: t}, time.Now()
		c.do = func(context.Context, bool, func(registry.Collected)) error {
			if well.Load() {
				return nil
			}
			return storage.ErrNoSpace
		}
		w := gc.New(c, gc.Options{Interval: time.Minute, Log: slog.New(slog.NewTextHandler(&log, nil))})
		stop := run(t, w)
		time.Sleep(128 * time.Minute) // 2+4+8+16+32+60 minutes after the first
		within(t, c.times(start), time.Minute, 0, 2*time.Minute, 6*time.Minute, 14*time.Minute, 30*time.Minute, 62*time.Minute, 122*time.Minute)
		if s := w.Stats(); s.Failures != 7 || !s.Last.IsZero() {
			t.Errorf("%+v, want 7 failures and no success", s)
		}
		well.Store(true)
		time.Sleep(time.Hour)
		if n := len(c.times(start)); n < 9 {
			t.Errorf("%d collections, want one each minute again", n)
		}
		stop()
		if !strings.Contains(log.String(), "no space left in the store") || strings.Count(log.String(), "WARN") != 7 {
			t.Errorf("log: %s", log.String())
		}
	})
}

// A huge interval is no short one, whatever fails.
func TestLongInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const year = 365 * 24 * time.Hour
		c, start := &scripted{t: t}, time.Now()
		c.do = func(context.Context, bool, func(registry.Collected)) error { return errors.New("fails") }
		defer run(t, gc.New(c, gc.Options{Interval: 100 * year}))()
		time.Sleep(150 * year)
		if n := len(c.times(start)); n < 2 || n > 3 {
			t.Errorf("%d collections in 150 years", n)
		}
	})
}

// Now waits for its turn behind the background, and tells what it does.
func TestNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &scripted{t: t}
		c.do = func(ctx context.Context, _ bool, progress func(registry.Collected)) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Minute):
			}
			progress(registry.Collected{Reviewed: 3, Failed: 1, Removed: []registry.Garbage{{Size: 5}, {Size: 7}}})
			return nil
		}
		w := gc.New(c, gc.Options{Interval: time.Minute})
		stop := run(t, w)
		time.Sleep(time.Minute) // the background is at it
		if !w.Stats().Running {
			t.Error("nothing runs")
		}
		begin := time.Now()
		var told []registry.Collected
		var forced sync.WaitGroup
		for range 2 {
			forced.Go(func() {
				if err := w.Now(t.Context(), func(c registry.Collected) { told = append(told, c) }); err != nil {
					t.Error(err)
				}
			})
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Now(impatient, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("whose turn does not come: %v", err)
		}
		forced.Wait()
		if took := time.Since(begin); took < 19*time.Minute {
			t.Errorf("took %v, want its turn to be awaited", took)
		}
		if len(told) != 2 || told[0].Reviewed != 3 || len(told[0].Removed) != 2 {
			t.Errorf("told %+v", told)
		}
		stop()
		s := w.Stats()
		if s.Running || s.Removed < 6 || s.Bytes != s.Removed*6 || s.Failures != s.Removed/2 {
			t.Errorf("%+v", s)
		}
	})
}

// A collection that its caller ends is no failure, and the next one runs.
func TestNowCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &scripted{t: t}
		c.do = func(ctx context.Context, _ bool, _ func(registry.Collected)) error {
			<-ctx.Done()
			return ctx.Err()
		}
		w := gc.New(c, gc.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.Now(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		c.do = nil
		if err := w.Now(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if s := w.Stats(); s.Failures != 0 || s.Running || s.Last.IsZero() || !c.all[1] {
			t.Errorf("%+v, all %v", s, c.all)
		}
	})
}

// Two workers over one store, as two replicas have, do all of the work and no harm,
// while somebody pushes.
func TestReplicas(t *testing.T) {
	blobs, meta := mem.NewBlobs(), mem.NewMeta()
	var ahead atomic.Int64 // of the time, so that no push is so lately that its bytes stay
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	var workers []*gc.Worker
	var locals []*registry.Local
	for range 2 {
		l, err := registry.NewLocal(t.Context(), blobs, meta, registry.Options{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		l.SetKeeping(registry.Keeping{})
		locals, workers = append(locals, l), append(workers, gc.New(l, gc.Options{}))
	}
	push := func(l *registry.Local, text string) {
		if _, err := l.PushBlob(t.Context(), "a", digest.FromString(text), strings.NewReader(text)); err != nil {
			t.Error(err)
		}
	}
	for i := range 500 {
		push(locals[i%2], strings.Repeat("x", i))
	}
	ahead.Add(int64(time.Hour))
	var all sync.WaitGroup
	for i, w := range workers {
		all.Go(func() {
			for n := range 20 {
				push(locals[i], strings.Repeat("y", n+1))
				if err := w.Now(t.Context(), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if s := workers[0].Stats().Removed + workers[1].Stats().Removed; s != 2*500 {
		t.Errorf("%d links and blobs were removed while others were pushed", s)
	}
	ahead.Add(int64(time.Hour))
	if err := workers[0].Now(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	stats, err := locals[0].Stats(t.Context())
	if err != nil || stats.Blobs != 0 || stats.Bytes != 0 {
		t.Errorf("left: %+v, %v", stats, err)
	}
	if plan, err := workers[1].Plan(t.Context(), true); err != nil || len(plan) > 0 {
		t.Errorf("planned: %v, %v", plan, err)
	}
}
