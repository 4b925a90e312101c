package mirroring

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// clock is a Source that writes down when it was asked, by the hour and minute.
type clock struct {
	Source
	mu   sync.Mutex
	at   []string
	fail error
	hold chan struct{} // if not nil, an answer waits for it
}

func (c *clock) StatManifest(ctx context.Context, repo string, ref registry.Reference) (registry.Descriptor, error) {
	c.mu.Lock()
	c.at = append(c.at, time.Now().UTC().Format("15:04"))
	err, hold := c.fail, c.hold
	c.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return registry.Descriptor{}, ctx.Err()
		}
	}
	if err != nil {
		return registry.Descriptor{}, err
	}
	return c.Source.StatManifest(ctx, repo, ref)
}

// held has answers wait, or those that wait come, and the next at once.
func (c *clock) held(hold bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hold != nil {
		close(c.hold)
	}
	if c.hold = nil; hold {
		c.hold = make(chan struct{})
	}
}

func (c *clock) times() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.at, " ")
}

func (c *clock) set(fail error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail, c.at = fail, nil
}

// alone is a store that no other process writes to.
type alone struct{ storage.Meta }

// Version implements storage.Versioner.
func (alone) Version() uint64 { return 0 }

// world is what workers in a bubble share. Its clock begins at midnight UTC.
type world struct {
	t    *testing.T
	up   *clock
	here *store
	meta storage.Meta
}

func inWorld(t *testing.T, do func(*testing.T, *world)) {
	synctest.Test(t, func(t *testing.T) {
		up, here := newStore(t), newStore(t)
		up.image("app", "x", nil, "v1")
		do(t, &world{t, &clock{Source: up.local}, here, here.meta})
	})
}

// start runs a worker, until what it returns is called.
func (w *world) start(s Spec) (worker *Worker, stop func()) {
	s.Tags, s.Prefix = []string{"v1"}, "hub"
	worker = New(nil, w.here.local, w.meta, Options{})
	if err := worker.SetJobs(map[string]Upstream{"hub": {Source: w.up}}, []Job{job(w.t, s)}); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { worker.Run(ctx); close(done) }()
	synctest.Wait()
	return worker, func() { cancel(); <-done }
}

func (w *world) status(worker *Worker) Status {
	w.t.Helper()
	all, err := worker.Status(w.t.Context())
	if err != nil || len(all) != 1 {
		w.t.Fatalf("status: %+v, %v", all, err)
	}
	return all[0]
}

// runs is how many jobs a worker runs.
func (w *world) runs(worker *Worker) int {
	synctest.Wait()
	worker.mu.Lock()
	defer worker.mu.Unlock()
	return len(worker.running)
}

func (w *world) want(times string) {
	w.t.Helper()
	synctest.Wait()
	if got := w.up.times(); got != times {
		w.t.Errorf("it ran at %s, want %s", got, times)
	}
}

func TestEvery(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		worker, stop := w.start(Spec{Every: 6 * time.Hour})
		time.Sleep(13 * time.Hour)
		w.want("00:00 06:00 12:00")
		if s := w.status(worker); s.Next.UTC().Format("15:04") != "18:00" || s.Last.Outcome != Good || s.Running {
			t.Errorf("status: %+v", s)
		}
		stop()

		// What was missed is made up once.
		w.up.set(nil)
		time.Sleep(24*time.Hour - 30*time.Minute) // 12:30
		_, stop = w.start(Spec{Every: 6 * time.Hour})
		time.Sleep(7 * time.Hour)
		w.want("12:30 18:30")
		stop()

		// What was not missed is not.
		w.up.set(nil)
		_, stop = w.start(Spec{Every: 6 * time.Hour})
		time.Sleep(time.Hour)
		w.want("")
		stop()
	})
}

func TestCron(t *testing.T) {
	inWorld(t, func(_ *testing.T, w *world) {
		_, stop := w.start(Spec{Cron: "30 3,15 * * *"})
		time.Sleep(4 * time.Hour)
		w.want("03:30")
		stop()
		time.Sleep(40 * time.Hour) // 20:00
		w.up.set(nil)
		_, stop = w.start(Spec{Cron: "30 3,15 * * *"})
		time.Sleep(8 * time.Hour)
		w.want("20:00 03:30")
		stop()
	})
}

// A job without a schedule runs when somebody says so.
func TestOnRequest(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		worker, stop := w.start(Spec{})
		defer stop()
		time.Sleep(100 * time.Hour)
		w.want("")
		if err := worker.RunNow(t.Context(), "job", false, nil); err != nil {
			t.Error(err)
		}
		if err := worker.RunNow(t.Context(), "other", false, nil); !errors.Is(err, ErrUnknownJob) {
			t.Errorf("a job that is not there: %v", err)
		}
		time.Sleep(100 * time.Hour)
		w.want("04:00")
	})
}

