// Package postgres keeps rows in a PostgreSQL database that several servers share.
//
// It promises what storage.Meta does, whoever else writes: updates are serializable,
// and tried again when they met others or the connection was lost, also in the middle
// of a commit. It is no storage.Versioner; storage.Notifier wakes the others up.
// Everything is in one schema of the database, with a table for each table of storage,
// and counters that many transactions can add to at once (counters.go).
//
// It talks to the server itself, or through a proxy that keeps one connection to the
// server for each one to it; not through one that shares connections between
// transactions. PostgreSQL 13 is the oldest that it knows.
package postgres

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/berth-registry/berth/storage"
)

// Options say where the rows are, and how they are reached.
type Options struct {
	// DSN is a connection string of PostgreSQL, or a URL. It is in no error and no log.
	DSN string
	// Schema is the name of the schema. If it is empty it is the first one of the DSN's
	// search_path, or else "berth". It is created if it is not there.
	Schema string
	// MaxConns is how many transactions run at once at most; others wait. There may be
	// three connections more than that. 16 if it is 0.
	MaxConns int
	// Patience is for how long a transaction is tried while it meets others, or
	// the server cannot be reached. 30 seconds if it is 0.
	Patience time.Duration
	// Log is told of what heals by itself; nobody is if it is nil.
	Log *slog.Logger
}

const (
	defaultSchema   = "berth"
	defaultConns    = 16
	defaultPatience = 30 * time.Second
)

// Meta is a schema of a PostgreSQL database.
type Meta struct {
	pool     *pgxpool.Pool // for transactions
	side     *pgxpool.Pool // for single statements, which never wait for a transaction's
	schema   string
	sql      statements
	patience time.Duration
	log      *slog.Logger
	counts   counts

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // transactions; entered under mu

	stop   context.CancelFunc // ends what runs in the background
	behind sync.WaitGroup     // what does
	folded chan struct{}      // there is much to fold
	deltas atomic.Int64       // that this process has added since it folded last
	ears   ears
}

var (
	_ storage.Meta     = (*Meta)(nil)
	_ storage.Notifier = (*Meta)(nil)
)

// counts are what Stats shows.
type counts struct{ retries, alone, lost, resolved atomic.Int64 }

// Stats say how transactions fare; all numbers but those of connections are since Open.
type Stats struct {
	Retries  int64 // of transactions that met others
	Alone    int64 // of these, with all other updates kept away
	Lost     int64 // of transactions whose connection was lost or could not be had
	Resolved int64 // commits whose answer was lost, and was found out
	Conns    int   // connections for transactions, open now
	Busy     int   // of these, in a transaction
}

// Stats returns figures of this process.
func (m *Meta) Stats() Stats {
	s := m.pool.Stat()
	return Stats{
		Retries: m.counts.retries.Load(), Alone: m.counts.alone.Load(), Lost: m.counts.lost.Load(), Resolved: m.counts.resolved.Load(),
		Conns: int(s.TotalConns()), Busy: int(s.AcquiredConns()),
	}
}

// Open connects to the database and brings its schema up to date; several processes
// may do so at once. It fails if the schema is one of a later version of this program
// that this one must not use (see schema.go), or if the database cannot be reached.
func Open(ctx context.Context, o Options) (*Meta, error) { return open(ctx, o, migrations()) }

func open(ctx context.Context, o Options, known []migration) (*Meta, error) {
	config, schema, err := o.config()
	if err != nil {
		return nil, err
	}
	m := &Meta{
		schema: schema, sql: newStatements(schema),
		patience: o.Patience, log: o.Log, folded: make(chan struct{}, 1),
	}
	if m.patience == 0 {
		m.patience = defaultPatience
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, told(err)
	}
	aside := config.Copy()
	aside.MaxConns = sideConns
	if m.side, err = pgxpool.NewWithConfig(ctx, aside); err == nil {
		err = m.migrate(ctx, known)
	}
	if err != nil {
		m.closePools()
		return nil, told(err)
	}
	m.ears.config = config.ConnConfig.Copy()
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	m.stop = stop
	m.behind.Go(func() { m.foldAlways(background) })
	m.behind.Go(func() { m.listenAlways(background) })
	return m, nil
}

// enter begins a transaction, which ends with a call of leave.
func (m *Meta) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, storage.ErrClosed
	}
	m.running.Add(1)
	return m.running.Done, nil
}

// Close waits for the transactions that run, and closes all connections.
func (m *Meta) Close() error {
	m.mu.Lock()
	closed := m.closed
	m.closed = true
	m.mu.Unlock()
	if closed {
		return nil
	}
	m.running.Wait()
	m.stop()
	m.behind.Wait()
	m.closePools()
	return nil
}

func (m *Meta) closePools() {
	m.pool.Close()
	if m.side != nil {
		m.side.Close()
	}
}

// quoted is a name in a statement.
func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }
