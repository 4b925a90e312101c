package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

// TestCrash kills the server again and again while two stores write. Nobody is told of
// it, and what was said to be done is there, once.
func TestCrash(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{Durable: true})
	o := Options{DSN: server.DSN(), Patience: 2 * time.Minute}
	sides := [2]*Meta{openMeta(t, o), openMeta(t, o)}
	ctx, stop := context.WithCancel(t.Context())
	const workers = 6
	var done [workers]int64
	var total atomic.Int64
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			for ctx.Err() == nil {
				n := done[i] + 1
				err := sides[i%2].Update(t.Context(), func(tx storage.Tx) error {
					last, err := number(tx, fmt.Sprint("last/", i))
					if err == nil && last != n-1 {
						return fmt.Errorf("%d is done, want %d", last, n-1)
					}
					return errors.Join(err,
						setNumber(tx, fmt.Sprint("last/", i), n),
						tx.Put(other, storage.Key(fmt.Sprint(i), storage.NumberPart(n)), nil),
						storage.Add(tx, storage.CountBlobs, 1))
				})
				if err != nil {
					t.Errorf("worker %d: %v", i, err)
					return
				}
				done[i] = n
				total.Add(1)
			}
		})
	}
	for range 4 {
		before := total.Load()
		soon(t, "progress", func() bool { return total.Load() > before+100 || t.Failed() })
		server.Kill()
		server.Start()
	}
	before := total.Load()
	soon(t, "progress", func() bool { return total.Load() > before+100 || t.Failed() })
	stop()
	all.Wait()
	must(t, "View", sides[0].View(t.Context(), func(tx storage.Tx) error {
		for i := range workers {
			var rows int64
			for _, err := range tx.Scan(other, storage.Key(fmt.Sprint(i), ""), nil) {
				if rows++; err != nil {
					return err
				}
			}
			if rows != done[i] {
				t.Errorf("worker %d: %d rows of %d updates", i, rows, done[i])
			}
		}
		n, err := storage.Total(tx, storage.CountBlobs)
		if n != total.Load() {
			t.Errorf("%d updates count %d", total.Load(), n)
		}
		return err
	}))
	t.Logf("%d updates: %+v, %+v", total.Load(), sides[0].Stats(), sides[1].Stats())
}

// TestRestart restarts the server, as an operator does, while others read and write:
// nobody is told of it.
func TestRestart(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{})
	m := openMeta(t, Options{DSN: server.DSN(), Patience: 2 * time.Minute})
	ctx, stop := context.WithCancel(t.Context())
	var rounds atomic.Int64
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				key := fmt.Sprint("n/", i)
				err := m.Update(t.Context(), func(tx storage.Tx) error {
					n, err := number(tx, key)
					return errors.Join(err, setNumber(tx, key, n+1))
				})
				if err != nil {
					t.Errorf("Update: %v", err)
					return
				}
				rounds.Add(1)
			}
		})
	}
	for range 3 {
		before := rounds.Load()
		soon(t, "progress", func() bool { return rounds.Load() > before+50 || t.Failed() })
		server.Stop()
		server.Start()
	}
	stop()
	all.Wait()
}

// TestIdleCut has all idle connections cut: the next transactions do not notice.
func TestIdleCut(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{})
	m, admin := openMeta(t, Options{DSN: server.DSN()}), connect(t, server.DSN())
	for i := range 5 {
		atOnce(t, 4, func(j int) error { return putRow(m, fmt.Sprint(i, j), "v") })
		_, err := admin.Exec(t.Context(), "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
		must(t, "terminate", err)
		if i%2 == 0 {
			must(t, "Update", putRow(m, "a", fmt.Sprint(i)))
		}
		if got := getRow(t, m, fmt.Sprint(i, 1)); got != "v" {
			t.Errorf("round %d: the row is %q", i, got)
		}
	}
	if m.Stats().Lost == 0 {
		t.Error("no connection was cut, or nobody counts it")
	}
}

// TestCutInside cuts the connection of a transaction between two of its reads: an update
// runs again, and a view, which must not, says so.
func TestCutInside(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{})
	m, admin := openMeta(t, Options{DSN: server.DSN()}), connect(t, server.DSN())
	must(t, "Update", putRow(m, "a", "v"))
	cut := func() {
		_, err := admin.Exec(t.Context(), "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'")
		must(t, "terminate", err)
	}
	runs := 0
	must(t, "Update", m.Update(t.Context(), func(tx storage.Tx) error {
		runs++
		if _, err := tx.Get(table, []byte("a")); err != nil {
			return fmt.Errorf("hidden: %v", err) //nolint:errorlint // what fn makes of an error is its own business
		}
		if runs == 1 {
			cut()
		}
		if _, err := tx.Get(table, []byte("a")); err != nil {
			return fmt.Errorf("hidden: %v", err) //nolint:errorlint // as above
		}
		return tx.Put(table, []byte("b"), nil)
	}))
	if runs != 2 {
		t.Errorf("%d runs, want 2", runs)
	}
	runs = 0
	err := m.View(t.Context(), func(tx storage.Tx) error {
		runs++
		cut()
		_, err := tx.Get(table, []byte("a"))
		return err
	})
	if err == nil || runs != 1 {
		t.Errorf("View: %v, %d runs", err, runs)
	}
	if got := getRow(t, m, "b"); got != "" {
		t.Errorf("the row is %q", got)
	}
}

// TestDown has no server at all: it is said within the time that is given, without
// any part of the DSN but where the server should be.
func TestDown(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{})
	m := openMeta(t, Options{DSN: server.DSN() + " password=hush-hush", Patience: 300 * time.Millisecond})
	server.Stop()
	begin := time.Now()
	for name, err := range map[string]error{
		"Update": putRow(m, "a", "v"),
		"View":   m.View(t.Context(), func(storage.Tx) error { return nil }),
	} {
		if err == nil || !strings.Contains(err.Error(), "check that it runs") || strings.Contains(err.Error(), "hush-hush") || strings.Contains(err.Error(), "user=") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("that took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.View(ctx, func(storage.Tx) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("View: %v, want DeadlineExceeded", err)
	}
	server.Start()
	must(t, "Update", putRow(m, "a", "v"))
}
