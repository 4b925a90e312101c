package storage

import "context"

// Notifier is a Meta that can wake up the other processes that share it. What it
// promises is little: a notice may be lost or come late, so whoever listens also
// looks by itself now and then.
type Notifier interface {
	// Notify has the functions called that listen for a topic, in every process,
	// this one included.
	Notify(ctx context.Context, topic string) error
	// Listen calls fn when somebody notifies of a topic, and whenever something may
	// have been missed: at first, and after the connection was lost. Several notices
	// may be one call. fn should be quick. It returns when ctx is done, with its
	// error, or ErrClosed.
	Listen(ctx context.Context, topic string, fn func()) error
}

// Like returns wrapper as a Versioner and a Notifier, if wrapped, which it wraps, is one.
func Like(wrapper, wrapped Meta) Meta {
	versions, hasVersions := wrapped.(Versioner)
	notices, hasNotices := wrapped.(Notifier)
	switch {
	case hasVersions && hasNotices:
		return &struct {
			Meta
			Versioner
			Notifier
		}{wrapper, versions, notices}
	case hasVersions:
		return &struct {
			Meta
			Versioner
		}{wrapper, versions}
	case hasNotices:
		return &struct {
			Meta
			Notifier
		}{wrapper, notices}
	}
	return wrapper
}

// Taker is a Tx that can keep rows from other transactions.
type Taker interface {
	// Take is storage.Take.
	Take(table string, prefix, after []byte, limit int) ([]Row, error)
}

// Take returns up to limit rows as Scan does, so that transactions which run at the
// same time share the work: rows that another one has taken are left out, and
// others leave out these until this one ends. Where transactions run one after the
// other it is a Scan.
func Take(tx Tx, table string, prefix, after []byte, limit int) (rows []Row, err error) {
	if limit <= 0 {
		return nil, nil
	}
	if t, ok := as[Taker](tx); ok {
		return t.Take(table, prefix, after, limit)
	}
	for row, err := range tx.Scan(table, prefix, after) {
		if err != nil {
			return nil, err
		}
		if rows = append(rows, row); len(rows) == limit {
			break
		}
	}
	return rows, nil
}

// Take takes rows as storage.Take does.
func (t Table[V]) Take(tx Tx, prefix, after []byte, limit int) ([]Entry[V], error) {
	rows, err := Take(tx, t.name, prefix, after, limit)
	if err != nil {
		return nil, err
	}
	list := make([]Entry[V], len(rows))
	for i, row := range rows {
		list[i].Key, list[i].Rest = row.Key, row.Key[len(prefix):]
		if err := t.decode(row.Value, &list[i].Value); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Wrapper is a Tx around another one that changes nothing about it: what that one can
// do beyond a Tx is its own, too.
type Wrapper interface {
	Unwrap() Tx
}

// as finds what a transaction can do beyond a Tx.
func as[T any](tx Tx) (t T, ok bool) {
	for {
		if t, ok = tx.(T); ok {
			return t, true
		}
		w, ok := tx.(Wrapper)
		if !ok {
			return t, false
		}
		tx = w.Unwrap()
	}
}
