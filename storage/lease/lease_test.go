package lease_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/lease"
	"github.com/berth-registry/berth/storage/mem"
)

const ttl = 30 * time.Second

// process is a process that shares a store, which may be cut off from it.
type process struct {
	storage.Meta
	away  atomic.Bool // every transaction fails
	hangs atomic.Bool // every transaction waits until its caller gives up
}

var errAway = errors.New("the store cannot be reached")

func (p *process) reach(ctx context.Context) error {
	if p.hangs.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if p.away.Load() {
		return errAway
	}
	return nil
}

func (p *process) View(ctx context.Context, fn func(storage.Tx) error) error {
	if err := p.reach(ctx); err != nil {
		return err
	}
	return p.Meta.View(ctx, fn)
}

func (p *process) Update(ctx context.Context, fn func(storage.Tx) error) error {
	if err := p.reach(ctx); err != nil {
		return err
	}
	return p.Meta.Update(ctx, fn)
}

// job is a job that one process may do at a time.
type job struct {
	t      *testing.T
	doing  atomic.Int32
	begins chan string // who has begun
	ends   chan error  // why a context has ended
}

func newJob(t *testing.T) *job {
	return &job{t: t, begins: make(chan string, 1000), ends: make(chan error, 1000)}
}

// do does the job until ctx ends, and takes some time to end.
func (j *job) do(name string, end time.Duration) func(context.Context) {
	return func(ctx context.Context) {
		if n := j.doing.Add(1); n != 1 {
			j.t.Errorf("%d processes do the job", n)
		}
		j.begins <- name
		<-ctx.Done()
		time.Sleep(end)
		j.doing.Add(-1)
		j.ends <- context.Cause(ctx)
	}
}

// run runs the job in a process, until stop is called.
func (j *job) run(name string, meta storage.Meta, o lease.Options, end time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(j.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		lease.Run(ctx, meta, "job", o, j.do(name, end))
	}()
	return func() { cancel(); <-done }
}

func leases(t *testing.T, meta storage.Meta) (n int) {
	t.Helper()
	if err := meta.View(t.Context(), func(tx storage.Tx) error {
		for _, err := range storage.Leases.Scan(tx, nil, nil) {
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

// TestGivenUp has another process do the job as soon as the first one ends, and not
// before that one has come to its end, however long that takes.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meta, j := mem.NewMeta(), newJob(t)
		stopA := j.run("a", meta, lease.Options{TTL: ttl}, 10*ttl)
		<-j.begins
		stopB := j.run("b", meta, lease.Options{TTL: ttl}, 0)
		time.Sleep(5 * ttl)
		stopA()
		ended := time.Now()
		if name := <-j.begins; name != "b" || time.Since(ended) > ttl/2 {
			t.Errorf("%s begins after %v", name, time.Since(ended))
		}
		stopB()
		if n := leases(t, meta); n != 0 {
			t.Errorf("%d leases are left", n)
		}
	})
}

// TestCutOff cuts the process off that does the job: it stops in time, another one goes
// on, and it does so again when that one is gone.
func TestCutOff(t *testing.T) {
	for _, how := range []string{"away", "hangs"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				meta, j := mem.NewMeta(), newJob(t)
				a := &process{Meta: meta}
				stopA := j.run("a", a, lease.Options{TTL: ttl}, ttl/3-time.Second)
				<-j.begins
				stopB := j.run("b", meta, lease.Options{TTL: ttl}, 0)
				time.Sleep(ttl)
				a.away.Store(how == "away")
				a.hangs.Store(how == "hangs")
				cut := time.Now()
				if err := <-j.ends; !errors.Is(err, lease.ErrLost) {
					t.Errorf("it ended for %v", err)
				}
				if name := <-j.begins; name != "b" || time.Since(cut) > 2*ttl {
					t.Errorf("%s begins after %v", name, time.Since(cut))
				}
				a.away.Store(false)
				a.hangs.Store(false)
				time.Sleep(10 * ttl)
				stopB()
				if name := <-j.begins; name != "a" {
					t.Errorf("%s begins", name)
				}
				stopA()
			})
		})
	}
}

// TestShortlyAway does not lose the lease to a failure that passes.
func TestShortlyAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meta, j := mem.NewMeta(), newJob(t)
		a := &process{Meta: meta}
		stop := j.run("a", a, lease.Options{TTL: ttl}, 0)
		<-j.begins
		for range 20 {
			a.away.Store(true)
			time.Sleep(ttl / 4)
			a.away.Store(false)
			time.Sleep(ttl / 2)
		}
		stop()
		if err := <-j.ends; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended for %v", err)
		}
	})
}

// TestTaken ends the context when the row is another process's, whatever happened.
func TestTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meta, j := mem.NewMeta(), newJob(t)
		stop := j.run("a", meta, lease.Options{TTL: ttl}, 0)
		<-j.begins
		if err := meta.Update(t.Context(), func(tx storage.Tx) error {
			return storage.Leases.Put(tx, storage.Key("job"), storage.Lease{Holder: "b", Beat: 1, TTL: 4 * ttl})
		}); err != nil {
			t.Fatal(err)
		}
		taken := time.Now()
		if err := <-j.ends; !errors.Is(err, lease.ErrLost) {
			t.Errorf("it ended for %v", err)
		}
		<-j.begins
		if after := time.Since(taken); after < 4*ttl {
			t.Errorf("it began again after %v, although the other has more time", after)
		}
		stop()
	})
}

// TestClocks has processes whose clocks differ by hours, and run at other speeds, die
// and live at random: never do two of them do the job, and somebody always does soon.
func TestClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meta, j := mem.NewMeta(), newJob(t)
		start := time.Now()
		var all sync.WaitGroup
		for i := range 4 {
			name := fmt.Sprint("p", i)
			offset, speed := time.Duration(i)*time.Hour, 1+float64(i%3-1)/10
			o := lease.Options{TTL: ttl, Now: func() time.Time {
				return start.Add(offset + time.Duration(speed*float64(time.Since(start))))
			}}
			p := &process{Meta: meta}
			all.Go(func() {
				stop := j.run(name, p, o, ttl/3)
				for range 200 {
					time.Sleep(rand.N(2 * ttl))
					switch rand.N(4) {
					case 0:
						p.away.Store(true)
					case 1:
						p.hangs.Store(true)
					default:
						p.away.Store(false)
						p.hangs.Store(false)
					}
				}
				p.away.Store(false)
				p.hangs.Store(false)
				time.Sleep(10 * ttl)
				stop()
			})
		}
		all.Wait()
		if n := len(j.begins); n < 20 {
			t.Errorf("the job was begun %d times", n)
		}
	})
}

// TestEndsByItself returns when the job is done.
func TestEndsByItself(t *testing.T) {
	meta := mem.NewMeta()
	ran := 0
	for range 2 {
		lease.Run(t.Context(), meta, "job", lease.Options{}, func(context.Context) { ran++ })
	}
	if ran != 2 || leases(t, meta) != 0 {
		t.Errorf("it ran %d times", ran)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lease.Run(ctx, meta, "job", lease.Options{}, func(context.Context) { t.Error("it ran although it should not") })
}

// alone is a store that nobody else writes to, and that nobody should write to.
type alone struct{ storage.Meta }

func (alone) Version() uint64 { return 1 }

// TestAlone writes nothing where there is nobody else.
func TestAlone(t *testing.T) {
	p := &process{}
	p.away.Store(true)
	ran := false
	lease.Run(t.Context(), alone{p}, "job", lease.Options{}, func(ctx context.Context) { ran = ctx.Err() == nil })
	if !ran {
		t.Error("it did not run")
	}
}
