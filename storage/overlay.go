package storage

import (
	"bytes"
	"iter"
	"strings"

	"github.com/tidwall/btree"
)

// Overlay returns a transaction over tx that can be written to, even if tx cannot:
// what is written is seen in it alone, and forgotten with it. It is for finding
// out what an update would do, and for drivers that write at the end.
func Overlay(tx Tx) *Overlaid { return &Overlaid{below: tx} }

// Overlaid is a transaction over another one.
type Overlaid struct {
	below Tx
	rows  btree.Map[string, *[]byte] // by table and key; nil for a row that is gone
}

// Write is a row that was written.
type Write struct {
	Table string
	Row
	Gone bool // it was deleted
}

// Written yields what was written, by table and key.
func (o *Overlaid) Written() iter.Seq[Write] {
	return func(yield func(Write) bool) {
		o.rows.Scan(func(path string, v *[]byte) bool {
			table, key, _ := strings.Cut(path, "\x00")
			w := Write{Table: table, Row: Row{Key: []byte(key)}, Gone: v == nil}
			if v != nil {
				w.Value = *v
			}
			return yield(w)
		})
	}
}

func overlayPath(table string, key []byte) string { return table + "\x00" + string(key) }

// Get implements Tx.
func (o *Overlaid) Get(table string, key []byte) ([]byte, error) {
	v, ok := o.rows.Get(overlayPath(table, key))
	switch {
	case !ok:
		return o.below.Get(table, key)
	case v == nil:
		return nil, ErrNotFound
	}
	return *v, nil
}

// Put implements Tx.
func (o *Overlaid) Put(table string, key, value []byte) error {
	o.rows.Set(overlayPath(table, key), &value)
	return nil
}

// Delete implements Tx.
func (o *Overlaid) Delete(table string, key []byte) error {
	o.rows.Set(overlayPath(table, key), nil)
	return nil
}

// Scan implements Tx.
func (o *Overlaid) Scan(table string, prefix, after []byte) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		over := o.over(table, prefix, after)
		for row, err := range o.below.Scan(table, prefix, after) {
			if err != nil {
				yield(row, err)
				return
			}
			for len(over) > 0 && bytes.Compare(over[0].Key, row.Key) < 0 {
				if !over[0].yield(yield) {
					return
				}
				over = over[1:]
			}
			if len(over) > 0 && bytes.Equal(over[0].Key, row.Key) {
				continue // it comes with the next one, or behind the last
			}
			if !yield(row, nil) {
				return
			}
		}
		for _, row := range over {
			if !row.yield(yield) {
				return
			}
		}
	}
}

// overRow is a row that was written, or that is gone.
type overRow struct {
	Row
	gone bool
}

// yield yields the row, unless it is gone.
func (r overRow) yield(yield func(Row, error) bool) bool { return r.gone || yield(r.Row, nil) }

// over lists the rows that were written, and those that are gone.
func (o *Overlaid) over(table string, prefix, after []byte) (rows []overRow) {
	start := overlayPath(table, prefix)
	o.rows.Ascend(start, func(path string, v *[]byte) bool {
		if len(path) < len(start) || path[:len(start)] != start {
			return false
		}
		key := []byte(path[len(table)+1:])
		switch {
		case bytes.Compare(key, after) <= 0 && after != nil:
		case v == nil:
			rows = append(rows, overRow{Row{Key: key}, true})
		default:
			rows = append(rows, overRow{Row{Key: key, Value: *v}, false})
		}
		return true
	})
	return rows
}
