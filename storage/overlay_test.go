package storage_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// errUndone ends an update that is to change nothing.
var errUndone = errors.New("undone")

// TestOverlay does the same at random to an update and to an overlay over a view of
// the same rows: both show the same, and the overlay leaves the rows below it alone.
func TestOverlay(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := &overlayRun{rand.New(rand.NewPCG(seed, 0))}
	for range 300 {
		meta := mem.NewMeta()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(meta.Update(t.Context(), func(tx storage.Tx) error {
			for range r.IntN(40) {
				must(tx.Put(r.table(), r.key(), r.value()))
			}
			return nil
		}))
		must(meta.View(t.Context(), func(view storage.Tx) error {
			over, below := storage.Overlay(view), r.all(view)
			err := meta.Update(t.Context(), func(tx storage.Tx) error {
				for range 60 {
					if err := r.step(over, tx); err != nil {
						return err
					}
				}
				return errUndone
			})
			if !errors.Is(err, errUndone) {
				return err
			}
			if got := r.all(view); !slices.Equal(got, below) {
				return fmt.Errorf("below an overlay is %q, was %q", got, below)
			}
			return nil
		}))
	}
}

// overlayRun chooses what is done, of few keys, so that they meet.
type overlayRun struct{ *rand.Rand }

// overlayTables are two tables, one right behind the other.
var overlayTables = []string{storage.Tags.Name(), storage.Tagged.Name()}

func (r *overlayRun) table() string { return overlayTables[r.IntN(len(overlayTables))] }

// key is a short key of few letters, the smallest and the greatest byte among them.
func (r *overlayRun) key() []byte {
	key := make([]byte, 1+r.IntN(3))
	for i := range key {
		key[i] = "\x00a\xff"[r.IntN(3)]
	}
	return key
}

func (r *overlayRun) value() []byte {
	switch r.IntN(8) {
	case 0:
		return nil
	case 1:
		return []byte{}
	}
	return fmt.Appendf(nil, "%d", r.IntN(1000))
}

// step does the same to both, and fails if they differ.
func (r *overlayRun) step(over, tx storage.Tx) error {
	table, key := r.table(), r.key()
	switch r.IntN(4) {
	case 0:
		value := r.value()
		return errors.Join(over.Put(table, key, value), tx.Put(table, key, value))
	case 1:
		return errors.Join(over.Delete(table, key), tx.Delete(table, key))
	case 2:
		got, gotErr := over.Get(table, key)
		want, wantErr := tx.Get(table, key)
		if !bytes.Equal(got, want) || errors.Is(gotErr, storage.ErrNotFound) != errors.Is(wantErr, storage.ErrNotFound) {
			return fmt.Errorf("get %q: %q, %w; want %q, %w", key, got, gotErr, want, wantErr)
		}
		return nil
	}
	var prefix, after []byte
	if r.IntN(3) > 0 {
		prefix = r.key()
	}
	if r.IntN(2) > 0 {
		after = r.key()
	}
	most := 1 + r.IntN(20) // rows, then the loop is left
	got, want := scanned(over, table, prefix, after, most), scanned(tx, table, prefix, after, most)
	if !slices.Equal(got, want) {
		return fmt.Errorf("scan of %q behind %q: %q, want %q", prefix, after, got, want)
	}
	return nil
}

// all lists all rows.
func (r *overlayRun) all(tx storage.Tx) (all []string) {
	for _, table := range overlayTables {
		all = append(all, scanned(tx, table, nil, nil, -1)...)
	}
	return all
}

// scanned lists rows, and says of an error what it is.
func scanned(tx storage.Tx, table string, prefix, after []byte, most int) (rows []string) {
	for row, err := range tx.Scan(table, prefix, after) {
		if err != nil {
			return append(rows, err.Error())
		}
		if rows = append(rows, fmt.Sprintf("%q=%q", row.Key, row.Value)); len(rows) == most {
			break
		}
	}
	return rows
}