// A run that fails is tried again, a few times, and then at its time.
func TestRetries(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.up.set(errors.New("no route to host"))
		worker, stop := w.start(Spec{Every: 4 * time.Hour})
		time.Sleep(9 * time.Hour)
		w.want("00:00 00:01 00:06 00:36 04:36 04:37 04:42 05:12")
		if s := w.status(worker); s.Last.Outcome != Failed || s.Last.Failures[0].Reason != "no route to host" || !s.Good.IsZero() {
			t.Errorf("status: %+v", s)
		}
		w.up.set(nil)
		time.Sleep(time.Hour)
		w.want("09:12")
		if s := w.status(worker); s.Last.Outcome != Good || s.Good.IsZero() {
			t.Errorf("status: %+v", s)
		}
		stop()
	})
}

// An upstream that limits is left alone until it says; its job waits, and lives.
func TestPostponed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.up.set(limited{"10800"})
		_, stop := w.start(Spec{Every: time.Hour})
		time.Sleep(time.Minute)
		w.up.set(nil)
		time.Sleep(2*time.Hour + 58*time.Minute)
		w.want("")
		stop()
		_, stop = w.start(Spec{Every: time.Hour}) // after a restart, too
		time.Sleep(2 * time.Minute)
		w.want("03:00")
		stop()

		w.up.set(limited{"120"})
		worker, stop := w.start(Spec{Every: time.Hour})
		time.Sleep(time.Hour)
		if s := w.status(worker); !s.Running || s.Now.Waits.IsZero() {
			t.Errorf("status: %+v, want it to wait", s)
		}
		w.want("04:00")
		w.up.set(nil)
		time.Sleep(time.Minute)
		w.want("04:02")
		if s := w.status(worker); s.Running || s.Last.Outcome != Good {
			t.Errorf("status: %+v", s)
		}
		w.up.set(limited{"120"}) // for ever
		time.Sleep(time.Hour + 20*time.Minute)
		if s := w.status(worker); s.Last.Outcome != Postponed {
			t.Errorf("status: %+v, want it to give up for now", s)
		}
		stop()
	})
}

// A server that ends stops a run, which goes on when one starts.
func TestInterrupted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.up.held(true)
		worker, stop := w.start(Spec{Every: 4 * time.Hour})
		if s := w.status(worker); !s.Running || s.Now.Began.IsZero() {
			t.Errorf("status: %+v", s)
		}
		if err := worker.RunNow(t.Context(), "job", false, nil); !errors.Is(err, ErrRunning) {
			t.Errorf("a job that runs: %v", err)
		}
		stop()
		if s := w.status(worker); s.Running || s.Last.Outcome != Interrupted {
			t.Errorf("status: %+v", s)
		}
		w.up.held(false)
		time.Sleep(time.Hour)
		worker, stop = w.start(Spec{Every: 4 * time.Hour})
		w.want("00:00 01:00")
		if s := w.status(worker); s.Last.Outcome != Good {
			t.Errorf("status: %+v", s)
		}

		// One that a client has asked for, and given up, is not.
		w.up.held(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := worker.RunNow(ctx, "job", false, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a run that was given up: %v", err)
		}
		w.up.held(false)
		w.up.set(nil)
		time.Sleep(time.Hour)
		w.want("")

		// A job that is there no more is stopped.
		w.up.held(true)
		time.Sleep(4 * time.Hour)
		if s := w.status(worker); !s.Running {
			t.Errorf("status: %+v", s)
		}
		if err := worker.SetJobs(nil, nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if all, err := worker.Status(t.Context()); err != nil || len(all) != 0 || w.runs(worker) != 0 {
			t.Errorf("%v, %v, or it runs on", all, err)
		}
		stop()
	})
}

// Of two servers with one store, one runs a job; if it dies, the other does.
func TestReplicas(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.up.held(true)
		one, stopOne := w.start(Spec{Every: 4 * time.Hour})
		two, stopTwo := w.start(Spec{Every: 4 * time.Hour})
		time.Sleep(time.Hour)
		w.want("00:00")
		for _, worker := range []*Worker{one, two} {
			if s := w.status(worker); !s.Running {
				t.Errorf("status: %+v", s)
			}
		}
		if err := two.RunNow(t.Context(), "job", false, nil); !errors.Is(err, ErrRunning) {
			t.Errorf("a job that another runs: %v", err)
		}
		w.up.held(false)
		time.Sleep(time.Minute)
		for _, worker := range []*Worker{one, two} {
			if s := w.status(worker); s.Running || s.Last.Outcome != Good {
				t.Errorf("status: %+v", s)
			}
		}
		time.Sleep(8 * time.Hour)
		w.want("00:00 04:00 08:00")

		// The one that runs it dies.
		w.up.held(true)
		w.up.set(nil)
		stopTwo()
		stopOne()
		three, stopThree := w.start(Spec{Every: 4 * time.Hour})
		if err := w.here.meta.Update(t.Context(), func(tx storage.Tx) error {
			return storage.MirrorJobs.Put(tx, storage.Key("job"), storage.MirrorJob{
				Owner: "dead", Until: time.Now().Add(leaseTime), Now: storage.MirrorRun{Began: time.Now()},
			})
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(leaseTime - time.Second)
		w.want("")
		time.Sleep(lookAgain + time.Second)
		if s := w.status(three); !s.Running || s.Last.Outcome != CutOff {
			t.Errorf("status: %+v", s)
		}
		stopThree()
	})
}

