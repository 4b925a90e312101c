package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/fxamacker/cbor/v2"
	"github.com/jackc/pgx/v5"

	"github.com/berth-registry/berth/storage"
)

// Counters are no table of rows, as nearly every push changes some of them.
//
// What is added to a sum is a row of counter_deltas, and a sum is that of its deltas
// and of its row in counters, into which deltas are folded now and then. A number is
// the next one of a sequence, and its row in counters says how much more it is. So
// Put sets any value exactly, in its transaction, and nobody waits for anybody.

// counterSQL are the statements of counters.
type counterSQL struct {
	get, list, fold, add, clear, put, hide string
	last, next, putNumber                  map[string]string // by the name of a counter of numbers
}

func newCounterSQL(in string) counterSQL {
	put := func(n string) string {
		return "INSERT INTO " + in + "counters (key, n, hidden) VALUES ($1, " + n + ", $3)" +
			" ON CONFLICT (key) DO UPDATE SET n = excluded.n, hidden = excluded.hidden"
	}
	c := counterSQL{
		get: "SELECT (SELECT n FROM " + in + "counters WHERE key = $1)," +
			" coalesce((SELECT hidden FROM " + in + "counters WHERE key = $1), false)," +
			" (SELECT sum(n)::bigint FROM " + in + "counter_deltas WHERE key = $1)",
		list: "SELECT coalesce(c.key, d.key), c.n, coalesce(c.hidden, false), d.n FROM " + in + "counters c FULL JOIN" +
			" (SELECT key, sum(n)::bigint AS n FROM " + in + "counter_deltas GROUP BY key) d ON c.key = d.key",
		fold: "WITH gone AS (DELETE FROM " + in + "counter_deltas RETURNING key, n)" +
			" INSERT INTO " + in + "counters AS c (key, n) SELECT key, sum(n)::bigint FROM gone GROUP BY key ORDER BY key" +
			" ON CONFLICT (key) DO UPDATE SET n = c.n + excluded.n, hidden = false",
		add:   "INSERT INTO " + in + "counter_deltas (key, n) SELECT * FROM unnest($1::bytea[], $2::bigint[])",
		clear: "DELETE FROM " + in + "counter_deltas WHERE key = $1",
		put:   put("$2"),
		hide:  "DELETE FROM " + in + "counters WHERE key = $1",
		last:  map[string]string{}, next: map[string]string{}, putNumber: map[string]string{},
	}
	for _, name := range storage.Numbers() {
		sequence := "'" + in + quoted("number_"+name) + "'::regclass"
		c.last[name] = "coalesce(pg_sequence_last_value(" + sequence + "), 0)"
		c.putNumber[name] = put("$2 - " + c.last[name])
		c.next[name] = "SELECT coalesce((SELECT n FROM " + in + "counters WHERE key = $1), 0) + nextval(" + sequence + ")"
	}
	return c
}

// counter is a counter as the server has it.
type counter struct {
	base   *int64
	hidden bool // it was deleted, with whatever its sequence was at
	deltas *int64
	last   int64 // of its sequence
}

func (c counter) value() (n int64, shown bool) {
	n = c.last
	if c.base != nil {
		n += *c.base
	}
	if c.deltas != nil {
		n += *c.deltas
	}
	return n, n != 0 || c.base != nil && !c.hidden || c.deltas != nil
}

// counterValue reads a row of Counters.
func counterValue(row []byte) (int64, error) {
	var c storage.Counter
	if err := cbor.Unmarshal(row, &c); err != nil {
		return 0, fmt.Errorf("no row of %s: %w", storage.Counters.Name(), err)
	}
	return c.N, nil
}

// counterRow is a row of Counters as others would have written it.
func counterRow(n int64) ([]byte, error) { return cbor.Marshal(storage.Counter{N: n}) }

// counter returns what a counter comes to in the transaction, but for what was Put.
func (s *session) counter(name string) (n int64, shown bool, err error) {
	var c counter
	sql := s.meta.sql.counter.get
	if last := s.meta.sql.counter.last[name]; last != "" {
		sql += ", " + last
	} else {
		sql += ", 0::bigint"
	}
	err = s.query(func(rows pgx.Rows) error {
		c = counter{}
		for rows.Next() {
			if err := rows.Scan(&c.base, &c.hidden, &c.deltas, &c.last); err != nil {
				return err
			}
		}
		return nil
	}, sql, []byte(name))
	n, shown = c.value()
	delta, added := s.adds[name]
	return n + delta, shown || added, err
}

