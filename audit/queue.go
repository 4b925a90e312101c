package audit

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/berth-registry/berth/storage"
)

// queue is what waits for a webhook, as a transaction sees it.
//
// A row before all others, of number 0, stands for them: it says when the webhook may
// be sent something again (Due), how often in a row it has failed (Tries), and whether
// somebody has taken the first rows to send them (Taken), in which case nobody
// else does before Due. So events stay in order, and a replica that has crashed blocks
// the webhook no longer than until Due. There is no such row if it would say nothing.
//
// Where several processes write, a row may come to stand before others that came
// first, even before those that somebody has taken. It is sent when they are done.
type queue struct {
	tx   storage.Tx
	name string // of the webhook
}

// waiting is a row.
type waiting = storage.Entry[storage.Delivery]

// Names of counters, to which that of the webhook is added.
const (
	countPending = "outbox-pending:"
	countDropped = "outbox-dropped:"
)

func (q queue) stateKey() []byte { return storage.Key(q.name, storage.NumberPart(0)) }

// state returns what is said of all rows.
func (q queue) state() (storage.Delivery, error) {
	state, err := storage.Outbox.Get(q.tx, q.stateKey())
	if errors.Is(err, storage.ErrNotFound) {
		return storage.Delivery{}, nil
	}
	return state, err
}

func (q queue) setState(state storage.Delivery) error {
	if state.Due.IsZero() && state.Tries == 0 && !state.Taken {
		return storage.Outbox.Delete(q.tx, q.stateKey())
	}
	return storage.Outbox.Put(q.tx, q.stateKey(), state)
}

// first returns the first n rows, or all that there are.
func (q queue) first(n int) (rows []waiting, err error) {
	for e, err := range storage.Outbox.Scan(q.tx, storage.Key(q.name, ""), q.stateKey()) {
		if err != nil {
			return nil, err
		}
		e.Key = bytes.Clone(e.Key) // it outlives the transaction
		if rows = append(rows, e); len(rows) == n {
			break
		}
	}
	return rows, nil
}

// delete removes rows.
func (q queue) delete(rows []waiting) error {
	for _, r := range rows {
		if err := storage.Outbox.Delete(q.tx, r.Key); err != nil {
			return err
		}
	}
	return storage.Add(q.tx, countPending+q.name, -int64(len(rows)))
}

// add puts a row behind all others.
func (q queue) add(number int64, d storage.Delivery) error {
	return errors.Join(
		storage.Outbox.Put(q.tx, storage.Key(q.name, storage.NumberPart(number)), d),
		storage.Add(q.tx, countPending+q.name, 1))
}

// limit drops the first rows if there are more than most.
func (q queue) limit(most int) error {
	pending, err := storage.Total(q.tx, countPending+q.name)
	if err != nil || pending <= int64(most) {
		return err
	}
	// More than a few at once only if the limit has become lower.
	rows, err := q.first(int(min(pending-int64(most), dropAtOnce)))
	if err != nil {
		return err
	}
	return q.drop(rows)
}

// dropAtOnce is how many rows a transaction drops at most.
const dropAtOnce = 1000

// drop removes the first rows undelivered.
func (q queue) drop(rows []waiting) error {
	if len(rows) == 0 {
		return nil
	}
	if err := q.delete(rows); err != nil {
		return err
	}
	if err := storage.Add(q.tx, countDropped+q.name, int64(len(rows))); err != nil {
		return err
	}
	left, err := q.first(1)
	if err != nil || len(left) > 0 {
		return err
	}
	return q.setState(storage.Delivery{}) // what comes is not kept waiting for what was
}

// due says when something may be sent; false if nothing waits.
func (q queue) due() (time.Time, bool, error) {
	rows, err := q.first(1)
	if err != nil || len(rows) == 0 {
		return time.Time{}, false, err
	}
	state, err := q.state()
	return state.Due, err == nil, err
}

