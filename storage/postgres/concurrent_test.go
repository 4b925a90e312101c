package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

// pair opens one schema twice, as two servers do.
func pair(t *testing.T) [2]*Meta {
	t.Helper()
	o := Options{DSN: postgrestest.Shared(t), Schema: newSchema(), MaxConns: 6}
	return [2]*Meta{openMeta(t, o), openMeta(t, o)}
}

// atOnce runs f for each i below n, all at once.
func atOnce(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := f(i); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	all.Wait()
}

func number(tx storage.Tx, key string) (int64, error) {
	b, err := tx.Get(table, []byte(key))
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

func setNumber(tx storage.Tx, key string, n int64) error {
	return tx.Put(table, []byte(key), binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// TestBank moves money between accounts, by two servers: none comes or goes, no account
// falls below nothing, and whoever looks sees it all.
func TestBank(t *testing.T) {
	const accounts, each, workers, moves = 12, 100, 8, 60
	banks := pair(t)
	account := func(i int) string { return fmt.Sprintf("account/%02d", i) }
	must(t, "open accounts", banks[0].Update(t.Context(), func(tx storage.Tx) error {
		var all error
		for i := range accounts {
			all = errors.Join(all, setNumber(tx, account(i), each))
		}
		return all
	}))
	sum := func(tx storage.Tx) error {
		var total int64
		for row, err := range tx.Scan(table, []byte("account/"), nil) {
			if err != nil {
				return err
			}
			n := int64(binary.BigEndian.Uint64(row.Value))
			if total += n; n < 0 {
				return fmt.Errorf("%s holds %d", row.Key, n)
			}
		}
		if total != accounts*each {
			return fmt.Errorf("all hold %d, want %d", total, accounts*each)
		}
		return nil
	}
	atOnce(t, workers+2, func(i int) error {
		for range moves {
			if i >= workers {
				if err := banks[i%2].View(t.Context(), sum); err != nil {
					return err
				}
				continue
			}
			from, to, amount := account(rand.IntN(accounts)), account(rand.IntN(accounts)), rand.Int64N(60)
			if from == to {
				continue
			}
			err := banks[i%2].Update(t.Context(), func(tx storage.Tx) error {
				a, err1 := number(tx, from)
				b, err2 := number(tx, to)
				if err := errors.Join(err1, err2); err != nil || a < amount {
					return err
				}
				return errors.Join(setNumber(tx, from, a-amount), setNumber(tx, to, b+amount))
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	must(t, "count", banks[1].View(t.Context(), sum))
	retries := banks[0].Stats().Retries + banks[1].Stats().Retries
	t.Logf("%d retries of %d moves: %+v %+v", retries, workers*moves, banks[0].Stats(), banks[1].Stats())
	if retries == 0 {
		t.Error("nobody met anybody, or nobody counts it")
	}
}

// TestWriteSkew has two doctors leave who both see that the other one stays, as
// snapshots alone would let them.
func TestWriteSkew(t *testing.T) {
	wards := pair(t)
	for round := range 40 {
		doctor := func(i int) string { return fmt.Sprintf("%d/doctor/%d", round, i) }
		must(t, "come", wards[0].Update(t.Context(), func(tx storage.Tx) error {
			return errors.Join(setNumber(tx, doctor(0), 1), setNumber(tx, doctor(1), 1))
		}))
		atOnce(t, 2, func(i int) error {
			return wards[i].Update(t.Context(), func(tx storage.Tx) error {
				other, err := number(tx, doctor(1-i))
				if err != nil || other == 0 {
					return err // I stay
				}
				return setNumber(tx, doctor(i), 0)
			})
		})
		must(t, "look", wards[round%2].View(t.Context(), func(tx storage.Tx) error {
			a, err1 := number(tx, doctor(0))
			b, err2 := number(tx, doctor(1))
			if a+b != 1 {
				t.Errorf("%d doctors are left, want 1", a+b)
			}
			return errors.Join(err1, err2)
		}))
	}
}

// TestUnique has many put a row that is not there, found by a Get or by a Scan: one
// of them finds that it is the first.
func TestUnique(t *testing.T) {
	sides := pair(t)
	for round := range 15 {
		prefix := fmt.Sprintf("%d/", round)
		var mu sync.Mutex
		won := 0
		atOnce(t, 6, func(i int) error {
			first := false
			err := sides[i%2].Update(t.Context(), func(tx storage.Tx) error {
				first = true
				// A name of one's own, so that no two put the same row.
				for _, err := range tx.Scan(table, []byte(prefix), nil) {
					if first = false; err != nil {
						return err
					}
				}
				if !first {
					return nil
				}
				return tx.Put(table, fmt.Appendf(nil, "%s%d", prefix, i), nil)
			})
			mu.Lock()
			defer mu.Unlock()
			if first && err == nil {
				won++
			}
			return err
		})
		if won != 1 {
			t.Errorf("%d were the first", won)
		}
	}
}

// TestStraggler has a slow transaction read and write what many quick ones write all
// the time: it gets through.
func TestStraggler(t *testing.T) {
	sides := pair(t)
	ctx, stop := context.WithCancel(t.Context())
	var quick sync.WaitGroup
	for i := range 4 {
		quick.Go(func() {
			for ctx.Err() == nil {
				err := sides[1].Update(ctx, func(tx storage.Tx) error {
					key := fmt.Sprintf("hot/%d", i)
					n, err := number(tx, key)
					return errors.Join(err, setNumber(tx, key, n+1))
				})
				if err != nil && ctx.Err() == nil {
					t.Errorf("a quick one: %v", err)
				}
			}
		})
	}
	runs := 0
	err := sides[0].Update(t.Context(), func(tx storage.Tx) error {
		runs++
		for i := range 4 {
			key := fmt.Sprintf("hot/%d", i)
			n, err := number(tx, key)
			if err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond) // it is slow
			if err := setNumber(tx, key, n); err != nil {
				return err
			}
		}
		return nil
	})
	stop()
	quick.Wait()
	must(t, "Update", err)
	t.Logf("%d runs, %+v", runs, sides[0].Stats())
	if s := sides[0].Stats(); runs > together+2 || runs > together && s.Alone == 0 {
		t.Errorf("%d runs: %+v", runs, s)
	}
}

// TestAddDoesNotConflict counts in open transactions of both servers at once, which
// neither wait for each other nor are tried again; and so while they are folded.
func TestAddDoesNotConflict(t *testing.T) {
	sides := pair(t)
	inside, proceed := make(chan struct{}), make(chan struct{})
	const n = 6
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			runs := 0
			err := sides[i%2].Update(t.Context(), func(tx storage.Tx) error {
				runs++
				if _, err := storage.Next(tx, storage.CountMoves); err != nil {
					return err
				}
				if err := storage.Add(tx, storage.CountBytes, 1); err != nil {
					return err
				}
				inside <- struct{}{}
				<-proceed
				return nil
			})
			if err != nil || runs != 1 {
				t.Errorf("Update: %v, %d runs", err, runs)
			}
		})
	}
	for range n {
		<-inside
	}
	must(t, "an Add beside", sides[0].Update(t.Context(), func(tx storage.Tx) error { return storage.Add(tx, storage.CountBytes, 10) }))
	must(t, "fold", sides[0].fold(t.Context()))
	close(proceed)
	all.Wait()
	must(t, "fold", sides[1].fold(t.Context()))
	for _, m := range sides {
		if s := m.Stats(); s.Retries > 0 {
			t.Errorf("%+v", s)
		}
		must(t, "View", m.View(t.Context(), func(tx storage.Tx) error {
			n, err := storage.Total(tx, storage.CountBytes)
			if n != 16 {
				t.Errorf("Total = %d, want 16", n)
			}
			return err
		}))
	}
}

// TestFold folds while others add, set and read.
func TestFold(t *testing.T) {
	sides := pair(t)
	ctx, stop := context.WithCancel(t.Context())
	var folding sync.WaitGroup
	for _, m := range sides {
		folding.Go(func() {
			for ctx.Err() == nil {
				if err := m.fold(ctx); err != nil && ctx.Err() == nil && meaning(err) != conflict {
					t.Errorf("fold: %v", err)
				}
			}
		})
	}
	const workers, each = 4, 50
	atOnce(t, workers, func(i int) error {
		own := fmt.Sprint("own", i)
		for j := range int64(each) {
			m := sides[(i+int(j))%2]
			err := m.Update(t.Context(), func(tx storage.Tx) error {
				if err := storage.Add(tx, storage.CountBytes, 1); err != nil {
					return err
				}
				if j%10 == 9 {
					return storage.Counters.Put(tx, storage.Key(own), storage.Counter{N: j + 1})
				}
				return storage.Add(tx, own, 1)
			})
			if err == nil {
				err = m.View(t.Context(), func(tx storage.Tx) error {
					if n, err := storage.Total(tx, own); err != nil || n != j+1 {
						return fmt.Errorf("Total = %d, %w, want %d", n, err, j+1)
					}
					return nil
				})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	stop()
	folding.Wait()
	must(t, "View", sides[0].View(t.Context(), func(tx storage.Tx) error {
		n, err := storage.Total(tx, storage.CountBytes)
		if n != workers*each {
			t.Errorf("Total = %d, want %d", n, workers*each)
		}
		return err
	}))
	soon(t, "no deltas are left", func() bool { // once the last fold has ended that was canceled
		must(t, "fold", sides[0].fold(t.Context()))
		var left int
		must(t, "count deltas", sides[0].side.QueryRow(t.Context(), "SELECT count(*) FROM "+quoted(sides[0].schema)+".counter_deltas").Scan(&left))
		return left == 0
	})
}

// TestTakeApart takes rows in two transactions that run at once: neither gets those of
// the other one, and those that were taken come back if nothing became of it.
func TestTakeApart(t *testing.T) {
	sides := pair(t)
	for i := range 10 {
		must(t, "put", putRow(sides[0], fmt.Sprintf("job/%d", i), "v"))
	}
	errUndone := errors.New("undone")
	take := func(m *Meta, inside func()) (keys []string) {
		err := m.Update(t.Context(), func(tx storage.Tx) error {
			rows, err := storage.Take(tx, table, []byte("job/"), nil, 4)
			if err != nil {
				return err
			}
			keys = nil
			for _, r := range rows {
				keys = append(keys, string(r.Key))
			}
			inside()
			return errUndone
		})
		if !errors.Is(err, errUndone) {
			t.Error(err)
		}
		return keys
	}
	var second, third []string
	first := take(sides[0], func() {
		second = take(sides[1], func() { third = take(sides[0], func() {}) })
	})
	if got, want := fmt.Sprint(first, second, third), "[job/0 job/1 job/2 job/3] [job/4 job/5 job/6 job/7] [job/8 job/9]"; got != want {
		t.Errorf("taken: %s, want %s", got, want)
	}
	if again := take(sides[1], func() {}); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("taken again: %s", again)
	}
}
