package storagetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/berth-registry/berth/storage"
)

// add adds delta to the number in a row.
func add(tx storage.Tx, key string, delta int64) error {
	n, err := number(tx, key)
	if err != nil {
		return err
	}
	return tx.Put(table, []byte(key), binary.BigEndian.AppendUint64(nil, uint64(n+delta)))
}

func number(tx storage.Tx, key string) (int64, error) {
	b, err := tx.Get(table, []byte(key))
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case len(b) != 8:
		return 0, fmt.Errorf("row %q has %d bytes, want 8", key, len(b))
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

func checkNumber(t *testing.T, m storage.Meta, key string, want int64) {
	t.Helper()
	view(t, m, func(tx storage.Tx) error {
		got, err := number(tx, key)
		if err == nil && got != want {
			err = fmt.Errorf("row %q counts %d, want %d", key, got, want)
		}
		return err
	})
}

// atOnce runs f for each i below n, all at once, and reports their errors.
func atOnce(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f(i); err != nil {
				t.Errorf("goroutine %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// testCounters checks that no update is lost when many run at once.
func testCounters(t *testing.T, m storage.Meta) {
	const workers, each = 32, 25
	atOnce(t, workers, func(i int) error {
		own := fmt.Sprintf("n/own/%d", i)
		for range each {
			err := m.Update(context.Background(), func(tx storage.Tx) error {
				return errors.Join(add(tx, "n/all", 1), add(tx, own, 1))
			})
			if err != nil {
				return err
			}
			// Update has returned, so a new snapshot has its change.
			err = m.View(context.Background(), func(tx storage.Tx) error {
				n, err := number(tx, own)
				if err == nil && n == 0 {
					err = errors.New("own count is 0 after an update")
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	checkNumber(t, m, "n/all", workers*each)
	for i := range workers {
		checkNumber(t, m, fmt.Sprintf("n/own/%d", i), each)
	}
}

// testRollbackAmongOthers checks that a transaction that fails takes none with
// it that runs at the same time, in one commit with it perhaps.
func testRollbackAmongOthers(t *testing.T, m storage.Meta) {
	put(t, m, "a", "b")
	const workers, each = 24, 20
	atOnce(t, workers, func(i int) error {
		for j := range each {
			fail := (i+j)%3 == 0
			err := m.Update(context.Background(), func(tx storage.Tx) error {
				if err := add(tx, "n/all", 1); err != nil || !fail {
					return err
				}
				return errors.Join(meddle(tx), errRefused)
			})
			if fail && !errors.Is(err, errRefused) || !fail && err != nil {
				return fmt.Errorf("Update that fails (%v): error %w", fail, err)
			}
		}
		return nil
	})
	var want int64
	for i := range workers {
		for j := range each {
			if (i+j)%3 != 0 {
				want++
			}
		}
	}
	checkNumber(t, m, "n/all", want)
	checkUnmeddled(t, m)
}

// testPanicAmongOthers checks that a panic reaches the caller that caused it and
// nobody else.
func testPanicAmongOthers(t *testing.T, m storage.Meta) {
	put(t, m, "a", "b")
	const workers, each = 16, 10
	atOnce(t, workers, func(i int) error {
		for range each {
			var err error
			p := try(func() {
				err = m.Update(context.Background(), func(tx storage.Tx) error {
					if err := add(tx, "n/all", 1); err != nil || i%4 != 0 {
						return err
					}
					_ = meddle(tx)
					panic("by the test")
				})
			})
			if (p != nil) != (i%4 == 0) || err != nil {
				return fmt.Errorf("Update panics with %v and returns %w", p, err)
			}
		}
		return nil
	})
	checkNumber(t, m, "n/all", workers*each*3/4)
	checkUnmeddled(t, m)
}

// testSnapshot checks that a view does not see what is committed while it runs.
func testSnapshot(t *testing.T, m storage.Meta) {
	put(t, m, "a", "b")
	updated := make(chan struct{})
	view(t, m, func(tx storage.Tx) error {
		go func() {
			defer close(updated)
			if err := m.Update(context.Background(), meddle); err != nil {
				t.Errorf("Update: %v", err)
			}
		}()
		// A driver may make the update wait for the view.
		select {
		case <-updated:
		case <-time.After(time.Second):
		}
		keys, err := scan(tx, nil, nil)
		if err == nil && len(keys) != 2 {
			err = fmt.Errorf("scan yields %q after a commit", keys)
		}
		return errors.Join(err,
			expect(tx, table, "a", []byte("value of a")),
			expect(tx, table, "b", []byte("value of b")),
			expect(tx, table, "new", nil),
			expect(tx, other, "new", nil),
		)
	})
	within(t, "the update", updated)
	checkRow(t, m, "a", []byte("meddled"))
	checkRow(t, m, "b", nil)
}

// testInvariant checks that no view and no update ever sees half of another.
func testInvariant(t *testing.T, m storage.Meta) {
	balanced := func(tx storage.Tx) error {
		a, errA := number(tx, "n/a")
		b, errB := number(tx, "n/b")
		if err := errors.Join(errA, errB); err != nil {
			return err
		}
		if a+b != 0 {
			return fmt.Errorf("rows that always sum up to 0 are %d and %d", a, b)
		}
		return nil
	}
	const writers, readers, each = 4, 4, 100
	atOnce(t, writers+readers, func(i int) error {
		for j := range each {
			var err error
			if i >= writers {
				err = m.View(context.Background(), balanced)
			} else {
				err = m.Update(context.Background(), func(tx storage.Tx) error {
					return errors.Join(balanced(tx), add(tx, "n/a", int64(j)), add(tx, "n/b", -int64(j)))
				})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func testLargeAtOnce(t *testing.T, m storage.Meta) {
	const workers, size = 8, 4 << 20
	atOnce(t, workers, func(i int) error {
		key := fmt.Appendf(nil, "n/%d", i)
		value := noise(size, uint64(i))
		return m.Update(context.Background(), func(tx storage.Tx) error { return tx.Put(table, key, value) })
	})
	for i := range workers {
		checkRow(t, m, fmt.Sprintf("n/%d", i), noise(size, uint64(i)))
	}
}

func testClosed(t *testing.T, m storage.Meta) {
	put(t, m, "a")
	if err := m.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	ran := func(storage.Tx) error { t.Error("fn runs on a closed store"); return nil }
	if err := m.View(context.Background(), ran); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("View: error %v, want ErrClosed", err)
	}
	if err := m.Update(context.Background(), ran); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("Update: error %v, want ErrClosed", err)
	}
}

// testCloseWaits checks that Close lets transactions end, and that those that
// come too late fail with ErrClosed.
func testCloseWaits(t *testing.T, m storage.Meta) {
	put(t, m, "a", "b")
	inView, closed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(closed)
		<-inView
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for isClosed := false; ; {
				select {
				case <-closed:
					isClosed = true
				default:
				}
				err := m.Update(context.Background(), func(tx storage.Tx) error { return add(tx, "n/all", 1) })
				switch {
				case errors.Is(err, storage.ErrClosed):
					return
				case err != nil || isClosed:
					t.Errorf("Update while the store closes: error %v, want none or ErrClosed", err)
					return
				}
			}
		})
	}
	err := m.View(context.Background(), func(tx storage.Tx) error {
		close(inView)
		select {
		case <-closed:
			return errors.New("Close has returned")
		case <-time.After(50 * time.Millisecond):
		}
		return expect(tx, table, "a", []byte("value of a"))
	})
	if err != nil {
		t.Errorf("View while the store closes: %v", err)
	}
	within(t, "Close", closed)
	wg.Wait()
}
