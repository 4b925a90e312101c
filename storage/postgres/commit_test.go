package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

// TestLostCommit loses the connection in the middle of a commit. The update succeeds
// all the same, and is done once.
func TestLostCommit(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{TCP: true})
	p := newProxy(t, server.Addr())
	m := openMeta(t, Options{DSN: server.TCP(p.addr())})
	for i, c := range []struct {
		name string
		cut  cut
		runs int
	}{
		{"the answer", cutAnswer, 1},
		{"before it arrives", cutBefore, 2},
		{"before it arrives, and nobody tells the server", cutSilent, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, reads := range []bool{true, false} {
				key := fmt.Sprint("n", i, reads)
				before, runs := m.Stats(), 0
				p.next(c.cut)
				cuts := p.count()
				must(t, "Update", m.Update(t.Context(), func(tx storage.Tx) error {
					runs++
					if reads {
						if _, err := tx.Get(table, []byte(key)); !errors.Is(err, storage.ErrNotFound) {
							return fmt.Errorf("the row is there already: %w", err)
						}
					}
					return errors.Join(tx.Put(table, []byte(key), []byte("v")), storage.Add(tx, storage.CountBlobs, 1))
				}))
				after := m.Stats()
				if p.count() != cuts+1 || runs != c.runs || after.Resolved != before.Resolved+1 {
					t.Errorf("%d cuts, %d runs, %+v; want 1, %d", p.count()-cuts, runs, after, c.runs)
				}
				if got := getRow(t, m, key); got != "v" {
					t.Errorf("the row is %q", got)
				}
			}
		})
	}
	must(t, "View", m.View(t.Context(), func(tx storage.Tx) error {
		n, err := storage.Total(tx, storage.CountBlobs)
		if n != 6 {
			t.Errorf("6 updates count %d", n)
		}
		return err
	}))
}

// TestLostCommitCanceled has the client go away while a commit's answer is lost: what it
// is told is what was done.
func TestLostCommitCanceled(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{TCP: true})
	p := newProxy(t, server.Addr())
	m := openMeta(t, Options{DSN: server.TCP(p.addr())})
	for i := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		p.next([]cut{cutAnswer, cutBefore}[i%2])
		key := fmt.Sprint(i)
		var ended sync.WaitGroup
		ended.Go(func() {
			time.Sleep(time.Duration(i) * 300 * time.Microsecond) // at some moment of it
			cancel()
		})
		err := m.Update(ctx, func(tx storage.Tx) error {
			_, err := tx.Get(table, []byte(key))
			if errors.Is(err, storage.ErrNotFound) {
				err = nil
			}
			return errors.Join(err, tx.Put(table, []byte(key), []byte("v")))
		})
		ended.Wait()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Update: %v", err)
		}
		if got := getRow(t, m, key); (err == nil) != (got == "v") {
			t.Errorf("Update returns %v, and the row is %q", err, got)
		}
		p.next(cutNothing)
	}
}

// TestOutcome gives up sessions: one that has noted something, one that has not, and one
// that is just about to.
func TestOutcome(t *testing.T) {
	m := fresh(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if committed, err := m.outcome(ctx, identity{id: "unheard of", n: 1}); err != nil || committed {
		t.Errorf("a session that has noted nothing: %v, %v", committed, err)
	}
	conn, err := m.pool.Acquire(ctx)
	must(t, "Acquire", err)
	defer conn.Release()
	who := *conn.Conn().PgConn().CustomData()[sessionKey].(*identity)
	who.n = 7
	_, err = conn.Exec(ctx, m.sql.note, who.id, who.n)
	must(t, "note", err)
	for range 2 {
		if committed, err := m.outcome(ctx, who); err != nil || !committed {
			t.Errorf("a session that has noted it: %v, %v", committed, err)
		}
	}
	// The next one is noted, and not committed: who looks waits for it, and ends it.
	_, err = conn.Exec(ctx, "BEGIN")
	must(t, "BEGIN", err)
	who.n++
	_, err = conn.Exec(ctx, m.sql.note, who.id, who.n)
	must(t, "note", err)
	if committed, err := m.outcome(ctx, who); err != nil || committed {
		t.Errorf("a session that does not end: %v, %v", committed, err)
	}
	if _, err = conn.Exec(ctx, "COMMIT"); err == nil {
		t.Error("it can commit")
	}
	// A message that is still on its way comes too late.
	if _, err = m.side.Exec(ctx, m.sql.note, who.id, who.n+1); err == nil {
		t.Error("a session that was given up can commit")
	}
}

// TestErrUnknown has a commit lost, and then everything.
func TestErrUnknown(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{TCP: true})
	p := newProxy(t, server.Addr())
	m := openMeta(t, Options{DSN: server.TCP(p.addr()), Patience: 500 * time.Millisecond})
	must(t, "Update", putRow(m, "a", "v"))
	p.next(cutAnswer)
	p.refuse(true)
	if err := putRow(m, "b", "v"); !errors.Is(err, ErrUnknown) || strings.Contains(err.Error(), "user=") {
		t.Errorf("Update: %v, want ErrUnknown", err)
	}
	p.refuse(false)
	must(t, "the next Update", putRow(m, "c", "v"))
	if got := getRow(t, m, "b"); got != "v" {
		t.Errorf("the row is %q", got)
	}
}
