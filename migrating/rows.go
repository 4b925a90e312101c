package migrating

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"iter"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"github.com/berth-registry/berth/storage"
)

// tables lists the tables that are moved: not what is of processes, and what a store of
// blobs knows of its stages only if it stays the same.
func (m *mover) tables() []string {
	left := []string{storage.Leases.Name(), storage.Holds.Name(), storage.Collecting.Name(), storage.Replicas.Name()}
	if !m.sameBlobs {
		left = append(left, storage.Stages.Name(), storage.StageParts.Name())
	}
	return slices.DeleteFunc(storage.Tables(), func(name string) bool { return slices.Contains(left, name) })
}

// copyTables makes the rows of the target those of the source. Where they are already
// nothing is written, so it is done ahead, and again, which costs little then.
func (m *mover) copyTables(ctx context.Context) error {
	for _, table := range m.tables() {
		w := writer{meta: m.to.Meta, table: table}
		err := merge(m.rows(ctx, m.from.Meta, table), own(rowsOf(ctx, m.to.Meta, table), table), byKey, func(from, to *storage.Row) error {
			switch {
			case from == nil:
				return w.add(ctx, storage.Write{Row: *to, Gone: true})
			case to == nil || !bytes.Equal(from.Value, to.Value):
				return w.add(ctx, storage.Write{Row: *from})
			}
			return nil
		})
		if err == nil {
			err = w.flush(ctx)
		}
		if err != nil {
			return fmt.Errorf("copy the rows of %s: %w", table, err)
		}
	}
	return nil
}

func byKey(a, b storage.Row) int { return bytes.Compare(a.Key, b.Key) }

// own leaves out what a migration notes of itself.
func own(rows iter.Seq2[storage.Row, error], table string) iter.Seq2[storage.Row, error] {
	if table != storage.Settings.Name() {
		return rows
	}
	return func(yield func(storage.Row, error) bool) {
		for row, err := range rows {
			if err == nil && isMark(row.Key) {
				continue
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

// rows lists the rows of the source as the target is to have them.
func (m *mover) rows(ctx context.Context, meta storage.Meta, table string) iter.Seq2[storage.Row, error] {
	rows := own(rowsOf(ctx, meta, table), table)
	if len(m.dropped) == 0 || table != storage.Uploads.Name() && table != storage.Counters.Name() {
		return rows
	}
	return func(yield func(storage.Row, error) bool) {
		for row, err := range rows {
			switch {
			case err != nil:
			case table == storage.Uploads.Name():
				if m.dropped[string(row.Key)] {
					continue
				}
			case string(row.Key) == storage.CountUploads:
				row.Value, err = less(row.Value, int64(len(m.dropped)))
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

// less is the row of a counter that is less by n.
func less(row []byte, n int64) ([]byte, error) {
	var c storage.Counter
	if err := cbor.Unmarshal(row, &c); err != nil {
		return nil, fmt.Errorf("damaged row of %s: %w", storage.Counters.Name(), err)
	}
	c.N -= n
	return cbor.Marshal(c)
}

// writer writes rows of a table, many in a transaction.
type writer struct {
	meta  storage.Meta
	table string
	list  []storage.Write
	size  int
}

func (w *writer) add(ctx context.Context, row storage.Write) error {
	w.list, w.size = append(w.list, row), w.size+len(row.Key)+len(row.Value)
	if len(w.list) < pageRows && w.size < pageBytes {
		return nil
	}
	return w.flush(ctx)
}

func (w *writer) flush(ctx context.Context) error {
	if len(w.list) == 0 {
		return nil
	}
	err := w.meta.Update(ctx, func(tx storage.Tx) error {
		for _, row := range w.list {
			var err error
			if row.Gone {
				err = tx.Delete(w.table, row.Key)
			} else {
				err = tx.Put(w.table, row.Key, row.Value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	w.list, w.size = nil, 0
	return err
}

// errDiffers says that the target is not what the source is.
var errDiffers = errors.New("the target differs from the source")

// verify compares all rows, and looks for the bytes of every blob.
func (m *mover) verify(ctx context.Context) error {
	m.said.say(Progress{Phase: PhaseVerify}, true)
	m.res.Tables = nil
	for _, name := range m.tables() {
		table, err := m.compare(ctx, name)
		if err != nil {
			return fmt.Errorf("verify the rows of %s: %w", name, err)
		}
		m.res.Tables = append(m.res.Tables, table)
	}
	return m.verifyBlobs(ctx)
}

// compare compares the rows of a table.
func (m *mover) compare(ctx context.Context, name string) (Table, error) {
	table, sumFrom, sumTo := Table{Name: name}, newSum(), newSum()
	var differing, to int64
	err := merge(m.rows(ctx, m.from.Meta, name), own(rowsOf(ctx, m.to.Meta, name), name), byKey, func(a, b *storage.Row) error {
		if a != nil {
			table.Rows++
			sumFrom.add(*a)
		}
		if b != nil {
			to++
			sumTo.add(*b)
		}
		if a == nil || b == nil || !bytes.Equal(a.Value, b.Value) {
			differing++
		}
		return nil
	})
	table.Sum = sumFrom.String()
	if err == nil && (differing > 0 || to != table.Rows || sumTo.String() != table.Sum) {
		err = fmt.Errorf("%w: %d of %d rows do, and it has %d", errDiffers, differing, table.Rows, to)
	}
	return table, err
}

// sum is a hash over rows.
type sum struct{ hash.Hash }

func newSum() sum { return sum{sha256.New()} }

func (s sum) add(row storage.Row) {
	for _, part := range [][]byte{row.Key, row.Value} {
		_, _ = s.Write(binary.AppendUvarint(nil, uint64(len(part)))) // a hash never fails
		_, _ = s.Write(part)
	}
}

// String is the hash in hexadecimal.
func (s sum) String() string { return hex.EncodeToString(s.Sum(nil)) }
