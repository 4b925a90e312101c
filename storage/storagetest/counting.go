package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/berth-registry/berth/storage"
)

// checkTotal fails the test unless a counter has a value, by all ways to ask for it.
func checkTotal(t *testing.T, m storage.Meta, name string, want int64) {
	t.Helper()
	view(t, m, func(tx storage.Tx) error { return expectTotal(tx, name, want) })
}

func expectTotal(tx storage.Tx, name string, want int64) error {
	if n, err := storage.Total(tx, name); err != nil || n != want {
		return fmt.Errorf("Total of %s = %d, %w, want %d", name, n, err, want)
	}
	row, err := storage.Counters.Get(tx, storage.Key(name))
	if errors.Is(err, storage.ErrNotFound) && want == 0 {
		return nil
	}
	if err != nil || row.N != want {
		return fmt.Errorf("row of %s = %d, %w, want %d", name, row.N, err, want)
	}
	for e, err := range storage.Counters.Scan(tx, nil, nil) {
		if err != nil {
			return err
		}
		if string(e.Key) == name {
			if e.Value.N != want {
				return fmt.Errorf("scan shows %s = %d, want %d", name, e.Value.N, want)
			}
			return nil
		}
	}
	return fmt.Errorf("scan does not show %s", name)
}

func setCounter(name string, n int64) func(storage.Tx) error {
	return func(tx storage.Tx) error { return storage.Counters.Put(tx, storage.Key(name), storage.Counter{N: n}) }
}

// testSums adds to counters, and sets them, in one transaction and in several.
func testSums(t *testing.T, m storage.Meta) {
	sum, other := storage.CountBytes, storage.CountBlobs
	checkTotal(t, m, sum, 0)
	update(t, m, func(tx storage.Tx) error {
		return errors.Join(storage.Add(tx, sum, 5), expectTotal(tx, sum, 5), storage.Add(tx, sum, -7), expectTotal(tx, sum, -2))
	})
	checkTotal(t, m, sum, -2)
	err := m.Update(context.Background(), func(tx storage.Tx) error {
		return errors.Join(storage.Add(tx, sum, 100), errRefused)
	})
	if !errors.Is(err, errRefused) {
		t.Errorf("Update: %v", err)
	}
	checkTotal(t, m, sum, -2)
	update(t, m, func(tx storage.Tx) error {
		n, err := storage.Count(tx, sum, 12)
		if err == nil && n != 10 {
			err = fmt.Errorf("Count = %d, want 10", n)
		}
		return errors.Join(err, storage.Add(tx, sum, 1), expectTotal(tx, sum, 11), storage.Add(tx, other, 1<<40))
	})
	checkTotal(t, m, sum, 11)
	checkTotal(t, m, other, 1<<40)

	update(t, m, func(tx storage.Tx) error { return errors.Join(storage.Add(tx, sum, 9), setCounter(sum, 3)(tx)) })
	checkTotal(t, m, sum, 3)
	update(t, m, func(tx storage.Tx) error { return errors.Join(setCounter(sum, 30)(tx), storage.Add(tx, sum, 3)) })
	checkTotal(t, m, sum, 33)
	update(t, m, func(tx storage.Tx) error {
		return errors.Join(storage.Counters.Delete(tx, storage.Key(sum)), expectTotal(tx, sum, 0))
	})
	checkTotal(t, m, sum, 0)
	update(t, m, func(tx storage.Tx) error { return storage.Add(tx, sum, 4) })
	checkTotal(t, m, sum, 4)
	checkTotal(t, m, other, 1<<40)

	if m.View(context.Background(), func(tx storage.Tx) error { return storage.Add(tx, sum, 1) }) == nil {
		t.Error("Add in a View: no error")
	}
}