// A server that cannot say that it still runs a job stops before another begins.
func TestLost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		flaky := &flakyMeta{Meta: w.here.meta}
		w.meta = flaky
		w.up.held(true)
		worker, stop := w.start(Spec{Every: 4 * time.Hour})
		time.Sleep(time.Hour)
		if s := w.status(worker); !s.Running {
			t.Errorf("status: %+v", s)
		}
		flaky.broken(true)
		time.Sleep(leaseTime)
		if w.runs(worker) != 0 {
			t.Error("it runs on")
		}
		flaky.broken(false)
		w.up.held(false)
		w.up.set(nil)
		time.Sleep(2 * time.Minute)
		if s := w.status(worker); s.Last.Outcome != Good {
			t.Errorf("status: %+v, want it to run again", s)
		}
		stop()
	})
}

// A server whose job another has taken over, as it was taken for dead, stops, and
// leaves what the other has written.
func TestTakenOver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.up.held(true)
		worker, stop := w.start(Spec{Every: 4 * time.Hour})
		theirs := storage.MirrorJob{Owner: "other", Until: time.Now().Add(time.Hour), Now: storage.MirrorRun{Began: time.Now()}}
		if err := w.meta.Update(t.Context(), func(tx storage.Tx) error {
			return storage.MirrorJobs.Put(tx, storage.Key("job"), theirs)
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(leaseTime)
		if w.runs(worker) != 0 {
			t.Error("it runs on")
		}
		if s := w.status(worker); !s.Running || !s.Last.Began.IsZero() {
			t.Errorf("status: %+v, want that of the other", s)
		}
		stop()
	})
}

// flakyMeta is a shared store that is out of reach at times.
type flakyMeta struct {
	storage.Meta
	mu  sync.Mutex
	out bool
}

func (m *flakyMeta) broken(out bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.out = out
}

func (m *flakyMeta) Update(ctx context.Context, fn func(storage.Tx) error) error {
	m.mu.Lock()
	out := m.out
	m.mu.Unlock()
	if out {
		return errors.New("connection refused")
	}
	return m.Meta.Update(ctx, fn)
}

// In a store that nobody else writes to, what a dead process has left is known for
// that at once.
func TestAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.meta = alone{w.meta}
		if err := w.meta.Update(t.Context(), func(tx storage.Tx) error {
			return storage.MirrorJobs.Put(tx, storage.Key("job"), storage.MirrorJob{
				Owner: "dead", Until: time.Now().Add(leaseTime), Now: storage.MirrorRun{Began: time.Now()},
			})
		}); err != nil {
			t.Fatal(err)
		}
		worker, stop := w.start(Spec{Every: 4 * time.Hour})
		w.want("00:00")
		if s := w.status(worker); s.Last.Outcome != Good {
			t.Errorf("status: %+v", s)
		}
		stop()
	})
}

func TestSetJobs(t *testing.T) {
	w := New(nil, newStore(t).local, mem.NewMeta(), Options{})
	good := job(t, Spec{Tags: []string{"v1"}})
	if err := w.SetJobs(map[string]Upstream{"hub": {}}, []Job{good}); err != nil {
		t.Fatal(err)
	}
	for what, jobs := range map[string][]Job{
		`there is no mirror "quay"`: {job(t, Spec{Tags: []string{"v1"}, Mirror: "quay"})},
		"two jobs of the name job":  {good, good},
	} {
		if err := w.SetJobs(map[string]Upstream{"hub": {}}, jobs); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("error %v, want one that says %s", err, what)
		}
	}
	if all, err := w.Status(t.Context()); err != nil || len(all) != 1 || all[0].Schedule != "on request" {
		t.Errorf("status: %+v, %v", all, err)
	}
}

// Many jobs are due at once: some run, the others wait.
func TestAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.up.held(true)
		var jobs []Job
		for i := range 10 {
			jobs = append(jobs, job(t, Spec{Name: fmt.Sprint("job", i), Tags: []string{"v1"}, Every: time.Hour}))
		}
		worker, stop := w.start(Spec{})
		if err := worker.SetJobs(map[string]Upstream{"hub": {Source: w.up}}, jobs); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.want("00:00 00:00 00:00 00:00")
		w.up.held(false)
		time.Sleep(time.Minute)
		if got := len(strings.Fields(w.up.times())); got != 10 {
			t.Errorf("%d jobs ran, want 10", got)
		}
		stop()
	})
}
