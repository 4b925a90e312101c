package mirroring

import (
	"context"
	"errors"
	"time"

	"github.com/berth-registry/berth/storage"
)

const (
	// leaseTime is how long a process that says nothing is taken to run a job.
	leaseTime = time.Minute
	// renewal is how often it says so, and how far it is.
	renewal = leaseTime / 4
	// endTime is how long it may take to write down how a run has ended.
	endTime = 10 * time.Second
)

// retries are how long after a run that has failed it is tried again, before its
// time.
func retries() []time.Duration {
	return []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// ErrRunning says that a job runs already.
var ErrRunning = errors.New("the job runs already")

var errLost = errors.New("another server has taken over the job: this one did not reach the store in time")

// held says whether a process that lives runs the job.
func (w *Worker) held(row storage.MirrorJob, now time.Time) bool {
	return row.Owner != "" && row.Until.After(now) && (!w.alone || row.Owner == w.owner)
}

// errNotDue says that a job was run by another, just when this process was about to.
var errNotDue = errors.New("the job is not due any more")

// take makes this process run the job, or fails with ErrRunning, or with errNotDue if
// it is to be run only when it is due.
func (w *Worker) take(ctx context.Context, j *Job, due bool) error {
	return w.meta.Update(ctx, func(tx storage.Tx) error {
		row, err := getRow(tx, j.Name)
		if err != nil {
			return err
		}
		now := w.now()
		if w.held(row, now) {
			return ErrRunning
		}
		if at := w.due(j, row, now); due && (at.IsZero() || at.After(now)) {
			return errNotDue
		}
		if row.Owner != "" {
			row.Last = row.Now
			row.Last.Outcome, row.Last.Reason = CutOff, "the server that ran it died"
		}
		row.Owner, row.Until, row.Again = w.owner, now.Add(leaseTime), time.Time{}
		row.Now = storage.MirrorRun{Began: now}
		return storage.MirrorJobs.Put(tx, storage.Key(j.Name), row)
	})
}

// renew says that this process still runs the job, and how far it is.
func (w *Worker) renew(ctx context.Context, name string, s RunStatus) error {
	return w.meta.Update(ctx, func(tx storage.Tx) error {
		row, err := getRow(tx, name)
		if err != nil {
			return err
		}
		if row.Owner != w.owner {
			return errLost
		}
		row.Until, row.Now = w.now().Add(leaseTime), s.row()
		return storage.MirrorJobs.Put(tx, storage.Key(name), row)
	})
}

// keep renews until ctx ends, and stops the run if it cannot.
func (w *Worker) keep(ctx context.Context, name string, status func() RunStatus, stop context.CancelCauseFunc) {
	ticker := time.NewTicker(renewal)
	defer ticker.Stop()
	last := w.now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := w.renew(ctx, name, status())
		switch {
		case err == nil:
			last = w.now()
		case errors.Is(err, errLost), w.now().Sub(last) > leaseTime-renewal:
			stop(errLost)
			return
		}
	}
}

// end writes down how a run has ended, unless another process has taken it over.
// again is when to run before its time; zero lets failures decide.
func (w *Worker) end(name string, s RunStatus, again time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	return w.meta.Update(ctx, func(tx storage.Tx) error {
		row, err := getRow(tx, name)
		if err != nil || row.Owner != w.owner {
			return err
		}
		row.Owner, row.Until, row.Now, row.Last, row.Again = "", time.Time{}, storage.MirrorRun{}, s.row(), again
		switch wait := retries(); {
		case s.Outcome == Good:
			row.Good, row.Tries = s.Ended, 0
		case s.Outcome == Postponed: // not before the upstream says, and less and less often
			row.Again = later(again, s.Ended.Add(wait[min(row.Tries, len(wait)-1)]))
			row.Tries++
		case s.Outcome != Failed:
		case row.Tries < len(wait):
			row.Again = s.Ended.Add(wait[row.Tries])
			row.Tries++
		default:
			row.Tries = 0
		}
		return storage.MirrorJobs.Put(tx, storage.Key(name), row)
	})
}
