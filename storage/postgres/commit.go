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

// commit writes what is to be written and commits, in one message. From then on the
// caller's context is not asked: whether it was done must be found out.
func (t *txn) commit() error {
	batch := &pgx.Batch{}
	t.queueRows(batch)
	t.queueCounters(batch)
	if t.conn == nil {
		if batch.Len() == 0 {
			return nil // nothing was read, nothing written
		}
		if err := t.begin(nil, ""); err != nil {
			return t.failed
		}
	}
	if err := t.ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(t.ctx), sessionTime, errSlow)
	defer cancel()
	var tag pgconn.CommandTag
	batch.Queue("COMMIT").Exec(func(ct pgconn.CommandTag) error {
		tag = ct
		return nil
	})
	err := slow(ctx, t.conn.SendBatch(ctx, batch).Close())
	if err == nil && tag.String() != "COMMIT" {
		err = fmt.Errorf("PostgreSQL answered COMMIT with %q", tag)
	}
	if answer := new(pgconn.PgError); err == nil || errors.As(err, &answer) && !ended(answer) {
		t.end()
		if err == nil {
			t.meta.added(len(t.adds))
		}
		return err
	}
	return t.resolve(ctx, err)
}

// resolve finds out whether a commit was done whose answer is lost: if not, it is as if
// the connection had been lost before.
func (t *txn) resolve(ctx context.Context, why error) error {
	conn := t.conn.Conn()
	from := origin{xid: t.xid, pid: conn.PgConn().PID()}
	from.timeline, _ = conn.PgConn().CustomData()[timelineKey].(string)
	closing, cancel := context.WithTimeout(ctx, connectTime)
	_ = conn.Close(closing)
	cancel()
	t.end()
	committed, err := t.meta.outcome(ctx, from)
	switch {
	case err != nil:
		t.meta.log.WarnContext(ctx, "a commit was lost, and nobody can tell whether it was done", "error", told(err))
		return fmt.Errorf("%w: %w", ErrUnknown, told(err))
	case committed:
		t.meta.counts.resolved.Add(1)
		t.meta.log.InfoContext(ctx, "the answer to a commit was lost, but it was done", "error", told(why))
		t.meta.added(len(t.adds))
		return nil
	}
	t.meta.counts.resolved.Add(1)
	return fmt.Errorf("%w: %w", errGone, why)
}

// errGone says that a transaction has ended without being committed.
var errGone = errors.New("the connection to PostgreSQL was lost")

// origin is where a transaction was committed.
type origin struct {
	xid, timeline string
	pid           uint32
}

var errNotTold = errors.New("PostgreSQL does not know the transaction any more")

// patientLooks is how often a transaction whose connection is gone is found running
// before it is ended: it usually ends by itself.
const patientLooks = 8

// outcome says whether a transaction was committed, once it has ended.
func (m *Meta) outcome(ctx context.Context, from origin) (committed bool, err error) {
	for t := m.newTries(); ; {
		var status string
		status, err = m.status(ctx, from, t.n > patientLooks)
		switch {
		case err != nil && meaning(err) != lost:
			return false, err
		case err == nil && status == "committed":
			return true, nil
		case err == nil && status == "aborted":
			return false, nil
		case err == nil && status != "in progress":
			return false, errNotTold
		}
		if !t.again(ctx, &m.counts.lost) {
			return false, errors.Join(err, errors.New("it has not ended in time"))
		}
	}
}

// status asks for the status of a transaction, and may end it if it runs. A server that
// has taken over from another one may have given the transaction's number to
// another transaction, so it is not asked.
func (m *Meta) status(ctx context.Context, from origin, end bool) (status string, err error) {
	ctx, cancel := m.answer(ctx)
	defer cancel()
	var timeline string
	if err := m.side.QueryRow(ctx, "SELECT "+timelineNow).Scan(&timeline); err != nil {
		return "", err
	}
	if timeline != from.timeline {
		return "", errNotTold
	}
	err = m.side.QueryRow(ctx, "SELECT coalesce(pg_xact_status($1::text::xid8), '')", from.xid).Scan(&status)
	if err == nil && end && status == "in progress" {
		_, err = m.side.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_xid = $2::text::xid8::xid", int32(from.pid), from.xid)
	}
	return status, err
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
	if errors.As(err, &answer) && (answer.Code == "25006" || answer.Code == "0A000" && t.xid == "") {
		t.end()
		t.meta.pool.Reset()
		return fmt.Errorf("PostgreSQL: %w: %w", storage.ErrReadOnly, answer)
	}
	return told(err)
}
