package migrating

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/storage"
)

// blob is a blob that the source's metadata tells of.
type blob struct {
	digest digest.Digest
	size   int64 // bytes
}

// blobsOf lists the blobs that a store's metadata tells of, in the order of their
// digests. Those that are just being deleted are not among them.
func blobsOf(ctx context.Context, meta storage.Meta) iter.Seq2[blob, error] {
	return func(yield func(blob, error) bool) {
		for e, err := range entriesOf(ctx, meta, storage.Stored) {
			var b blob
			if err == nil {
				if e.Value.Deleting {
					continue
				}
				b.digest, _, err = storage.CutDigest(e.Key)
				b.size = e.Value.Size
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

func byDigest(a blob, b storage.BlobInfo) int {
	return strings.Compare(string(a.digest), string(b.Digest))
}

// copyBlobs copies the blobs that the target does not have with their size, and says
// how many there were.
func (m *mover) copyBlobs(ctx context.Context, phase Phase) (copied, size int64, err error) {
	known, err := m.forgetProblems(ctx)
	if err != nil {
		return 0, 0, err
	}
	p, err := m.newPass(ctx, phase)
	if err != nil || m.sameBlobs {
		return 0, 0, err
	}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(m.Jobs)
	err = merge(blobsOf(inner, m.from.Meta), m.to.Blobs.List(inner, ""), byDigest, func(b *blob, there *storage.BlobInfo) error {
		if b == nil {
			return inner.Err() // the target has it, and that is all
		}
		one, present := *b, there != nil && there.Size == b.size
		if known[one.digest] {
			m.problem(Problem{Digest: one.digest, Reason: "the source knows that it is damaged", known: true})
			p.looked(one.size)
			return nil
		}
		if present && !m.Verify {
			p.present(one.size)
			return nil
		}
		group.Go(func() error { return m.one(inner, p, one, present) })
		return inner.Err()
	})
	if failed := group.Wait(); failed != nil {
		err = failed
	}
	p.end(m)
	return p.copied.Load(), p.copiedBytes.Load(), err
}

// one brings a blob to the target, or notes why that cannot be done.
func (m *mover) one(ctx context.Context, p *pass, b blob, present bool) error {
	if present {
		err := m.read(ctx, m.to.Blobs, b, nil)
		if err == nil {
			p.present(b.size)
			return nil
		}
		if !isDamage(err) {
			return fmt.Errorf("read %s at the target: %w", b.digest, err)
		}
	}
	err := m.copyBlob(ctx, b)
	if damage, is := errors.AsType[*damageError](err); is {
		if there, err := m.isStored(ctx, b); err != nil || !there {
			return err // it was removed meanwhile
		}
		m.problem(Problem{Digest: b.digest, Reason: damage.Error(), kind: damage.kind, size: b.size})
		p.looked(b.size)
		return nil
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", b.digest, err)
	}
	p.copy(b.size)
	return nil
}

// stagePrefix is how the stages start that blobs are copied in.
const stagePrefix = "migrate-"

// copyBlob copies a blob. What is not what its digest says does not become one.
func (m *mover) copyBlob(ctx context.Context, b blob) error {
	id := stagePrefix + b.digest.Encoded()
	stage, err := storage.StageFor(ctx, m.to.Blobs, id, b.digest)
	if err != nil {
		return err
	}
	err = m.read(ctx, m.from.Blobs, b, stage)
	if err == nil {
		err = stage.Commit(b.digest)
	}
	if err == nil {
		return stage.Close()
	}
	_ = stage.Close() // it is of no use any more
	_ = m.to.Blobs.Discard(context.WithoutCancel(ctx), id)
	return err
}

// isStored says whether the source still has a blob.
func (m *mover) isStored(ctx context.Context, b blob) (there bool, err error) {
	err = m.from.Meta.View(ctx, func(tx storage.Tx) error {
		row, err := storage.Stored.Get(tx, storage.Key(storage.DigestPart(b.digest)))
		there = err == nil && !row.Deleting
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		return err
	})
	return there, err
}

// forgetProblems begins anew with what cannot be copied, and lists what the source
// knows to be damaged.
func (m *mover) forgetProblems(ctx context.Context) (map[digest.Digest]bool, error) {
	m.mu.Lock()
	m.bad = map[digest.Digest]Problem{}
	m.mu.Unlock()
	known := map[digest.Digest]bool{}
	for e, err := range entriesOf(ctx, m.from.Meta, storage.Damages) {
		if err != nil {
			return nil, err
		}
		d, _, err := storage.CutDigest(e.Key)
		if err != nil {
			return nil, err
		}
		known[d] = true
	}
	return known, nil
}

func (m *mover) problem(p Problem) {
	m.mu.Lock()
	m.bad[p.Digest] = p
	m.mu.Unlock()
	m.said.say(Progress{Problem: &p}, true)
}

// verifyBlobs looks for each blob that the metadata tells of at the target.
func (m *mover) verifyBlobs(ctx context.Context) error {
	m.mu.Lock()
	bad := m.bad
	m.mu.Unlock()
	return merge(blobsOf(ctx, m.from.Meta), m.to.Blobs.List(ctx, ""), byDigest, func(b *blob, there *storage.BlobInfo) error {
		if b == nil {
			return nil
		}
		if _, is := bad[b.digest]; !is && !m.sameBlobs && (there == nil || there.Size != b.size) {
			return fmt.Errorf("%w: it has not all %d bytes of %s", errDiffers, b.size, b.digest)
		}
		return nil
	})
}

// shareBlobs says whether source and target have their blobs in one place, however
// that is called.
func (m *mover) shareBlobs(ctx context.Context) (shared bool, err error) {
	name := "migration/" + strings.ToLower(rand.Text())
	if err := m.to.Notes.PutNote(ctx, name, []byte("A migration looks whether both sides see this.\n")); err != nil {
		return false, err
	}
	_, err = m.from.Notes.Note(ctx, name)
	shared = err == nil
	if errors.Is(err, storage.ErrNotFound) {
		err = nil
	}
	return shared, errors.Join(err, m.to.Notes.DeleteNote(context.WithoutCancel(ctx), name))
}

// pass counts what a look at all blobs has found.
type pass struct {
	phase               Phase
	total, totalBytes   int64
	blobs, bytes        atomic.Int64
	copied, copiedBytes atomic.Int64
	said                *reporter
}

func (m *mover) newPass(ctx context.Context, phase Phase) (*pass, error) {
	p := &pass{phase: phase, said: &m.said}
	err := m.from.Meta.View(ctx, func(tx storage.Tx) (err error) {
		if p.total, err = storage.Total(tx, storage.CountBlobs); err == nil {
			p.totalBytes, err = storage.Total(tx, storage.CountBytes)
		}
		return err
	})
	m.res.Blobs, m.res.Bytes = p.total, p.totalBytes
	p.say(true)
	return p, err
}

func (p *pass) looked(size int64) {
	p.blobs.Add(1)
	p.bytes.Add(size)
	p.say(false)
}

func (p *pass) present(size int64) { p.looked(size) }

func (p *pass) copy(size int64) {
	p.copied.Add(1)
	p.copiedBytes.Add(size)
	p.looked(size)
}

func (p *pass) say(now bool) {
	p.said.say(Progress{Phase: p.phase, Blobs: p.blobs.Load(), TotalBlobs: p.total, Bytes: p.bytes.Load(), TotalBytes: p.totalBytes}, now)
}

// end adds up.
func (p *pass) end(m *mover) {
	p.say(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.res.CopiedBlobs += p.copied.Load()
	m.res.CopiedBytes += p.copiedBytes.Load()
	m.res.Blobs, m.res.Bytes = p.blobs.Load(), p.bytes.Load()
	m.res.PresentBlobs = max(0, m.res.Blobs-m.res.CopiedBlobs-int64(len(m.bad)))
}

// reporter tells of progress, not too often.
type reporter struct {
	mu   sync.Mutex
	tell func(Progress)
	last time.Time
}

// tellEvery is the time between two tellings of how far it is.
const tellEvery = 200 * time.Millisecond

func (r *reporter) say(p Progress, now bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tell == nil || !now && time.Since(r.last) < tellEvery {
		return
	}
	r.last = time.Now()
	r.tell(p)
}

func sortProblems(list []Problem) {
	slices.SortFunc(list, func(a, b Problem) int {
		return strings.Compare(string(a.Digest)+a.Session, string(b.Digest)+b.Session)
	})
}