// take takes up to most rows to send them until a time, which must be one of whole
// seconds: giveBack knows by it that nobody else has taken them meanwhile. Rows
// made before oldest are dropped. There are none if it is too early, and there may be
// none when some were dropped.
func (q queue) take(now, until, oldest time.Time, most int) ([]waiting, error) {
	state, err := q.state()
	if err != nil || state.Due.After(now) {
		return nil, err
	}
	rows, err := q.first(most)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	if rows[0].Value.Made.Before(oldest) {
		return nil, q.dropOld(oldest)
	}
	rows[0].Value.Tries = state.Tries
	state.Due, state.Taken = until, true
	return rows, q.setState(state)
}

// dropOld drops the first rows as long as they were made before oldest.
func (q queue) dropOld(oldest time.Time) error {
	rows, err := q.first(dropAtOnce)
	if err != nil {
		return err
	}
	fresh := slices.IndexFunc(rows, func(r waiting) bool { return !r.Value.Made.Before(oldest) })
	if fresh < 0 {
		fresh = len(rows)
	}
	return q.drop(rows[:fresh])
}

// giveBack ends what take began: some rows were delivered. If the next one failed
// it is not due before retry; otherwise retry is zero. If somebody else has taken
// them nothing changes, and they will be delivered again: done is false.
func (q queue) giveBack(until time.Time, delivered []waiting, retry time.Time) (done bool, err error) {
	state, err := q.state()
	if err != nil || !state.Taken || !state.Due.Equal(until) {
		return false, err
	}
	there := delivered[:0:0]
	for _, r := range delivered {
		has, err := storage.Outbox.Has(q.tx, r.Key) // it may have been dropped
		if err != nil {
			return false, err
		}
		if has {
			there = append(there, r)
		}
	}
	if err := q.delete(there); err != nil {
		return false, err
	}
	if len(delivered) > 0 {
		state.Tries = 0
	}
	if state.Due, state.Taken = retry, false; !retry.IsZero() {
		state.Tries++
	}
	return true, q.setState(state)
}

// free makes the first row due, if nobody has taken it or evenTaken.
func (q queue) free(evenTaken bool) error {
	state, err := q.state()
	if err != nil || state.Due.IsZero() || state.Taken && !evenTaken {
		return err
	}
	state.Due, state.Taken = time.Time{}, false
	return q.setState(state)
}

// clear removes up to dropAtOnce rows, and says whether there may be more.
func (q queue) clear() (more bool, err error) {
	rows, err := q.first(dropAtOnce)
	if err != nil {
		return false, err
	}
	if err := q.delete(rows); err != nil || len(rows) == dropAtOnce {
		return true, err
	}
	return false, errors.Join(
		q.setState(storage.Delivery{}),
		storage.Counters.Delete(q.tx, storage.Key(countPending+q.name)),
		storage.Counters.Delete(q.tx, storage.Key(countDropped+q.name)))
}

func (q queue) dropped() (int64, error) { return storage.Total(q.tx, countDropped+q.name) }

func (q queue) stats() (s WebhookStats, err error) {
	s.Name = q.name
	if s.Pending, err = storage.Total(q.tx, countPending+q.name); err != nil {
		return s, err
	}
	if s.Dropped, err = q.dropped(); err != nil {
		return s, err
	}
	rows, err := q.first(1)
	if len(rows) > 0 {
		s.Oldest = rows[0].Value.Made
	}
	return s, err
}

// waitingFor finds the first webhook, behind those whose names are up to after,
// that events wait for.
func waitingFor(tx storage.Tx, after string) (name string, err error) {
	var from []byte
	if after != "" {
		from = []byte(after + "\x01") // behind all keys of that webhook
	}
	for e, err := range storage.Outbox.Scan(tx, nil, from) {
		if err != nil {
			return "", err
		}
		first, _, _ := bytes.Cut(e.Key, []byte{0})
		return string(first), nil
	}
	return "", nil
}
