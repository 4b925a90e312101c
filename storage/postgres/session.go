package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

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
	xid    string        // of an update
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
		conn, err := s.acquire()
		if err == nil {
			if err = s.first(conn, read, sql, args...); err == nil {
				s.conn = conn
				return nil
			}
			leave(conn)
		}
		if meaning(err) != lost || !s.tries.again(s.ctx, &s.meta.counts.lost) {
			return s.fail(err)
		}
	}
}

// acquire takes a connection.
func (s *session) acquire() (*pgxpool.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(s.ctx, s.tries.left(), errBusy)
	defer cancel()
	conn, err := s.meta.pool.Acquire(ctx)
	if err != nil {
		return nil, slow(ctx, err)
	}
	return conn, nil
}

// first sends the first statement, behind what begins the transaction.
func (s *session) first(conn *pgxpool.Conn, read func(pgx.Rows) error, sql string, args ...any) error {
	ctx, cancel := s.meta.answer(s.ctx)
	defer cancel()
	batch := &pgx.Batch{}
	if s.update {
		lock := s.meta.sql.join
		if s.alone {
			lock = s.meta.sql.alone
		}
		batch.Queue(s.meta.sql.beginUpdate)
		batch.Queue(lock)
		batch.Queue("SELECT pg_current_xact_id()::text").QueryRow(func(row pgx.Row) error { return row.Scan(&s.xid) })
	} else {
		batch.Queue(s.meta.sql.beginView)
		batch.Queue("SELECT 1") // with it the snapshot is taken
	}
	if sql != "" {
		batch.Queue(sql, args...).Query(read)
	}
	return slow(ctx, conn.SendBatch(ctx, batch).Close())
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

const (
	firstPage = 16
	lastPage  = 1024
	pageBytes = 4 << 20 // a page is smaller where the rows of the last one were large
)

// Scan implements storage.Tx. It reads page by page, so that the server has nothing
// open meanwhile.
func (s *session) Scan(table string, prefix, after []byte) iter.Seq2[storage.Row, error] {
	return func(yield func(storage.Row, error) bool) {
		if table == storage.Counters.Name() {
			s.scanCounters(prefix, after, yield)
			return
		}
		last, start, end, n := prefix, from, successor(prefix), firstPage
		if bytes.Compare(after, prefix) >= 0 && len(after) > 0 {
			last, start = after, behind
		}
		for {
			if s.taking > 0 {
				n = s.taking
			}
			rows, size, err := s.page(table, last, start, end, n)
			if err != nil {
				yield(storage.Row{}, err)
				return
			}
			for _, row := range rows {
				if !yield(row, nil) {
					return
				}
			}
			if len(rows) < n {
				return
			}
			last, start = rows[n-1].Key, behind
			n = min(lastPage, 2*n, max(1, n*pageBytes/(size+1)))
		}
	}
}

// page reads up to n rows, and says how many bytes they have.
func (s *session) page(table string, last []byte, start int, end []byte, n int) (list []storage.Row, size int, err error) {
	t, err := s.table(table)
	if err != nil {
		return nil, 0, err
	}
	pages, bound, args := &t.scan, endless, []any{notNil(last), n}
	if s.taking > 0 {
		pages = &t.take
	}
	if end != nil {
		bound, args = ends, append(args, end)
	}
	err = s.query(func(rows pgx.Rows) error {
		list, size = nil, 0
		for rows.Next() {
			raw := rows.RawValues()
			row := storage.Row{Key: bytes.Clone(raw[0]), Value: bytes.Clone(raw[1])}
			list, size = append(list, row), size+len(row.Key)+len(row.Value)
		}
		return nil
	}, pages[start][bound], args...)
	return list, size, err
}

// Put and Delete are for what stands on the session; it writes nothing itself.
func (s *session) Put(string, []byte, []byte) error { return s.fail(errView) }

// Delete implements storage.Tx, as Put does.
func (s *session) Delete(string, []byte) error { return s.fail(errView) }

var errView = errors.New("a view cannot write")
