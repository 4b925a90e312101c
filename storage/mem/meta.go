// Package mem keeps a registry's two stores in memory, for tests and
// experiments. It promises what package storage does but one thing: nothing is
// durable. All is lost when the process ends.
package mem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"

	"github.com/tidwall/btree"

	"github.com/berth-registry/berth/storage"
)

// Meta is a storage.Meta in memory. Updates run one after the other; views run
// beside them, each on a copy of the tree, which shares all nodes that are not
// written to.
type Meta struct {
	open   sync.RWMutex // read-locked by each transaction
	closed bool         // guarded by open

	update sync.Mutex // held by the one update that runs
	swap   sync.Mutex // guards rows, but not while they are copied
	rows   *rows
}

// rows holds the rows of all tables by path.
type rows = btree.Map[string, []byte]

// path is the key of a row in the tree. Tables have no zero byte in their names.
func path(table string, key []byte) string { return table + "\x00" + string(key) }

// NewMeta returns an empty store.
func NewMeta() *Meta { return &Meta{rows: new(rows)} }

// View implements storage.Meta.
func (m *Meta) View(ctx context.Context, fn func(storage.Tx) error) error {
	done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	return (&tx{rows: m.copy()}).run(fn)
}

// Update implements storage.Meta.
func (m *Meta) Update(ctx context.Context, fn func(storage.Tx) error) error {
	done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	m.update.Lock()
	defer m.update.Unlock()
	t := &tx{rows: m.copy(), writable: true}
	if err := t.run(fn); err != nil {
		return err
	}
	m.swap.Lock()
	defer m.swap.Unlock()
	m.rows = t.rows
	return nil
}

// Close implements storage.Meta.
func (m *Meta) Close() error {
	m.open.Lock()
	defer m.open.Unlock()
	m.closed = true
	return nil
}

// begin starts a transaction, which ends with a call of done.
func (m *Meta) begin(ctx context.Context) (done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.open.RLock()
	if m.closed {
		m.open.RUnlock()
		return nil, storage.ErrClosed
	}
	return m.open.RUnlock, nil
}

func (m *Meta) copy() *rows {
	m.swap.Lock()
	defer m.swap.Unlock()
	return m.rows.Copy()
}

// tx is a transaction on rows of its own.
type tx struct {
	rows     *rows
	writable bool
	failed   error // the first failure of a method
}

func (t *tx) run(fn func(storage.Tx) error) error {
	if err := fn(t); err != nil {
		return err
	}
	return t.failed
}

// fail ends the transaction.
func (t *tx) fail(err error) error {
	if t.failed == nil {
		t.failed = err
	}
	return err
}

// Get implements storage.Tx.
func (t *tx) Get(table string, key []byte) ([]byte, error) {
	if v, ok := t.rows.Get(path(table, key)); ok {
		return v, nil
	}
	return nil, storage.ErrNotFound
}

// Put implements storage.Tx.
func (t *tx) Put(table string, key, value []byte) error {
	if n := len(key); n == 0 || n > storage.MaxKey {
		return t.fail(fmt.Errorf("key of %d bytes, want 1 to %d", n, storage.MaxKey))
	}
	if !t.writable {
		return t.fail(errView)
	}
	t.rows.Set(path(table, key), bytes.Clone(value))
	return nil
}

// Delete implements storage.Tx.
func (t *tx) Delete(table string, key []byte) error {
	if !t.writable {
		return t.fail(errView)
	}
	t.rows.Delete(path(table, key))
	return nil
}

var errView = errors.New("a view cannot write")

// Scan implements storage.Tx.
func (t *tx) Scan(table string, prefix, after []byte) iter.Seq2[storage.Row, error] {
	return func(yield func(storage.Row, error) bool) {
		want, last := path(table, prefix), path(table, after)
		t.rows.Ascend(max(want, last), func(p string, value []byte) bool {
			if p == last {
				return true
			}
			if !strings.HasPrefix(p, want) {
				return false
			}
			return yield(storage.Row{Key: []byte(p[len(table)+1:]), Value: value}, nil)
		})
	}
}
