package migrating

import (
	"bytes"
	"context"
	"iter"

	"github.com/berth-registry/berth/storage"
)

const (
	// pageRows and pageBytes are how much is read, or written, in a transaction.
	pageRows  = 1000
	pageBytes = 2 << 20
)

// merge goes through two ordered lists, and calls fn with what is in both, or in one of
// them: then the other is nil.
func merge[A, B any](as iter.Seq2[A, error], bs iter.Seq2[B, error], order func(A, B) int, fn func(*A, *B) error) error {
	nextA, stopA := iter.Pull2(as)
	defer stopA()
	nextB, stopB := iter.Pull2(bs)
	defer stopB()
	a, errA, moreA := nextA()
	b, errB, moreB := nextB()
	for moreA || moreB {
		if errA != nil {
			return errA
		}
		if errB != nil {
			return errB
		}
		var c int
		switch {
		case !moreB:
			c = -1
		case moreA:
			c = order(a, b)
		default:
			c = 1
		}
		var inA *A
		var inB *B
		if c <= 0 {
			one := a
			inA = &one
			a, errA, moreA = nextA()
		}
		if c >= 0 {
			one := b
			inB = &one
			b, errB, moreB = nextB()
		}
		if err := fn(inA, inB); err != nil {
			return err
		}
	}
	return nil
}

// rowsOf lists the rows of a table, each page of them in a snapshot of its own.
func rowsOf(ctx context.Context, meta storage.Meta, table string) iter.Seq2[storage.Row, error] {
	return paged(ctx, meta,
		func(tx storage.Tx, after []byte) iter.Seq2[storage.Row, error] { return tx.Scan(table, nil, after) },
		func(row storage.Row) (storage.Row, []byte, int) {
			row = storage.Row{Key: bytes.Clone(row.Key), Value: append([]byte{}, row.Value...)}
			return row, row.Key, len(row.Key) + len(row.Value)
		})
}

// entriesOf is rowsOf for rows that are read.
func entriesOf[V any](ctx context.Context, meta storage.Meta, table storage.Table[V]) iter.Seq2[storage.Entry[V], error] {
	return paged(ctx, meta,
		func(tx storage.Tx, after []byte) iter.Seq2[storage.Entry[V], error] {
			return table.Scan(tx, nil, after)
		},
		func(e storage.Entry[V]) (storage.Entry[V], []byte, int) {
			e.Key = bytes.Clone(e.Key)
			e.Rest = e.Key
			return e, e.Key, len(e.Key)
		})
}

// paged yields what scan does, in pages. keep makes something outlive its transaction,
// and tells its key and about how many bytes it has.
func paged[T any](ctx context.Context, meta storage.Meta, scan func(tx storage.Tx, after []byte) iter.Seq2[T, error], keep func(T) (T, []byte, int)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var after []byte
		for more := true; more; {
			var page []T
			last := after
			err := meta.View(ctx, func(tx storage.Tx) error {
				page, more = nil, false
				size := 0
				for v, err := range scan(tx, after) {
					if err != nil {
						return err
					}
					if len(page) == pageRows || size > pageBytes {
						more = true
						break
					}
					v, key, n := keep(v)
					page, last, size = append(page, v), key, size+n
				}
				return nil
			})
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			after = last
			for _, v := range page {
				if !yield(v, nil) {
					return
				}
			}
		}
	}
}