func (s *session) getCounter(name string) ([]byte, error) {
	n, shown, err := s.counter(name)
	switch {
	case err != nil:
		return nil, err
	case !shown:
		return nil, storage.ErrNotFound
	}
	return counterRow(n)
}

// scanCounters is Scan for Counters. They are few.
func (s *session) scanCounters(prefix, after []byte, yield func(storage.Row, error) bool) {
	counters, err := s.listCounters()
	if err != nil {
		yield(storage.Row{}, err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		key := []byte(name)
		if !bytes.HasPrefix(key, prefix) || len(after) > 0 && bytes.Compare(key, after) <= 0 {
			continue
		}
		n, shown := counters[name].value()
		delta, added := s.adds[name]
		if !shown && !added {
			continue
		}
		row, err := counterRow(n + delta)
		if !yield(storage.Row{Key: key, Value: row}, err) || err != nil {
			return
		}
	}
}

// listCounters reads all counters.
func (s *session) listCounters() (counters map[string]counter, err error) {
	err = s.query(func(rows pgx.Rows) error {
		counters = map[string]counter{}
		for rows.Next() {
			var key []byte
			var c counter
			if err := rows.Scan(&key, &c.base, &c.hidden, &c.deltas); err != nil {
				return err
			}
			counters[string(key)] = c
		}
		return nil
	}, s.meta.sql.counter.list)
	if err != nil {
		return nil, err
	}
	for name := range s.adds {
		if _, known := counters[name]; !known {
			counters[name] = counter{} // so that it is shown
		}
	}
	for name, last := range s.meta.sql.counter.last {
		c := counters[name]
		err := s.query(func(rows pgx.Rows) error {
			for rows.Next() {
				if err := rows.Scan(&c.last); err != nil {
					return err
				}
			}
			return nil
		}, "SELECT "+last)
		if err != nil {
			return nil, err
		}
		counters[name] = c
	}
	return counters, nil
}

// Add implements storage.Counting.
func (t *txn) Add(name string, delta int64) error {
	switch {
	case t.over == nil:
		return t.fail(errView)
	case name == "" || len(name) > storage.MaxKey:
		return t.fail(fmt.Errorf("name of a counter of %d bytes", len(name)))
	case t.set[name]:
		_, err := t.count(name, delta)
		return err
	}
	t.adds[name] += delta
	return nil
}

// Next implements storage.Counting.
func (t *txn) Next(name string) (n int64, err error) {
	sql := t.meta.sql.counter.next[name]
	switch {
	case t.over == nil:
		return 0, t.fail(errView)
	case sql == "":
		return 0, t.fail(fmt.Errorf("the counter %q gives no numbers", name))
	case t.set[name]:
		return t.count(name, 1)
	}
	err = t.query(func(rows pgx.Rows) error {
		for rows.Next() {
			if err := rows.Scan(&n); err != nil {
				return err
			}
		}
		return nil
	}, sql, []byte(name))
	return n, err
}

// Total implements storage.Counting.
func (t *txn) Total(name string) (int64, error) {
	row, err := t.Get(storage.Counters.Name(), []byte(name))
	if errors.Is(err, storage.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return counterValue(row)
}

// count changes a counter that the transaction has set.
func (t *txn) count(name string, delta int64) (int64, error) {
	n, err := t.Total(name)
	if err != nil {
		return 0, err
	}
	row, err := counterRow(n + delta)
	if err != nil {
		return 0, err
	}
	return n + delta, t.Put(storage.Counters.Name(), []byte(name), row)
}

// queueCounters queues what writes counters: those that were set, deltas first as a
// fold does it, and what was added to the others.
func (t *txn) queueCounters(batch *pgx.Batch) {
	sql := &t.meta.sql.counter
	var set []storage.Write
	for w := range t.over.Written() {
		if w.Table == storage.Counters.Name() {
			set = append(set, w)
			batch.Queue(sql.clear, w.Key)
		}
	}
	for _, w := range set {
		n := int64(0)
		if !w.Gone {
			n, _ = counterValue(w.Value) // Put has checked it
		}
		switch number := sql.putNumber[string(w.Key)]; {
		case number != "":
			batch.Queue(number, w.Key, n, w.Gone)
		case w.Gone:
			batch.Queue(sql.hide, w.Key)
		default:
			batch.Queue(sql.put, w.Key, n, false)
		}
	}
	if len(t.adds) == 0 {
		return
	}
	var keys [][]byte
	var deltas []int64
	for _, name := range slices.Sorted(maps.Keys(t.adds)) {
		keys, deltas = append(keys, []byte(name)), append(deltas, t.adds[name])
	}
	batch.Queue(sql.add, keys, deltas)
}
