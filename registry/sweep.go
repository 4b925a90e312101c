package registry

import (
	"context"
	"time"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/lease"
)

const (
	// sweepBatch is how many expired sessions are removed in one transaction.
	sweepBatch = 256
	// keepEnded is how long it is remembered that a session has ended, so that a
	// client that missed the answer gets it again.
	keepEnded = time.Hour
)

// sweepAlone has one process do sweepForever.
func (l *Local) sweepAlone(ctx context.Context) {
	lease.Run(ctx, l.meta, "sweep", lease.Options{Log: l.log}, l.sweepForever)
}

// sweepForever removes expired upload sessions, at once and then again and
// again, often enough that none outlives its time by much.
func (l *Local) sweepForever(ctx context.Context) {
	for {
		if err := l.sweep(ctx); err != nil && ctx.Err() == nil {
			l.log.WarnContext(ctx, "cannot clear expired uploads; will try again", "error", err)
		}
		pause := min(max(l.uploadExpiry()/4, time.Second), 10*time.Minute)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// sweep removes the rows and stages of sessions that nobody has written to for
// the time of expiry, and stages that have no session: of pushes in one request
// that were cut short by a crash.
func (l *Local) sweep(ctx context.Context) error {
	now := time.Now()
	cutoff := now.Add(-l.uploadExpiry())
	for {
		n, err := l.sweepRows(ctx, cutoff, now.Add(-min(keepEnded, l.uploadExpiry())))
		if err != nil {
			return err
		}
		if n < sweepBatch {
			break
		}
	}
	return l.sweepStages(ctx, cutoff)
}

// sweepRows removes up to sweepBatch rows, of sessions last written to before
// cutoff or ended before ended, and returns how many.
func (l *Local) sweepRows(ctx context.Context, cutoff, ended time.Time) (int, error) {
	var expired [][]byte
	err := l.meta.Update(ctx, func(tx storage.Tx) error {
		expired = expired[:0]
		var open int64
		for e, err := range storage.Uploads.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			if len(expired) == sweepBatch || string(e.Key[:8]) > storage.NumberPart(ended.UnixNano()) {
				break // sessions are in the order of their beginning
			}
			isOpen := e.Value.State == storage.UploadOpen
			if isOpen && e.Value.Updated.After(cutoff) || e.Value.Updated.After(ended) {
				continue
			}
			expired = append(expired, append([]byte(nil), e.Key...))
			if isOpen {
				open++
			}
		}
		for _, key := range expired {
			if err := storage.Uploads.Delete(tx, key); err != nil {
				return err
			}
		}
		if open == 0 {
			return nil
		}
		return storage.Add(tx, storage.CountUploads, -open)
	})
	return len(expired), err
}

// sweepStages discards stages that nobody has written to since cutoff. Those of
// the sessions above are among them, as their last write was before that.
func (l *Local) sweepStages(ctx context.Context, cutoff time.Time) error {
	for s, err := range l.blobs.Stages(ctx) {
		if err != nil {
			return err
		}
		if s.Modified.After(cutoff) {
			continue
		}
		leave, ok := l.sessions.tryEnter(s.ID)
		if !ok {
			continue // somebody is waiting for a slow client
		}
		used, err := l.isWritten(ctx, s.ID, cutoff)
		if err == nil && !used {
			err = l.blobs.Discard(ctx, s.ID)
		}
		leave()
		if err != nil {
			return err
		}
	}
	return nil
}

// isWritten says whether a stage is that of a session that another process writes to, or
// has written to since a time.
func (l *Local) isWritten(ctx context.Context, stage string, since time.Time) (used bool, err error) {
	row, ok := uploadRowOf(stage)
	if !ok || !l.shared() {
		return false, nil
	}
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		session, err := storage.Uploads.Get(tx, row)
		if isNotFound(err) {
			used = false
			return nil
		}
		used = session.State == storage.UploadOpen && session.Updated.After(since)
		return err
	})
	return used, err
}
