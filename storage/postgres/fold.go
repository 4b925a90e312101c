package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// foldEvery is how often deltas of counters are folded, if there are any.
	foldEvery = 10 * time.Second
	// foldMany is how many of one process are folded at once, so that they stay few.
	foldMany = 5000
)

// added counts deltas that were written.
func (m *Meta) added(n int) {
	if n == 0 || m.deltas.Add(int64(n)) < foldMany {
		return
	}
	select {
	case m.folded <- struct{}{}:
	default:
	}
}

// foldAlways folds what this process has added, and at first what others may have left.
func (m *Meta) foldAlways(ctx context.Context) {
	timer := time.NewTicker(foldEvery)
	defer timer.Stop()
	for first := true; ; first = false {
		if first || m.deltas.Swap(0) > 0 {
			if err := m.fold(ctx); err != nil && ctx.Err() == nil {
				m.deltas.Add(1) // so that it is tried again
				m.log.InfoContext(ctx, "counters are not folded", "error", told(err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.folded:
		}
	}
}

// fold replaces deltas by what they come to, and removes the notes of sessions of long
// ago, unless another process does. It is not serializable, so no transaction can meet it but those that set a counter.
func (m *Meta) fold(ctx context.Context) error {
	ctx, cancel := m.answer(ctx)
	defer cancel()
	return pgx.BeginTxFunc(ctx, m.side, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock(hashtext($1), 2)", m.lockName()).Scan(&mine); err != nil || !mine {
			return err
		}
		_, err := tx.Exec(ctx, m.sql.counter.fold)
		if err == nil {
			_, err = tx.Exec(ctx, m.sql.forget)
		}
		return err
	})
}

// lockName is what the advisory locks of the schema are called.
func (m *Meta) lockName() string { return "berth:" + m.schema }
