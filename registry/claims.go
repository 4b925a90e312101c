package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Where several processes share the metadata, a writer of an upload session also has to
// have its row, which says who writes, and is renewed while that one does. A writer that
// arrives in another process asks for it there, and waits until the first one has saved
// what it received and let go of it, or has not renewed it for sessionTime, as time is
// measured here: clocks need not agree. What a writer writes to the row it writes only
// if it is still the one that the row names, and to the stage only while it knows that
// it is, or has asked again.

const (
	// sessionTime is how long a writer is waited for that gives no sign of life.
	sessionTime = 15 * time.Second
	// sessionLook is how often a writer looks whether somebody else wants to write.
	sessionLook = time.Second
	// sessionPause is how long it is until somebody who waits looks again.
	sessionPause = 100 * time.Millisecond
	// sessionWait is how long it waits at most.
	sessionWait = 40 * time.Second
)

var (
	errTaken   = ErrUnavailable.With("another request has taken the upload session over; ask how far it is")
	errWritten = ErrUnavailable.With("another request writes to the upload session and does not end; try again")
)

// claim is a session's row in the hands of its one writer in all processes.
type claim struct {
	local  *Local
	id     uploadID
	writer string // what the row calls this writer

	mu      sync.Mutex
	renewed time.Time   // when the row was written last, or earlier
	body    Interrupter // to be interrupted when somebody else wants to write; or nil
	lost    bool
	ended   bool // the row names this writer no more, because it said so

	stop context.CancelFunc
	done sync.WaitGroup
}

// claimUpload has the caller become the one writer of a session, and returns its row. An
// ended session has no writer.
func (l *Local) claimUpload(ctx context.Context, id uploadID, body io.Reader) (*claim, storage.Upload, error) {
	var seen storage.Upload
	var since time.Time // when it was first seen as it is
	for end := time.Now().Add(sessionWait); ; {
		row, err := l.uploadRow(ctx, id)
		if err != nil || row.State != storage.UploadOpen {
			return nil, row, err
		}
		now := time.Now()
		if row.Writer != seen.Writer || row.Beat != seen.Beat || since.IsZero() {
			seen, since = row, now
		}
		dead := now.Sub(since) >= sessionTime || now.Sub(row.Updated) >= sessionTime+2*clockSkew
		if row.Writer == "" || dead {
			c := &claim{local: l, id: id, writer: rand.Text(), renewed: now}
			if row, err = c.take(ctx, row); !errors.Is(err, errTaken) {
				if err == nil {
					c.begin(ctx, body)
				}
				return c, row, err
			}
			continue
		}
		if !row.Wanted {
			if err := l.wantUpload(ctx, id, row.Writer); err != nil {
				return nil, row, err
			}
		}
		if now.After(end) {
			return nil, row, errWritten
		}
		select {
		case <-ctx.Done():
			return nil, row, ctx.Err()
		case <-time.After(sessionPause):
		}
	}
}

// take writes the writer into the row, if that is still as it was seen.
func (c *claim) take(ctx context.Context, seen storage.Upload) (row storage.Upload, err error) {
	err = c.local.meta.Update(ctx, func(tx storage.Tx) error {
		row, err = storage.Uploads.Get(tx, c.id.row)
		known := err == nil
		if err != nil && !isNotFound(err) {
			return err
		}
		if row.State != storage.UploadOpen || row.Writer != seen.Writer || row.Beat != seen.Beat {
			return errTaken
		}
		if !known {
			if err := storage.Add(tx, storage.CountUploads, 1); err != nil {
				return err
			}
		}
		row.Writer, row.Beat, row.Wanted, row.Updated = c.writer, row.Beat+1, false, time.Now()
		return storage.Uploads.Put(tx, c.id.row, row)
	})
	return row, err
}

// takesOver says whether the row tells of a writer before this one, which may have left
// a stage behind that it did not live to tell of.
func (c *claim) takesOver(row storage.Upload) bool { return c != nil && row.Beat > 1 }

// wantUpload asks the writer of a session to let go of it.
func (l *Local) wantUpload(ctx context.Context, id uploadID, writer string) error {
	return l.meta.Update(ctx, func(tx storage.Tx) error {
		row, err := storage.Uploads.Get(tx, id.row)
		if isNotFound(err) || err == nil && (row.Writer != writer || row.Wanted) {
			return nil
		}
		if err != nil {
			return err
		}
		row.Wanted = true
		return storage.Uploads.Put(tx, id.row, row)
	})
}