// testNumbers draws numbers, and sets what they start from.
func testNumbers(t *testing.T, m storage.Meta) {
	name := storage.CountEvents
	next := func(least int64) (last int64) {
		t.Helper()
		for range 3 {
			update(t, m, func(tx storage.Tx) (err error) {
				last, err = storage.Next(tx, name)
				return errors.Join(err, expectTotal(tx, name, last))
			})
			if last < least {
				t.Errorf("Next = %d, want at least %d", last, least)
			}
			least = last + 1
		}
		return last
	}
	checkTotal(t, m, name, 0)
	checkTotal(t, m, name, next(1))
	for _, n := range []int64{1 << 40, 7, 0} {
		update(t, m, setCounter(name, n))
		checkTotal(t, m, name, n)
		checkTotal(t, m, name, next(n+1))
	}
	err := m.Update(context.Background(), func(tx storage.Tx) error {
		_, err := storage.Next(tx, name)
		return errors.Join(err, setCounter(name, 1<<50)(tx), errRefused)
	})
	if !errors.Is(err, errRefused) {
		t.Errorf("Update: %v", err)
	}
	if n := next(1); n > 1<<40 {
		t.Errorf("Next = %d, as if a transaction that failed had set it", n)
	}
	update(t, m, func(tx storage.Tx) error {
		if err := setCounter(name, 50)(tx); err != nil {
			return err
		}
		n, err := storage.Next(tx, name)
		if err == nil && n != 51 {
			err = fmt.Errorf("Next = %d behind 50 in the same transaction", n)
		}
		return errors.Join(err, expectTotal(tx, name, 51))
	})
	next(52)
	update(t, m, func(tx storage.Tx) error { return storage.Counters.Delete(tx, storage.Key(name)) })
	checkTotal(t, m, name, 0)
	next(1)
	for _, wrong := range []string{"", storage.CountBytes, "unheard of"} {
		if m.Update(context.Background(), func(tx storage.Tx) error { _, err := storage.Next(tx, wrong); return err }) == nil {
			t.Errorf("Next of %q: no error", wrong)
		}
	}
}

// testCounting counts by many at once: no sum is wrong, and nobody gets the number of
// somebody else, or one less than those of transactions that had ended before.
func testCounting(t *testing.T, m storage.Meta) {
	const workers, each = 16, 25
	numbers := make([][]int64, workers)
	atOnce(t, workers, func(i int) error {
		for j := range each {
			var n int64
			fail := j%5 == 4
			err := m.Update(context.Background(), func(tx storage.Tx) (err error) {
				if n, err = storage.Next(tx, storage.CountMoves); err != nil {
					return err
				}
				if err := errors.Join(storage.Add(tx, storage.CountBytes, n), storage.Add(tx, storage.CountBlobs, -1)); err != nil || !fail {
					return err
				}
				return errRefused
			})
			if fail && errors.Is(err, errRefused) {
				continue
			}
			if err != nil {
				return err
			}
			if j > 0 && len(numbers[i]) > 0 && n <= numbers[i][len(numbers[i])-1] {
				return fmt.Errorf("number %d comes behind %d", n, numbers[i][len(numbers[i])-1])
			}
			numbers[i] = append(numbers[i], n)
		}
		return nil
	})
	all := slices.Concat(numbers...)
	var sum int64
	for _, n := range all {
		sum += n
	}
	slices.Sort(all)
	if len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Error("a number was given twice")
	}
	checkTotal(t, m, storage.CountBytes, sum)
	checkTotal(t, m, storage.CountBlobs, -int64(len(all)))
}

