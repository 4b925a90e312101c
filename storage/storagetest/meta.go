package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/storage"
)

// TestMeta checks that a driver does what storage.Meta and storage.Tx promise.
// Each call of open returns an empty store of its own, which the suite closes.
func TestMeta(t *testing.T, open func(t *testing.T) storage.Meta) {
	for _, c := range []struct {
		name string
		test func(*testing.T, storage.Meta)
	}{
		{"rows", testRows},
		{"values", testValues},
		{"keys", testKeys},
		{"slices", testSlices},
		{"scan", testScan},
		{"scan of binary keys", testScanBinary},
		{"scan of names that begin alike", testScanNames},
		{"own writes", testOwnWrites},
		{"rollback", testRollback},
		{"failed method", testFailedMethod},
		{"write in a view", testWriteInView},
		{"canceled", testCanceled},
		{"panic", testPanic},
		{"counters", testCounters},
		{"rollback among others", testRollbackAmongOthers},
		{"panic among others", testPanicAmongOthers},
		{"snapshot", testSnapshot},
		{"invariant", testInvariant},
		{"large values at once", testLargeAtOnce},
		{"sums", testSums},
		{"numbers", testNumbers},
		{"counting at once", testCounting},
		{"take", testTakeOrder},
		{"take at once", testTake},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t)
			defer func() {
				if err := m.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}()
			c.test(t, m)
		})
	}
	t.Run("copy of counters", func(t *testing.T) {
		m, to := open(t), open(t)
		testCopy(t, m, to)
		must(t, "Close", errors.Join(m.Close(), to.Close()))
	})
	t.Run("closed", func(t *testing.T) { testClosed(t, open(t)) })
	t.Run("close waits", func(t *testing.T) { testCloseWaits(t, open(t)) })
}

func testRows(t *testing.T, m storage.Meta) {
	checkRow(t, m, "a", nil)
	put(t, m, "a", "b")
	checkRow(t, m, "a", []byte("value of a"))
	checkRow(t, m, "b", []byte("value of b"))
	view(t, m, func(tx storage.Tx) error { return expect(tx, other, "a", nil) })

	update(t, m, func(tx storage.Tx) error {
		return errors.Join(
			tx.Put(table, []byte("a"), []byte("new")),
			tx.Delete(table, []byte("b")),
			tx.Delete(table, []byte("never there")),
			tx.Put(other, []byte("b"), []byte("other")),
		)
	})
	checkRow(t, m, "a", []byte("new"))
	checkRow(t, m, "b", nil)
	view(t, m, func(tx storage.Tx) error { return expect(tx, other, "b", []byte("other")) })
}

func testValues(t *testing.T, m storage.Meta) {
	values := map[string][]byte{
		"empty":  {},
		"zeros":  make([]byte, 100),
		"binary": noise(1000, 1),
		"page":   noise(4096, 2),
		"large":  noise(4<<20, 3),
	}
	for k, v := range values {
		update(t, m, func(tx storage.Tx) error { return tx.Put(table, []byte(k), v) })
	}
	update(t, m, func(tx storage.Tx) error { return tx.Put(table, []byte("nil"), nil) })
	values["nil"] = []byte{}
	for k, v := range values {
		checkRow(t, m, k, v)
	}
	view(t, m, func(tx storage.Tx) error {
		for row, err := range tx.Scan(table, nil, nil) {
			if err != nil {
				return err
			}
			if !bytes.Equal(row.Value, values[string(row.Key)]) {
				return fmt.Errorf("scan: row %q has another value than was put", row.Key)
			}
		}
		return nil
	})
}

func testKeys(t *testing.T, m storage.Meta) {
	longest := strings.Repeat("k", storage.MaxKey)
	put(t, m, longest, "\x00", "\xff", "\x00\x00")
	for _, k := range []string{longest, "\x00", "\xff", "\x00\x00"} {
		checkRow(t, m, k, []byte("value of "+k))
	}
	checkRow(t, m, longest[1:], nil)
	for name, key := range map[string][]byte{"nil": nil, "empty": {}, "too long": []byte(longest + "k")} {
		err := m.Update(context.Background(), func(tx storage.Tx) error {
			return tx.Put(table, key, []byte("v"))
		})
		if err == nil || errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Put with a key that is %s: error %v, want one", name, err)
		}
	}
}

// testSlices checks how long slices are valid that go in and come out.
func testSlices(t *testing.T, m storage.Meta) {
	put(t, m, "a", "b")
	key, value := []byte("mine"), []byte("before")
	update(t, m, func(tx storage.Tx) error { return tx.Put(table, key, value) })
	copy(key, "XXXX")
	copy(value, "XXXXXX")
	checkRow(t, m, "mine", []byte("before"))

	update(t, m, func(tx storage.Tx) error {
		a, err := tx.Get(table, []byte("a"))
		if err != nil {
			return err
		}
		b, err := tx.Get(table, []byte("b"))
		if err != nil {
			return err
		}
		if err := errors.Join(
			tx.Put(table, []byte("a"), []byte("VALUE OF A")),
			tx.Delete(table, []byte("b")),
			tx.Put(table, []byte("c"), noise(100_000, 4)),
		); err != nil {
			return err
		}
		if string(a) != "value of a" || string(b) != "value of b" {
			return fmt.Errorf("slices from Get changed within the transaction: %q, %q", a, b)
		}
		return nil
	})
}

