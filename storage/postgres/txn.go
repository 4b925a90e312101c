package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/berth-registry/berth/storage"
)

// txn is a storage.Tx: a session with what is to be written over it.
type txn struct {
	session
	over *storage.Overlaid // nil in a view
	set  map[string]bool   // counters that were written to
}

var (
	_ storage.Tx       = (*txn)(nil)
	_ storage.Counting = (*txn)(nil)
	_ storage.Taker    = (*txn)(nil)
)

// View implements storage.Meta.
func (m *Meta) View(ctx context.Context, fn func(storage.Tx) error) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	t := &txn{session: session{meta: m, ctx: ctx, tries: m.newTries()}}
	defer t.end()
	if err := t.begin(nil, ""); err != nil {
		return err
	}
	if err := fn(t); err != nil {
		return err
	}
	return told(t.failed)
}

// Update implements storage.Meta. fn runs again when its transaction met another one,
// or has lost its connection.
func (m *Meta) Update(ctx context.Context, fn func(storage.Tx) error) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	met, unreached, refused := m.newTries(), m.newTries(), false
	for {
		why, err := m.try(ctx, fn, met.n >= together, unreached)
		again := false
		switch why {
		case conflict:
			if again = met.again(ctx, &m.counts.retries); again && met.n == together {
				m.counts.alone.Add(1)
			}
		case lost:
			again = unreached.again(ctx, &m.counts.lost)
		case final:
			// Once, as perhaps the connection was to a server that leads no more.
			again = errors.Is(err, storage.ErrReadOnly) && !refused
			refused = true
		}
		if !again && why != final && ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		if !again {
			return err
		}
	}
}

// together is how often a transaction is tried while others run. From then on they
// wait for it: it cannot meet any, however long it takes and however many they are.
const together = 6

// try runs a transaction once, and says what its failure means.
func (m *Meta) try(ctx context.Context, fn func(storage.Tx) error, alone bool, unreached *tries) (failure, error) {
	t := &txn{session: session{
		meta: m, ctx: ctx, update: true, alone: alone, tries: unreached, adds: map[string]int64{},
	}}
	t.over, t.set = storage.Overlay(&t.session), map[string]bool{}
	defer t.end()
	err := fn(t)
	switch {
	case t.failed != nil:
		if why := meaning(t.failed); why != final || err == nil {
			return why, t.refused(t.failed)
		}
		return final, err
	case err != nil:
		return final, err
	}
	if err := t.commit(); err != nil {
		return meaning(err), t.refused(err)
	}
	return final, nil
}

// rows is where the transaction reads.
func (t *txn) rows() storage.Tx {
	if t.over != nil {
		return t.over
	}
	return &t.session
}

// Get implements storage.Tx.
func (t *txn) Get(table string, key []byte) ([]byte, error) { return t.rows().Get(table, key) }

// Scan implements storage.Tx.
func (t *txn) Scan(table string, prefix, after []byte) iter.Seq2[storage.Row, error] {
	return t.rows().Scan(table, prefix, after)
}

// Put implements storage.Tx.
func (t *txn) Put(table string, key, value []byte) error {
	if n := len(key); n == 0 || n > storage.MaxKey {
		return t.fail(fmt.Errorf("key of %d bytes, want 1 to %d", n, storage.MaxKey))
	}
	if err := t.writing(table, key); err != nil {
		return err
	}
	if table == storage.Counters.Name() {
		if _, err := counterValue(value); err != nil {
			return t.fail(err)
		}
	}
	return t.over.Put(table, key, notNil(value))
}

// Delete implements storage.Tx.
func (t *txn) Delete(table string, key []byte) error {
	if err := t.writing(table, key); err != nil {
		return err
	}
	return t.over.Delete(table, key)
}

// writing checks that a row may be written.
func (t *txn) writing(table string, key []byte) error {
	switch {
	case t.over == nil:
		return t.fail(errView)
	case table == storage.Counters.Name():
		t.set[string(key)] = true
		delete(t.adds, string(key))
		return nil
	}
	_, err := t.table(table)
	return err
}

// Take implements storage.Taker.
func (t *txn) Take(table string, prefix, after []byte, limit int) (rows []storage.Row, err error) {
	if t.over == nil {
		return nil, t.fail(errView)
	}
	t.taking = min(limit, lastPage)
	defer func() { t.taking = 0 }()
	for row, err := range t.over.Scan(table, prefix, after) {
		if err != nil {
			return nil, err
		}
		if rows = append(rows, row); len(rows) == limit {
			break
		}
	}
	return rows, nil
}
