package bolt

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/berth-registry/berth/storage"
)

// update is a transaction on its way to the writer and back.
type update struct {
	ctx      context.Context //nolint:containedctx // it travels with the call it belongs to
	fn       func(storage.Tx) error
	err      error
	panicked any // what fn panicked with, for its caller
	done     chan struct{}
}

// write is the one goroutine that writes. It takes what has been handed over
// since it last looked and writes it as one bbolt transaction.
func (m *Meta) write() {
	defer close(m.done)
	for u := range m.queue {
		group := []*update{u}
		for len(group) < maxGroup && len(m.queue) > 0 {
			group = append(group, <-m.queue)
		}
		m.commit(group)
		for _, u := range group {
			close(u.done)
		}
	}
}

// commit runs a group and writes what it changed. What one of the group does
// wrong is undone and does not touch the others; a failure to write fails all.
func (m *Meta) commit(group []*update) {
	tx, err := m.db.Begin(true)
	if err != nil {
		failAll(group, classify(err))
		return
	}
	changed := false
	for _, u := range group {
		t := &txn{meta: m, bolt: tx}
		u.err = u.run(t)
		if u.err == nil {
			changed = changed || len(t.undo) > 0
			continue
		}
		if err := t.rollback(); err != nil {
			_ = tx.Rollback()
			failAll(group, fmt.Errorf("undo a failed transaction: %w", classify(err)))
			return
		}
	}
	if !changed {
		_ = tx.Rollback()
		return
	}
	err = tx.Commit()
	m.version.Add(1) // also after an error, which may leave the change visible
	if err != nil {
		failAll(group, fmt.Errorf("commit: %w", classify(err)))
		return
	}
	m.room.fill()
}

func failAll(group []*update, err error) {
	for _, u := range group {
		if u.err == nil {
			u.err = err
		}
	}
}

// run runs the update's function, and keeps its panic for its caller.
func (u *update) run(t *txn) (err error) {
	defer func() {
		if p := recover(); p != nil {
			u.panicked = fmt.Sprintf("%v\n%s", p, debug.Stack())
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if err := u.ctx.Err(); err != nil {
		return err
	}
	if err := u.fn(t); err != nil {
		return err
	}
	return t.failed
}

// rollback undoes what the transaction did, last things first.
func (t *txn) rollback() error {
	for _, undo := range slices.Backward(t.undo) {
		if err := undo(); err != nil {
			return err
		}
	}
	return nil
}
