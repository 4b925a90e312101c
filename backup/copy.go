package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/storage"
)

const (
	defaultJobs = 4
	// tellEvery is the time between two tellings of the progress.
	tellEvery = 200 * time.Millisecond
)

// copier copies blobs, several at a time.
type copier struct {
	jobs int
	tell func(Progress)

	mu   sync.Mutex
	res  *Result
	now  Progress
	told time.Time
	bad  map[digest.Digest]storage.DamageKind // blobs that could not be copied
}

func newCopier(res *Result, jobs int, tell func(Progress), sums trailer) *copier {
	if jobs <= 0 {
		jobs = defaultJobs
	}
	if tell == nil {
		tell = func(Progress) {}
	}
	return &copier{
		jobs: jobs, tell: tell, res: res, bad: map[digest.Digest]storage.DamageKind{},
		now: Progress{TotalBlobs: sums.Blobs, TotalBytes: sums.Bytes},
	}
}

// each calls fn with the blobs of the snapshot in the spool, several at a time. first
// is called before it, with one after the other in their order; it may be nil.
func (c *copier) each(ctx context.Context, s *spool, first func(stored) (present bool, err error), fn func(context.Context, stored, bool) error) error {
	if _, err := s.rewind(); err != nil {
		return err
	}
	snapshot, err := readSnapshot(s)
	if err != nil {
		return err
	}
	defer snapshot.Close()
	c.say(nil, true)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.jobs)
	err = snapshot.eachBlob(func(b stored) (err error) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		present := false
		if first != nil {
			if present, err = first(b); err != nil {
				return err
			}
		}
		group.Go(func() error { return fn(ctx, b, present) })
		return nil
	})
	if failed := group.Wait(); failed != nil {
		return failed
	}
	c.say(nil, true)
	return err
}

// toTarget copies the blobs that a target does not have.
func (c *copier) toTarget(ctx context.Context, from storage.Blobs, to Target, s *spool, verify bool) error {
	there := listBlobs(ctx, to)
	defer there.stop()
	return c.each(ctx, s, func(b stored) (bool, error) { return there.has(b.digest, b.size) },
		func(ctx context.Context, b stored, present bool) error {
			if present && verify {
				err := c.verify(b, func() (io.ReadCloser, error) { return to.Open(ctx, blobPath(b.digest)) })
				if err != nil && !isDamage(err) {
					return fmt.Errorf("read %s again: %w", b.digest, err)
				}
				present = err == nil
			}
			if present {
				c.present(b)
				return nil
			}
			return c.copy(b,
				func() (io.ReadCloser, error) { return from.Open(ctx, b.digest) },
				func(r io.Reader) error { return to.Put(ctx, blobPath(b.digest), r, b.size) })
		})
}

// toStore copies blobs from a target into a store. Those that are there are read.
func (c *copier) toStore(ctx context.Context, from Target, to storage.Blobs, s *spool) error {
	return c.each(ctx, s, nil, func(ctx context.Context, b stored, _ bool) error {
		err := c.verify(b, func() (io.ReadCloser, error) { return to.Open(ctx, b.digest) })
		if err == nil {
			c.present(b)
			return nil
		}
		if !isDamage(err) {
			return fmt.Errorf("read %s again: %w", b.digest, err)
		}
		return c.copy(b,
			func() (io.ReadCloser, error) { return from.Open(ctx, blobPath(b.digest)) },
			func(r io.Reader) error { return commit(ctx, to, b.digest, r) })
	})
}

// commit stores what r has as a blob.
func commit(ctx context.Context, blobs storage.Blobs, d digest.Digest, r io.Reader) error {
	id := "restore-" + d.Encoded()
	stage, err := blobs.Stage(ctx, id, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(stage, r)
	if err == nil {
		err = stage.Commit(d)
	}
	if cerr := stage.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = blobs.Discard(context.WithoutCancel(ctx), id) // what it would say is of no more use
	}
	return err
}

// verify reads a blob, and says what is wrong with it.
func (c *copier) verify(b stored, open func() (io.ReadCloser, error)) error {
	f, err := open()
	if err != nil {
		return err
	}
	r := newChecked(f, b)
	_, err = io.Copy(io.Discard, r)
	_ = f.Close() // it was only read
	return storage.Classify(err)
}

// copy copies a blob. If its bytes are damaged or missing, that is told, and no error.
func (c *copier) copy(b stored, open func() (io.ReadCloser, error), put func(io.Reader) error) error {
	f, err := open()
	if err == nil {
		r := newChecked(f, b)
		err = put(&metered{r: r, add: c.read})
		if failed := storage.Classify(r.failed()); failed != nil {
			err = failed
		} else if err != nil {
			_ = f.Close() // it was only read
			return fmt.Errorf("write %s: %w", b.digest, err)
		}
		c.read(r.left)
		_ = f.Close() // it was only read
	} else {
		c.read(b.size)
	}
	switch {
	case err == nil:
		c.done(func() { c.res.CopiedBlobs++; c.res.CopiedBytes += b.size }, nil)
	case isDamage(err):
		c.done(func() { c.res.Problems++; c.bad[b.digest] = damageKind(err) }, &Problem{b.digest, reason(err)})
	default:
		return fmt.Errorf("read %s: %w", b.digest, err)
	}
	return nil
}

// isDamage says that an error is about some bytes, and not about all there are.
func isDamage(err error) bool {
	return errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrUnreadable) || errors.Is(err, errBytes) || errors.Is(err, errSize)
}

func (c *copier) present(b stored) {
	c.read(b.size)
	c.done(func() { c.res.PresentBlobs++ }, nil)
}

func (c *copier) done(count func(), p *Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count()
	c.now.Blobs++
	c.sayLocked(p, p != nil)
}

func (c *copier) read(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.Bytes += n
	c.sayLocked(nil, false)
}

func (c *copier) say(p *Problem, always bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sayLocked(p, always)
}

func (c *copier) sayLocked(p *Problem, always bool) {
	if !always && time.Since(c.told) < tellEvery {
		return
	}
	c.told = time.Now()
	now := c.now
	now.Problem = p
	c.tell(now)
}

// metered tells how much is read.
type metered struct {
	r   io.Reader
	add func(int64)
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.add(int64(n))
	return n, err
}