// begin renews the row until end.
func (c *claim) begin(ctx context.Context, body io.Reader) {
	c.body, _ = body.(Interrupter)
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.done.Go(func() {
		ticker := time.NewTicker(sessionLook)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				c.look(ctx)
			}
		}
	})
}

// end stops to renew the row, and lets go of it, unless that is done already.
func (c *claim) end(ctx context.Context) {
	c.stop()
	c.done.Wait()
	c.mu.Lock()
	ended := c.ended || c.lost
	c.mu.Unlock()
	if ended {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sessionTime)
	defer cancel()
	if err := c.local.meta.Update(ctx, c.letGo); err != nil { // it is as if the process had died
		c.local.log.WarnContext(ctx, "cannot let go of an upload session; who goes on with it has to wait", "error", err)
	}
}

// letGo has the row name nobody. One without a byte is removed.
func (c *claim) letGo(tx storage.Tx) error {
	row, err := storage.Uploads.Get(tx, c.id.row)
	if isNotFound(err) || err == nil && row.Writer != c.writer {
		return nil
	}
	if err != nil {
		return err
	}
	if row.Size == 0 && row.State == storage.UploadOpen {
		return errors.Join(storage.Uploads.Delete(tx, c.id.row), storage.Add(tx, storage.CountUploads, -1))
	}
	row.Writer, row.Wanted = "", false
	return storage.Uploads.Put(tx, c.id.row, row)
}

// look renews the row now and then, and interrupts the body when somebody else wants to
// write, or writes already.
func (c *claim) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sessionTime)
	defer cancel()
	var row storage.Upload
	err := c.local.meta.View(ctx, func(tx storage.Tx) (err error) {
		row, err = storage.Uploads.Get(tx, c.id.row)
		return err
	})
	if err != nil && !isNotFound(err) {
		return // before it writes again it asks
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost = c.lost || !c.ended && row.Writer != c.writer; (c.lost || row.Wanted) && c.body != nil {
		c.body.Interrupt()
		c.body = nil
	}
	if !c.lost && !c.ended && time.Since(c.renewed) >= sessionTime/3 {
		_ = c.renew(ctx) // before it writes again it tries again
	}
}

// received has nobody interrupt the body any more, which is read.
func (c *claim) received() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.body = nil
}

// ensure fails unless nobody else can be writing to the session for some time from now.
func (c *claim) ensure(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.lost:
		return errTaken
	case time.Since(c.renewed) < sessionTime*2/3:
		return nil
	}
	return c.renew(ctx)
}

// renew writes the row. The caller has the lock.
func (c *claim) renew(ctx context.Context) error {
	begin := time.Now()
	err := c.local.meta.Update(ctx, func(tx storage.Tx) error {
		row, err := storage.Uploads.Get(tx, c.id.row)
		if isNotFound(err) || err == nil && row.Writer != c.writer {
			return errTaken
		}
		if err != nil {
			return err
		}
		row.Beat++
		row.Updated = time.Now()
		return storage.Uploads.Put(tx, c.id.row, row)
	})
	if err == nil {
		c.renewed = begin
	}
	c.lost = errors.Is(err, errTaken)
	return err
}

// last runs fn, whose transaction has the row name this writer no more if it succeeds.
func (c *claim) last(fn func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := fn()
	c.ended = err == nil
	return err
}

// isMine fails unless a row names this writer. It is asked in the transaction that
// changes the row.
func (c *claim) isMine(row storage.Upload) error {
	if c != nil && row.Writer != c.writer {
		return errTaken
	}
	return nil
}

// claimed is the stage of a session with a claim.
func (c *claim) claimed(ctx context.Context, s storage.Stage) storage.Stage {
	if c == nil || s == nil {
		return s
	}
	ctx = context.WithoutCancel(ctx)
	return &claimedStage{s, func() error { return c.ensure(ctx) }}
}

// claimedStage is the stage of a session that others may come to write to.
type claimedStage struct {
	storage.Stage
	ensure func() error
}

func (s *claimedStage) Write(p []byte) (int, error) {
	if err := s.ensure(); err != nil {
		return 0, err
	}
	return s.Stage.Write(p)
}

func (s *claimedStage) Sync() error {
	if err := s.ensure(); err != nil {
		return err
	}
	return s.Stage.Sync()
}

func (s *claimedStage) Commit(d digest.Digest) error {
	if err := s.ensure(); err != nil {
		return err
	}
	return s.Stage.Commit(d)
}

// Close leaves a stage alone that somebody else may write to now: to close it can mean
// to write down what it holds.
func (s *claimedStage) Close() error {
	if err := s.ensure(); err != nil {
		return err
	}
	return s.Stage.Close()
}