// testOwnWrites checks that a transaction sees what it has written.
func testOwnWrites(t *testing.T, m storage.Meta) {
	put(t, m, "a", "b", "c")
	update(t, m, func(tx storage.Tx) error {
		if err := errors.Join(
			tx.Put(table, []byte("aa"), []byte("1")),
			tx.Put(table, []byte("b"), []byte("2")),
			tx.Delete(table, []byte("c")),
			tx.Put(table, []byte("d"), []byte("3")),
			tx.Delete(table, []byte("d")),
		); err != nil {
			return err
		}
		keys, err := scan(tx, nil, nil)
		if err == nil && !slices.Equal(keys, []string{"a", "aa", "b"}) {
			err = fmt.Errorf("scan yields %q", keys)
		}
		return errors.Join(err,
			expect(tx, table, "aa", []byte("1")),
			expect(tx, table, "b", []byte("2")),
			expect(tx, table, "c", nil),
			expect(tx, table, "d", nil),
		)
	})
	view(t, m, func(tx storage.Tx) error {
		return errors.Join(expect(tx, table, "aa", []byte("1")), expect(tx, table, "c", nil))
	})
}

var errRefused = errors.New("refused by the test")

// meddle changes rows in every way there is, for a transaction that is to fail.
func meddle(tx storage.Tx) error {
	return errors.Join(
		tx.Put(table, []byte("a"), []byte("meddled")),
		tx.Delete(table, []byte("b")),
		tx.Put(table, []byte("new"), []byte("meddled")),
		tx.Put(other, []byte("new"), []byte("meddled")),
		tx.Put(table, []byte("short-lived"), []byte("meddled")),
		tx.Delete(table, []byte("short-lived")),
	)
}

// checkUnmeddled fails the test unless a and b are as put and alone but for
// rows whose keys start with "n/".
func checkUnmeddled(t *testing.T, m storage.Meta) {
	t.Helper()
	view(t, m, func(tx storage.Tx) error {
		keys, err := scan(tx, nil, nil)
		keys = slices.DeleteFunc(keys, func(k string) bool { return strings.HasPrefix(k, "n/") })
		if err == nil && !slices.Equal(keys, []string{"a", "b"}) {
			err = fmt.Errorf("keys are %q, want a and b", keys)
		}
		return errors.Join(err,
			expect(tx, table, "a", []byte("value of a")),
			expect(tx, table, "b", []byte("value of b")),
			expect(tx, other, "new", nil),
		)
	})
}

func testRollback(t *testing.T, m storage.Meta) {
	put(t, m, "a", "b")
	err := m.Update(context.Background(), func(tx storage.Tx) error {
		return errors.Join(meddle(tx), errRefused)
	})
	if !errors.Is(err, errRefused) {
		t.Errorf("Update: error %v, want the one of fn", err)
	}
	checkUnmeddled(t, m)
	if err := m.View(context.Background(), func(storage.Tx) error { return errRefused }); !errors.Is(err, errRefused) {
		t.Errorf("View: error %v, want the one of fn", err)
	}
}

// testFailedMethod checks that ErrNotFound leaves a transaction whole and that
// any other error ends it, even if fn does not pass it on.
func testFailedMethod(t *testing.T, m storage.Meta) {
	put(t, m, "a", "b")
	update(t, m, func(tx storage.Tx) error {
		return errors.Join(expect(tx, table, "absent", nil), tx.Put(table, []byte("n/1"), []byte("1")))
	})
	checkRow(t, m, "n/1", []byte("1"))

	err := m.Update(context.Background(), func(tx storage.Tx) error {
		if err := meddle(tx); err != nil {
			return err
		}
		_ = tx.Put(table, nil, []byte("v")) // fails
		return nil
	})
	if err == nil {
		t.Error("Update: no error although a Put in it failed")
	}
	checkUnmeddled(t, m)
}

func testWriteInView(t *testing.T, m storage.Meta) {
	put(t, m, "a", "b")
	for name, write := range map[string]func(storage.Tx) error{
		"Put":    func(tx storage.Tx) error { return tx.Put(table, []byte("a"), []byte("new")) },
		"Delete": func(tx storage.Tx) error { return tx.Delete(table, []byte("a")) },
	} {
		if err := m.View(context.Background(), write); err == nil || errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s in a View: error %v, want one", name, err)
		}
	}
	checkUnmeddled(t, m)
}

func testCanceled(t *testing.T, m storage.Meta) {
	put(t, m, "a", "b")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Update(ctx, meddle); !errors.Is(err, context.Canceled) {
		t.Errorf("Update: error %v, want context.Canceled", err)
	}
	if err := m.View(ctx, func(storage.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("View: error %v, want context.Canceled", err)
	}
	checkUnmeddled(t, m)
}

// try runs f and returns what it panicked with, or nil.
func try(f func()) (p any) {
	defer func() { p = recover() }()
	f()
	return nil
}

func testPanic(t *testing.T, m storage.Meta) {
	put(t, m, "a", "b")
	p := try(func() {
		_ = m.Update(context.Background(), func(tx storage.Tx) error {
			_ = meddle(tx)
			panic("by the test")
		})
	})
	if p == nil {
		t.Error("Update: a panic in fn does not reach the caller")
	}
	if try(func() { _ = m.View(context.Background(), func(storage.Tx) error { panic("by the test") }) }) == nil {
		t.Error("View: a panic in fn does not reach the caller")
	}
	checkUnmeddled(t, m)
	put(t, m, "n/1")
	checkRow(t, m, "n/1", []byte("value of n/1"))
}
