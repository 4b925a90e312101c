package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/berth-registry/berth/storage"
)

// session is a transaction of the server: rows as they are there, without what is
// still to be written. That of an update begins with the first statement, in one message
// with it; that of a view before, as its snapshot must not be one of later.
type session struct {
	meta   *Meta
	ctx    context.Context //nolint:containedctx // it is that of the View or Update that runs
	update bool
	alone  bool // no other update runs meanwhile
	tries  *tries

	conn   *pgxpool.Conn // nil until it has begun, and when it has ended
	failed error         // of the first statement that failed
	adds   map[string]int64
	taking int // rows are taken, that many; see Take
}

// fail ends the transaction.
func (s *session) fail(err error) error {
	if ctx := s.ctx.Err(); ctx != nil && !errors.Is(err, ctx) {
		err = ctx
	}
	if s.failed == nil {
		s.failed = err
	}
	return told(err)
}

// query sends a statement, and has its rows read. read may be called again, if the
// connection is lost before the transaction has begun.
func (s *session) query(read func(pgx.Rows) error, sql string, args ...any) error {
	if s.failed != nil {
		return told(s.failed)
	}
	if s.conn == nil {
		return s.begin(read, sql, args...)
	}
	ctx, cancel := s.meta.answer(s.ctx)
	defer cancel()
	rows, err := s.conn.Query(ctx, sql, args...)
	if err == nil {
		err = readAll(rows, read)
	}
	if err != nil {
		return s.fail(slow(ctx, err))
	}
	return nil
}

func readAll(rows pgx.Rows, read func(pgx.Rows) error) error {
	err := read(rows)
	rows.Close()
	if err := rows.Err(); err != nil {
		return err
	}
	return err
}

// answer limits the time for an answer.
func (m *Meta) answer(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, answerTime, errSlow)
}

// slow adds to err why the time was up, if it was.
func slow(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, errSlow) || errors.Is(cause, errBusy)) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// begin begins the transaction with a statement, or with none if sql is empty. As
// nothing has been read yet it can be tried on one connection after the other.
func (s *session) begin(read func(pgx.Rows) error, sql string, args ...any) error {
	for {
		err := s.acquire()
		if err == nil {
			batch := s.starting()
			if sql != "" {
				batch.Queue(sql, args...).Query(read)
			}
			ctx, cancel := s.meta.answer(s.ctx)
			err = slow(ctx, s.conn.SendBatch(ctx, batch).Close())
			cancel()
			if err == nil {
				return nil
			}
			s.end()
		}
		if meaning(err) != lost || !s.tries.again(s.ctx, &s.meta.counts.lost) {
			return s.fail(err)
		}
	}
}

// starting is a message that begins with what begins the transaction.
func (s *session) starting() *pgx.Batch {
	batch := &pgx.Batch{}
	if !s.update {
		batch.Queue(s.meta.sql.beginView)
		batch.Queue("SELECT 1") // with it the snapshot is taken
		return batch
	}
	batch.Queue(s.meta.sql.beginUpdate)
	if s.alone {
		batch.Queue(s.meta.sql.alone)
	} else {
		batch.Queue(s.meta.sql.join)
	}
	return batch
}

// acquire takes a connection.
func (s *session) acquire() error {
	ctx, cancel := context.WithTimeoutCause(s.ctx, s.tries.left(), errBusy)
	defer cancel()
	conn, err := s.meta.pool.Acquire(ctx)
	if err != nil {
		return slow(ctx, err)
	}
	s.conn = conn
	return nil
}

// leave gives a connection back, without a transaction.
func leave(conn *pgxpool.Conn) {
	if c := conn.Conn(); !c.IsClosed() && c.PgConn().TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.Background(), connectTime)
		defer cancel()
		_, _ = c.Exec(ctx, "ROLLBACK", pgx.QueryExecModeSimpleProtocol) // or else it is closed
	}
	conn.Release()
}

// end ends a transaction that was not committed.
func (s *session) end() {
	if s.conn != nil {
		leave(s.conn)
		s.conn = nil
	}
}

func (s *session) table(name string) (*tableSQL, error) {
	if t, ok := s.meta.sql.table[name]; ok {
		return t, nil
	}
	return nil, s.fail(fmt.Errorf("no table %q", name))
}

// Get implements storage.Tx.
func (s *session) Get(table string, key []byte) (value []byte, err error) {
	if table == storage.Counters.Name() {
		return s.getCounter(string(key))
	}
	t, err := s.table(table)
	if err != nil {
		return nil, err
	}
	found := false
	err = s.query(func(rows pgx.Rows) error {
		for found = false; rows.Next(); found = true {
			value = bytes.Clone(rows.RawValues()[0])
		}
		return nil
	}, t.get, notNil(key))
	if err == nil && !found {
		return nil, storage.ErrNotFound
	}
	return value, err
}

// notNil is a slice that is not NULL in a statement.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Put and Delete are for what stands on the session; it writes nothing itself.
func (s *session) Put(string, []byte, []byte) error { return s.fail(errView) }

// Delete implements storage.Tx, as Put does.
func (s *session) Delete(string, []byte) error { return s.fail(errView) }

var errView = errors.New("a view cannot write")
