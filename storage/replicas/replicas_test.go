package replicas_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
	"github.com/berth-registry/berth/storage/replicas"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// process is a process that shares a store, which may be cut off from it.
type process struct {
	storage.Meta
	away atomic.Bool
}

func (p *process) View(ctx context.Context, fn func(storage.Tx) error) error {
	if p.away.Load() {
		return errors.New("the store cannot be reached")
	}
	return p.Meta.View(ctx, fn)
}

func (p *process) Update(ctx context.Context, fn func(storage.Tx) error) error {
	if p.away.Load() {
		return errors.New("the store cannot be reached")
	}
	return p.Meta.Update(ctx, fn)
}

// run runs a member until stop is called.
func run(t *testing.T, meta storage.Meta) (s *replicas.Set, stop func()) {
	s = replicas.New(meta, replicas.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	return s, func() { cancel(); <-done }
}

func rows(t *testing.T, meta storage.Meta) (n int) {
	t.Helper()
	if err := meta.View(t.Context(), func(tx storage.Tx) error {
		n = 0
		for _, err := range storage.Replicas.Scan(tx, nil, nil) {
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

// TestLive counts servers as they begin, end, die and come back.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meta := mem.NewMeta()
		after := func(d time.Duration, what string, want int, sets ...*replicas.Set) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			for i, s := range sets {
				if s.Live() != want {
					t.Errorf("%s: number %d counts %d, want %d", what, i, s.Live(), want)
				}
			}
		}
		dying := &process{Meta: meta}
		a, stopA := run(t, &process{Meta: meta})
		b, stopB := run(t, &process{Meta: meta})
		c, stopC := run(t, dying)
		after(3*time.Second, "at first", 3, a, b, c)
		after(time.Hour, "after an hour", 3, a, b, c)
		stopB()
		after(3*time.Second, "one has ended", 2, a, c)
		dying.away.Store(true)
		after(replicas.Patience-3*time.Second, "one says nothing", 2, a, c)
		after(6*time.Second, "one has died", 1, a)
		if n := rows(t, meta); n != 2 {
			t.Errorf("%d rows", n)
		}
		dying.away.Store(false)
		after(4*time.Second, "it comes back", 2, a, c)
		dying.away.Store(true)
		after(2*time.Minute, "it has gone for good", 1, a)
		if n := rows(t, meta); n != 1 {
			t.Errorf("%d rows long after", n)
		}
		d, stopD := run(t, &process{Meta: meta})
		after(3*time.Second, "another one", 2, a, d)
		stopA()
		stopC()
		stopD()
		if n := rows(t, meta); n != 0 {
			t.Errorf("%d rows in the end", n)
		}
	})
}

// single is a store that nobody else writes to.
type single struct{ storage.Meta }

func (single) Version() uint64 { return 0 }

// TestAlone writes nothing where there can be no others.
func TestAlone(t *testing.T) {
	meta := single{mem.NewMeta()}
	s := replicas.New(meta, replicas.Options{})
	s.Run(t.Context())
	if n := rows(t, meta); n != 0 || s.Live() != 1 {
		t.Errorf("%d rows, %d live", n, s.Live())
	}
}

// TestPostgres counts servers that share a database.
func TestPostgres(t *testing.T) {
	dsn := postgrestest.Shared(t)
	var sets []*replicas.Set
	var stops []func()
	ids := map[string]bool{}
	for range 3 {
		meta, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		s, stop := run(t, meta)
		sets, ids[s.ID()] = append(sets, s), true
		stops = append(stops, func() {
			stop()
			if err := meta.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if len(ids) != 3 {
		t.Errorf("the ids are %v", ids)
	}
	await := func(want int, sets []*replicas.Set) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for _, s := range sets {
			for s.Live() != want {
				if time.Now().After(deadline) {
					t.Fatalf("counts %d, want %d", s.Live(), want)
				}
				time.Sleep(10 * time.Millisecond) // what happens is in other goroutines and another process
			}
		}
	}
	await(3, sets)
	stops[0]()
	await(2, sets[1:])
	stops[1]()
	await(1, sets[2:])
	stops[2]()
}
