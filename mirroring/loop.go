package mirroring

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/berth-registry/berth/storage"
)

const (
	// lookAgain is how often it is looked whether a job is due: other processes run jobs, too.
	lookAgain = 30 * time.Second
	// atOnce is how many jobs run at once.
	atOnce = 4
)

// Run runs jobs when they are due, until ctx ends. What was due while no process ran
// is made up for once.
func (w *Worker) Run(ctx context.Context) {
	var runs sync.WaitGroup
	defer runs.Wait()
	room := make(chan struct{}, atOnce)
	for ctx.Err() == nil {
		due, next, err := w.look(ctx)
		if err != nil && ctx.Err() == nil {
			w.log.ErrorContext(ctx, "cannot find out which images are to be mirrored", "error", err)
		}
		for _, j := range due {
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return
			}
			runs.Go(func() {
				defer func() { <-room }()
				err := w.run(ctx, j, true, nil)
				ended := (*RunError)(nil)
				switch {
				case err == nil, errors.As(err, &ended):
					notify(w.changed)
				case !errors.Is(err, ErrRunning) && !errors.Is(err, errNotDue) && ctx.Err() == nil: // it is tried again when it is looked again
					w.log.ErrorContext(ctx, "images cannot be mirrored", "job", j.Name, "error", err)
				}
			})
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-w.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// look returns the jobs that are due, and after how long to look again.
func (w *Worker) look(ctx context.Context) (due []Job, again time.Duration, err error) {
	jobs, _ := w.all()
	now := w.now()
	again = lookAgain
	err = w.meta.View(ctx, func(tx storage.Tx) error {
		due, again = nil, lookAgain
		for _, j := range jobs {
			row, err := getRow(tx, j.Name)
			if err != nil {
				return err
			}
			if _, running := w.live(j.Name); running || w.held(row, now) {
				continue
			}
			switch at := w.due(&j, row, now); {
			case at.IsZero():
			case at.After(now):
				again = min(again, at.Sub(now))
			default:
				due = append(due, j)
			}
		}
		return nil
	})
	return due, again, err
}

// due is when a job that does not run is to run next; zero for never.
func (w *Worker) due(j *Job, row storage.MirrorJob, now time.Time) time.Time {
	if row.Owner != "" {
		return now // its run was cut off
	}
	var at time.Time
	switch {
	case !row.Last.Began.IsZero():
		at = j.schedule.next(row.Last.Began)
	case j.schedule.every > 0:
		at = now
	default:
		w.mu.Lock()
		at = j.schedule.next(w.since[j.Name])
		w.mu.Unlock()
	}
	if !row.Again.IsZero() && (at.IsZero() || row.Again.Before(at) || row.Last.Outcome == Postponed) {
		at = row.Again
	}
	return at
}