// testCopy copies all counters of a store into another one, row by row.
func testCopy(t *testing.T, m, to storage.Meta) {
	update(t, m, func(tx storage.Tx) error {
		for range 5 {
			if _, err := storage.Next(tx, storage.CountMoves); err != nil {
				return err
			}
		}
		return errors.Join(storage.Add(tx, storage.CountBytes, 12), setCounter("outbox-pending:x", 3)(tx), storage.Add(tx, storage.CountBlobs, 0))
	})
	rows := func(tx storage.Tx) (list []string, err error) {
		for row, err := range tx.Scan(storage.Counters.Name(), nil, nil) {
			if err != nil {
				return nil, err
			}
			list = append(list, fmt.Sprintf("%s=%x", row.Key, row.Value))
		}
		return list, nil
	}
	var want []string
	view(t, m, func(tx storage.Tx) error {
		update(t, to, func(into storage.Tx) error {
			for row, err := range tx.Scan(storage.Counters.Name(), nil, nil) {
				if err != nil {
					return err
				}
				if err := into.Put(storage.Counters.Name(), row.Key, row.Value); err != nil {
					return err
				}
			}
			return nil
		})
		var err error
		want, err = rows(tx)
		return err
	})
	view(t, to, func(tx storage.Tx) error {
		got, err := rows(tx)
		if err == nil && (!slices.Equal(got, want) || len(got) < 3) {
			err = fmt.Errorf("rows are %q, want %q", got, want)
		}
		return err
	})
	checkTotal(t, to, storage.CountMoves, 5)
	update(t, to, func(tx storage.Tx) error {
		n, err := storage.Next(tx, storage.CountMoves)
		if err == nil && n <= 5 {
			err = fmt.Errorf("Next = %d behind 5", n)
		}
		return err
	})
}

// testTake has many take rows and delete them: each row is taken by one.
func testTake(t *testing.T, m storage.Meta) {
	const rows, workers, each = 300, 6, 7
	update(t, m, func(tx storage.Tx) error {
		for i := range rows {
			if err := tx.Put(table, storage.Key("take", fmt.Sprintf("%03d", i)), []byte("v")); err != nil {
				return err
			}
		}
		return tx.Put(table, storage.Key("takf"), []byte("v"))
	})
	prefix := storage.Key("take", "")
	view(t, m, func(tx storage.Tx) error {
		all, err := scan(tx, prefix, nil)
		if err == nil && len(all) != rows {
			err = fmt.Errorf("%d rows, want %d", len(all), rows)
		}
		return err
	})
	taken := make([][]string, workers)
	atOnce(t, workers, func(i int) error {
		for {
			var mine []string
			err := m.Update(context.Background(), func(tx storage.Tx) error {
				mine = nil
				list, err := storage.Take(tx, table, prefix, nil, each)
				if err != nil || len(list) > each {
					return fmt.Errorf("Take returns %d rows, %w", len(list), err)
				}
				for _, row := range list {
					mine = append(mine, string(row.Key))
					if err := tx.Delete(table, row.Key); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			if taken[i] = append(taken[i], mine...); len(mine) > 0 {
				continue
			}
			left := 0
			err = m.View(context.Background(), func(tx storage.Tx) error {
				keys, err := scan(tx, prefix, nil)
				left = len(keys)
				return err
			})
			if err != nil || left == 0 {
				return err
			}
		}
	})
	all := slices.Concat(taken...)
	slices.Sort(all)
	if len(all) != rows || len(slices.Compact(all)) != rows {
		t.Errorf("%d rows were taken, want each of %d once", len(all), rows)
	}
}

// testTakeOrder checks what Take returns when nobody else takes.
func testTakeOrder(t *testing.T, m storage.Meta) {
	put(t, m, "a", "n/1", "n/2", "n/3", "n/4", "o")
	update(t, m, func(tx storage.Tx) error {
		if err := errors.Join(tx.Delete(table, []byte("n/2")), tx.Put(table, []byte("n/25"), []byte("new"))); err != nil {
			return err
		}
		for _, c := range []struct {
			after string
			limit int
			want  []string
		}{
			{"", 10, []string{"n/1", "n/25", "n/3", "n/4"}},
			{"", 2, []string{"n/1", "n/25"}},
			{"n/1", 2, []string{"n/25", "n/3"}},
			{"n/3", 2, []string{"n/4"}},
			{"", 0, nil},
		} {
			rows, err := storage.Take(tx, table, []byte("n/"), []byte(c.after), c.limit)
			if err != nil {
				return err
			}
			var got []string
			for _, r := range rows {
				got = append(got, string(r.Key))
			}
			if !slices.Equal(got, c.want) {
				return fmt.Errorf("Take of %d behind %q = %q, want %q", c.limit, c.after, got, c.want)
			}
		}
		return nil
	})
}
