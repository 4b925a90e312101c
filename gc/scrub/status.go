package scrub

import (
	"context"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// Status is how the scrub is.
type Status struct {
	Round   storage.Scrub
	Running bool                   // a round goes on just now
	Next    time.Time              // when one begins; zero if nobody knows, or one goes on
	Blobs   int64                  // that are stored
	Bytes   int64                  // in them
	Count   int64                  // of damaged blobs
	Damaged []registry.DamagedBlob // the first of them
	Problem error                  // that a round has ended with which waits to go on; nil for none
}

// Status tells how the scrub is, whether or not Run runs, and of up to most damaged
// blobs.
func (s *Scrub) Status(ctx context.Context, most int) (st Status, err error) {
	err = s.meta.View(ctx, func(tx storage.Tx) (err error) {
		if st.Round, err = load(tx); err != nil {
			return err
		}
		if st.Blobs, err = storage.Total(tx, storage.CountBlobs); err != nil {
			return err
		}
		st.Bytes, err = storage.Total(tx, storage.CountBytes)
		return err
	})
	if err != nil {
		return st, err
	}
	s.mu.Lock()
	if st.Running, st.Problem = s.running, s.problem; st.Running {
		st.Round = s.state
	}
	interval := s.interval
	s.mu.Unlock()
	switch {
	case !st.Round.Began.IsZero() || !st.Round.Wanted.IsZero():
	case interval > 0 && !st.Round.Last.Began.IsZero():
		st.Next = st.Round.Last.Began.Add(interval)
	}
	for blob, err := range s.registry.Damaged(ctx) {
		if err != nil {
			return st, err
		}
		if len(st.Damaged) == most {
			break
		}
		st.Damaged = append(st.Damaged, blob)
	}
	st.Count, _, err = s.Counts(ctx)
	return st, err
}

// Read is how many bytes were read since the start.
func (s *Scrub) Read() int64 { return s.bytes.Load() }

// Counts returns how many blobs are damaged, and when the last round finished; zero
// if there was none.
func (s *Scrub) Counts(ctx context.Context) (damaged int64, finished time.Time, err error) {
	err = s.meta.View(ctx, func(tx storage.Tx) error {
		state, err := load(tx)
		damaged, finished = 0, state.Last.Finished
		if err != nil {
			return err
		}
		for _, err := range tx.Scan(storage.Damages.Name(), nil, nil) {
			if err != nil {
				return err
			}
			damaged++
		}
		return nil
	})
	return damaged, finished, err
}
