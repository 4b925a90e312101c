package mirroring

import (
	"context"
	"errors"
	"time"

	"github.com/berth-registry/berth/storage"
)

// Outcomes of a run.
const (
	Good        = "ok"
	Failed      = "failed"      // some of it, or all
	Postponed   = "postponed"   // the upstream is not to be asked for some time
	Interrupted = "interrupted" // by whoever has started it, or the end of the process
	CutOff      = "cut off"     // its process died
)

type (
	// Status is how a job is.
	Status struct {
		Name, Mirror, Schedule string
		Running                bool
		Now                    RunStatus // that goes on, if it is running
		Last                   RunStatus // that ended last; not begun if none did
		Good                   time.Time // end of the last run without a failure; zero for never
		Next                   time.Time // zero for never, or while it is running
	}
	// RunStatus is how far a run is, or how it has ended.
	RunStatus struct {
		Began    time.Time
		Ended    time.Time
		Outcome  string    // once it has ended
		Reason   string    // of an outcome that is not Good
		Waits    time.Time // until when the upstream is not asked; zero if it is
		Counts   Counts
		Failures []Failure // the first of them
	}
	// Counts count what a run has done.
	Counts struct {
		Repos     int64 // looked at
		Tags      int64 // that the job is about
		Unchanged int64 // of them
		Copied    int64 // of them
		Failed    int64 // of them, and repositories that could not be looked at
		Removed   int64 // tags
		Bytes     int64 // copied
	}
	// Failure is what went wrong with a tag or, if there is none, a repository.
	Failure struct {
		Repo   string // here
		Tag    string
		Reason string
	}
)

// maxFailures is how many failures of a run are written down.
const maxFailures = 100

func runStatus(row storage.MirrorRun) RunStatus {
	s := RunStatus{
		Began: row.Began, Ended: row.Ended, Outcome: row.Outcome, Reason: row.Reason, Waits: row.Waits, Counts: Counts(row.Counts),
	}
	for _, f := range row.Failures {
		s.Failures = append(s.Failures, Failure(f))
	}
	return s
}

func (s RunStatus) row() storage.MirrorRun {
	row := storage.MirrorRun{
		Began: s.Began, Ended: s.Ended, Outcome: s.Outcome, Reason: s.Reason, Waits: s.Waits, Counts: storage.MirrorCounts(s.Counts),
	}
	for _, f := range s.Failures {
		row.Failures = append(row.Failures, storage.MirrorFailure(f))
	}
	return row
}

// Status says how the jobs are, in their order.
func (w *Worker) Status(ctx context.Context) ([]Status, error) {
	jobs, _ := w.all()
	all := make([]Status, len(jobs))
	now := w.now()
	err := w.meta.View(ctx, func(tx storage.Tx) error {
		for i, j := range jobs {
			row, err := getRow(tx, j.Name)
			if err != nil {
				return err
			}
			all[i] = w.status(&j, row, now)
		}
		return nil
	})
	return all, err
}

func (w *Worker) status(j *Job, row storage.MirrorJob, now time.Time) Status {
	s := Status{Name: j.Name, Mirror: j.Mirror, Schedule: j.schedule.String(), Last: runStatus(row.Last), Good: row.Good}
	if live, ok := w.live(j.Name); ok {
		s.Running, s.Now = true, live
		return s
	}
	if w.held(row, now) {
		s.Running, s.Now = true, runStatus(row.Now)
		return s
	}
	if row.Owner != "" {
		s.Last = runStatus(row.Now)
		s.Last.Outcome, s.Last.Reason = CutOff, "the server that ran it died"
	}
	s.Next = w.due(j, row, now)
	return s
}

func getRow(tx storage.Tx, name string) (storage.MirrorJob, error) {
	row, err := storage.MirrorJobs.Get(tx, storage.Key(name))
	if errors.Is(err, storage.ErrNotFound) {
		return storage.MirrorJob{}, nil
	}
	return row, err
}
