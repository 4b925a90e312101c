package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-registry/berth/storage"
)

// A statement writes up to so many rows and bytes.
const (
	writeRows  = 1000
	writeBytes = 4 << 20
)

// sessionTime is how long a commit may take, whoever has gone.
const sessionTime = time.Minute

// How a commit is found out whose answer was lost
//
// Each transaction that writes also notes in sessions that it is the n-th one of its
// connection. When the answer to its COMMIT does not come, another connection gives the
// session up: it reads the note, waiting for the transaction if it has just written it,
// and if it is another one's makes sure that the session never commits again. So there
// is an answer however the connection ended, and if the message is still on its way.
//
// pg_xact_status cannot tell: a server that crashes forgets the numbers of
// transactions that had not committed, and gives them to others.

// commit writes what is to be written and commits, in one message. From then on the
// caller's context is not asked: whether it was done must be found out.
func (t *txn) commit() error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	batch := &pgx.Batch{}
	if t.conn == nil {
		batch = t.starting()
	}
	begun := batch.Len()
	t.queueRows(batch)
	t.queueCounters(batch)
	writes := batch.Len() > begun
	if t.conn == nil {
		if !writes {
			return nil // nothing was read, nothing written
		}
		if err := t.acquire(); err != nil {
			return err
		}
	}
	who := t.conn.Conn().PgConn().CustomData()[sessionKey].(*identity)
	if writes {
		who.n++
		batch.Queue(t.meta.sql.note, who.id, who.n)
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(t.ctx), sessionTime, errSlow)
	defer cancel()
	err := t.send(ctx, batch)
	if answer := new(pgconn.PgError); err == nil || errors.As(err, &answer) && !ended(answer) {
		t.end()
		if err == nil {
			t.meta.added(len(t.adds))
		}
		return err
	}
	closing, cancel := context.WithTimeout(ctx, connectTime)
	_ = t.conn.Conn().Close(closing)
	cancel()
	t.end()
	if !writes {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return t.resolve(ctx, *who, err)
}

// send sends what is to be written, and COMMIT behind it.
func (t *txn) send(ctx context.Context, batch *pgx.Batch) error {
	var tag pgconn.CommandTag
	batch.Queue("COMMIT").Exec(func(ct pgconn.CommandTag) error {
		tag = ct
		return nil
	})
	err := slow(ctx, t.conn.SendBatch(ctx, batch).Close())
	if err == nil && tag.String() != "COMMIT" {
		err = &pgconn.PgError{Severity: "ERROR", Code: "25000", Message: fmt.Sprintf("COMMIT was answered by %q", tag)}
	}
	return err
}

// resolve finds out whether a commit was done whose answer is lost: if not, it is as if
// the connection had been lost before.
func (t *txn) resolve(ctx context.Context, who identity, why error) error {
	committed, err := t.meta.outcome(ctx, who)
	if err != nil {
		t.meta.log.WarnContext(ctx, "a commit was lost, and it cannot be found out whether it was done", "error", told(err))
		return fmt.Errorf("%w: %w", ErrUnknown, told(err))
	}
	t.meta.counts.resolved.Add(1)
	if !committed {
		return fmt.Errorf("%w: %w", errGone, why)
	}
	t.meta.log.InfoContext(ctx, "the answer to a commit was lost, but it was done", "error", told(why))
	t.meta.added(len(t.adds))
	return nil
}

// errGone says that a transaction has ended without being committed.
var errGone = errors.New("the connection to PostgreSQL was lost")

// patientLooks is how often it is looked for a note that is just being written before its
// session is ended: usually that ends by itself.
const patientLooks = 3

// outcome says whether the last transaction of a session was committed. If not, it never
// will be.
func (m *Meta) outcome(ctx context.Context, who identity) (committed bool, err error) {
	for t := m.newTries(); ; {
		committed, err = m.giveUp(ctx, who)
		if err == nil {
			return committed, nil
		}
		why := meaning(err)
		if why == conflict && t.n >= patientLooks {
			err = m.terminate(ctx, who)
			why = max(meaning(err), conflict)
		}
		if why == final || !t.again(ctx, &m.counts.lost) {
			return false, errors.Join(errors.New("it has not ended in time"), err)
		}
	}
}

// giveUp reads the note of a session, and sees to it that there is no other one.
func (m *Meta) giveUp(ctx context.Context, who identity) (committed bool, err error) {
	ctx, cancel := m.answer(ctx)
	defer cancel()
	err = pgx.BeginTxFunc(ctx, m.side, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout TO '200ms'"); err != nil {
			return err
		}
		var n int64
		err := tx.QueryRow(ctx, m.sql.found, who.id, who.n).Scan(&n)
		committed = n == who.n
		return err
	})
	return committed && err == nil, slow(ctx, err)
}

// terminate ends a session.
func (m *Meta) terminate(ctx context.Context, who identity) error {
	ctx, cancel := m.answer(ctx)
	defer cancel()
	_, err := m.side.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2", int32(who.pid), who.started)
	return slow(ctx, err)
}

// queueRows queues what writes rows, in the order of their tables and keys, so that two
// transactions rarely wait for each other in a circle.
func (t *txn) queueRows(batch *pgx.Batch) {
	var put, gone rowsOf
	flush := func() {
		if len(put.keys) > 0 {
			batch.Queue(t.meta.sql.table[put.table].put, put.keys, put.values)
		}
		if len(gone.keys) > 0 {
			batch.Queue(t.meta.sql.table[gone.table].delete, gone.keys)
		}
		put, gone = rowsOf{}, rowsOf{}
	}
	table := ""
	for w := range t.over.Written() {
		if w.Table == storage.Counters.Name() {
			continue
		}
		if w.Table != table || len(put.keys)+len(gone.keys) == writeRows || put.size+len(w.Value) > writeBytes {
			flush()
			table = w.Table
		}
		if w.Gone {
			gone.add(w)
		} else {
			put.add(w)
		}
	}
	flush()
}

// rowsOf are rows that one statement writes.
type rowsOf struct {
	table        string
	keys, values [][]byte
	size         int // bytes
}

func (r *rowsOf) add(w storage.Write) {
	r.table, r.size = w.Table, r.size+len(w.Key)+len(w.Value)
	r.keys, r.values = append(r.keys, w.Key), append(r.values, w.Value)
}

// refused is told for an update: a server that only follows another one refuses it. Its
// connections are closed, so that the next ones look for the server that leads.
func (t *txn) refused(err error) error {
	answer := new(pgconn.PgError)
	if errors.As(err, &answer) && (answer.Code == "25006" || answer.Code == "0A000") {
		t.end()
		t.meta.pool.Reset()
		return fmt.Errorf("PostgreSQL: %w: %w", storage.ErrReadOnly, answer)
	}
	return told(err)
}
