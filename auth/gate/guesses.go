package gate

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/berth-registry/berth/storage"
)

// guesses are the counts of failed logins that several processes share, as rows of the
// store: one that limits by one process must limit as much by ten. Only failures are
// written, and that one was right who has failed before; for all others it is read only.
type guesses struct {
	meta storage.Meta
	now  func() time.Time

	mu      sync.Mutex
	waiting []*guess
	turn    sync.Mutex // held by who writes, for all who wait
}

const (
	// guessTime is how long the store may take.
	guessTime = 10 * time.Second
	// guessSweep is how often rows that say nothing any more are removed.
	guessSweep = time.Minute
	// guessesAtOnce is how many a transaction removes.
	guessesAtOnce = 500
)

// kinds is how many counts there are of an attempt: by account and client, by client, by
// account.
const kinds = 3

func guardOf(kind int) guard { return [kinds]guard{guardPair, guardClient, guardAccount}[kind] }

// guessKeys are the keys of an attempt's rows. An account may be a password that came
// into the wrong field: a row has a hash.
func guessKeys(account, client string) (keys [kinds]string) {
	for i, s := range []string{account + "\x00" + client, client, account} {
		sum := sha256.Sum256([]byte(s))
		keys[i] = "pca"[i:i+1] + string(sum[:16])
	}
	return keys
}

// guess is what is to be written of an attempt, and what came of it.
type guess struct {
	keys  [kinds]string
	right bool                 // otherwise it has failed
	rows  [kinds]storage.Guess // as they are now
	err   error
	done  bool
}

// read returns the rows of an attempt; those that are missing are zero.
func (g *guesses) read(ctx context.Context, keys [kinds]string) (rows [kinds]storage.Guess, err error) {
	ctx, cancel := context.WithTimeout(ctx, guessTime)
	defer cancel()
	err = g.meta.View(ctx, func(tx storage.Tx) (err error) {
		for i, key := range keys {
			if rows[i], err = getGuess(tx, key); err != nil {
				return err
			}
		}
		return nil
	})
	return rows, err
}

func getGuess(tx storage.Tx, key string) (storage.Guess, error) {
	row, err := storage.Guesses.Get(tx, []byte(key))
	if errors.Is(err, storage.ErrNotFound) {
		return storage.Guess{}, nil
	}
	return row, err
}

// write writes w, with what others wait to have written: they fail at the same time,
// and at the same rows.
func (g *guesses) write(ctx context.Context, w *guess) error {
	g.mu.Lock()
	g.waiting = append(g.waiting, w)
	g.mu.Unlock()
	g.turn.Lock()
	defer g.turn.Unlock()
	if w.done {
		return w.err
	}
	g.mu.Lock()
	all := g.waiting
	g.waiting = nil
	g.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guessTime)
	defer cancel()
	err := g.meta.Update(ctx, func(tx storage.Tx) error { return g.put(tx, all) })
	for _, one := range all {
		one.err, one.done = err, true
	}
	return err
}

// put writes guesses, one after the other.
func (g *guesses) put(tx storage.Tx, all []*guess) error {
	now, rows := g.now(), map[string]storage.Guess{}
	for _, w := range all {
		for _, key := range w.keys {
			if _, known := rows[key]; known {
				continue
			}
			row, err := getGuess(tx, key)
			if err != nil {
				return err
			}
			rows[key] = row
		}
		w.apply(now, rows)
	}
	for key, row := range rows {
		var err error
		if row == (storage.Guess{}) {
			err = storage.Guesses.Delete(tx, []byte(key))
		} else {
			err = storage.Guesses.Put(tx, []byte(key), row)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// apply changes the rows as the attempt has it.
func (w *guess) apply(now time.Time, rows map[string]storage.Guess) {
	for i, key := range w.keys {
		var c count
		c.learn(rows[key], now)
		switch {
		case !w.right:
			c.fail(now, guardOf(i))
		case i == 0:
			c = count{}
		}
		w.rows[i] = c.row(now, guardOf(i))
		rows[key] = w.rows[i]
	}
}

// learn sets the count to what a row says.
func (c *count) learn(row storage.Guess, now time.Time) {
	c.level, c.at, c.due = row.Level, row.At, row.Due
	if row == (storage.Guess{}) {
		c.at = now
	}
}

// row is the count as a row: none if it says nothing.
func (c *count) row(now time.Time, g guard) storage.Guess {
	c.decay(now, g)
	until := c.at.Add(time.Duration(c.level * float64(g.forget)))
	if c.due.After(until) {
		until = c.due
	}
	if !until.After(now) {
		return storage.Guess{}
	}
	return storage.Guess{Level: c.level, At: c.at, Due: c.due, Until: until}
}

// sweep removes rows that say nothing any more.
func (g *guesses) sweep(ctx context.Context) error {
	now, old := g.now(), [][]byte(nil)
	err := g.meta.View(ctx, func(tx storage.Tx) error {
		old = nil
		for e, err := range storage.Guesses.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			if e.Value.Until.Before(now) {
				old = append(old, slices.Clone(e.Key))
			}
		}
		return nil
	})
	for keys := range slices.Chunk(old, guessesAtOnce) {
		if err != nil {
			break
		}
		err = g.meta.Update(ctx, func(tx storage.Tx) error {
			for _, key := range keys {
				row, err := getGuess(tx, string(key))
				if err == nil && row.Until.Before(now) {
					err = storage.Guesses.Delete(tx, key)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return err
}
