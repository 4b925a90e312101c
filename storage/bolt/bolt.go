// Package bolt keeps rows in one bbolt file.
//
// It promises what storage.Meta does. Transactions that arrive while another
// one is being written to disk are written together, so that many clients share
// the cost of one sync; each of them still succeeds or fails by itself.
package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/berth-registry/berth/internal/boltfile"
	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/storage"
)

const (
	// mapSize is how much address space the file is mapped into at first. The
	// map is made anew, which waits for every reader, only when the file
	// outgrows it; until then it costs nothing.
	mapSize = 16 << 30
	// maxGroup is how many transactions are written together at most, so that
	// the first does not wait for an endless stream of others.
	maxGroup = 512
	// lockWait is how long Open waits for another process to close the file.
	lockWait = 200 * time.Millisecond
)

// Meta is a bbolt file.
type Meta struct {
	db      *bbolt.DB
	room    *room
	tables  map[string][]byte
	version atomic.Uint64

	mu     sync.RWMutex // held for reading while an update is handed over
	closed bool
	queue  chan *update
	done   chan struct{} // closed when the writer has ended
}

var (
	_ storage.Meta      = (*Meta)(nil)
	_ storage.Versioner = (*Meta)(nil)
)

// Open opens the file at path, and makes it if need be. It fails with
// storage.ErrInUse if another process has it open, and with storage.ErrUnreadable if it
// is damaged, as far as its first pages and its size tell.
func Open(path string) (*Meta, error) {
	db, err := boltfile.Open(path, 0o600, bbolt.Options{
		Timeout:         lockWait,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mapSize,
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("%s: %w", path, storage.ErrInUse)
	case boltfile.Damaged(err):
		return nil, fmt.Errorf("%w: %s: %w", storage.ErrUnreadable, path, err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, storage.Classify(err))
	}
	m := &Meta{db: db, tables: map[string][]byte{}, queue: make(chan *update, maxGroup), done: make(chan struct{})}
	if m.room, err = openRoom(path); err == nil {
		err = m.prepare(path)
	}
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("prepare %s: %w", path, storage.Classify(err))
	}
	go m.write()
	return m, nil
}

// prepare makes the buckets that are missing; an existing file with all of them
// is not written to.
func (m *Meta) prepare(path string) error {
	missing := false
	for _, name := range storage.Tables() {
		m.tables[name] = []byte(name)
	}
	err := m.db.View(func(tx *bbolt.Tx) error {
		for _, name := range m.tables {
			missing = missing || tx.Bucket(name) == nil
		}
		return nil
	})
	if err != nil || !missing {
		return err
	}
	err = m.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range m.tables {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return durable.SyncParent(path)
}

// View runs fn on a snapshot.
func (m *Meta) View(ctx context.Context, fn func(storage.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tx, err := m.db.Begin(false)
	if err != nil {
		return classify(err)
	}
	defer func() { _ = tx.Rollback() }() // ends a snapshot; it cannot fail
	t := &txn{meta: m, bolt: tx}
	if err := fn(t); err != nil {
		return err
	}
	return t.failed
}

// Update hands fn to the writer and waits until it is done: an update that the
// writer has begun cannot be left behind, as it may set the caller's variables.
func (m *Meta) Update(ctx context.Context, fn func(storage.Tx) error) error {
	u := &update{ctx: ctx, fn: fn, done: make(chan struct{})}
	m.mu.RLock()
	if m.closed {
		m.mu.RUnlock()
		return storage.ErrClosed
	}
	m.queue <- u
	m.mu.RUnlock()
	<-u.done
	if u.panicked != nil {
		panic(u.panicked)
	}
	return u.err
}

// Version changes with every transaction that is written.
func (m *Meta) Version() uint64 { return m.version.Load() }

// Close waits for the updates that were handed over and closes the file.
func (m *Meta) Close() error {
	m.mu.Lock()
	closed := m.closed
	m.closed = true
	m.mu.Unlock()
	if closed {
		return nil
	}
	close(m.queue)
	<-m.done
	return errors.Join(m.db.Close(), m.room.file.Close())
}

func classify(err error) error {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return storage.ErrClosed
	}
	return storage.Classify(err)
}

// txn is a transaction. In an update it remembers how to undo what it did.
type txn struct {
	meta   *Meta
	bolt   *bbolt.Tx
	undo   []func() error
	failed error // the first error of a method that ends the transaction
}

func (t *txn) fail(err error) error {
	if t.failed == nil {
		t.failed = classify(err)
	}
	return t.failed
}

func (t *txn) bucket(table string) (*bbolt.Bucket, error) {
	if name, ok := t.meta.tables[table]; ok {
		if b := t.bolt.Bucket(name); b != nil {
			return b, nil
		}
	}
	return nil, t.fail(fmt.Errorf("no table %q", table))
}

func (t *txn) Get(table string, key []byte) ([]byte, error) {
	b, err := t.bucket(table)
	if err != nil {
		return nil, err
	}
	v := b.Get(key)
	if v == nil {
		return nil, storage.ErrNotFound
	}
	return v, nil
}

func (t *txn) Put(table string, key, value []byte) error {
	b, err := t.bucket(table)
	if err != nil {
		return err
	}
	if len(key) == 0 || len(key) > storage.MaxKey {
		return t.fail(fmt.Errorf("key of %d bytes", len(key)))
	}
	old := b.Get(key)
	if err := b.Put(key, value); err != nil {
		return t.fail(err)
	}
	t.undo = append(t.undo, func() error { return restore(b, key, old) })
	return nil
}

func (t *txn) Delete(table string, key []byte) error {
	b, err := t.bucket(table)
	if err != nil {
		return err
	}
	old := b.Get(key)
	if err := b.Delete(key); err != nil {
		return t.fail(err)
	}
	if old != nil {
		t.undo = append(t.undo, func() error { return restore(b, key, old) })
	}
	return nil
}

func restore(b *bbolt.Bucket, key, old []byte) error {
	if old == nil {
		return b.Delete(key)
	}
	return b.Put(key, old)
}

func (t *txn) Scan(table string, prefix, after []byte) iter.Seq2[storage.Row, error] {
	return func(yield func(storage.Row, error) bool) {
		b, err := t.bucket(table)
		if err != nil {
			yield(storage.Row{}, err)
			return
		}
		c := b.Cursor()
		k, v := c.Seek(prefix)
		if bytes.Compare(after, prefix) >= 0 {
			if k, v = c.Seek(after); bytes.Equal(k, after) {
				k, v = c.Next()
			}
		}
		for ; k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
			if !yield(storage.Row{Key: k, Value: v}, nil) {
				return
			}
		}
	}
}
