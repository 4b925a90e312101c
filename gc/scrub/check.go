package scrub

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// least is what a blob counts as, by Options.Rate, that has fewer bytes: a disk can
// give only so many small ones a second.
const least = 32 << 10

// found is what a check has found.
type found struct {
	kind  storage.DamageKind // 0 for none
	bytes int64              // that there are
	cause error              // why they cannot be read
}

// uncheckedError says that it could not be found out how a blob is, for no fault of
// its own.
type uncheckedError struct{ error }

func (e *uncheckedError) Unwrap() error { return e.error }

// check reads the bytes of a blob. slowly says that it keeps to the rate. An error
// says that it could not be found out.
func (s *Scrub) check(ctx context.Context, d digest.Digest, size int64, slowly bool) (found, error) {
	if slowly {
		if err := s.limiter.WaitN(ctx, int(max(least, min(size, chunk)))); err != nil {
			return found{}, err
		}
	}
	f, err := s.blobs.Open(ctx, d)
	if err != nil {
		return failed(ctx, err, 0)
	}
	defer func() { _ = f.Close() }() // it was only read
	h := d.Algorithm().Hash()
	r := newReader(f)
	var n int64
	for {
		if slowly && n > 0 && n != size { // what is behind the end that there should be counts, too
			if err := s.limiter.WaitN(ctx, int(min(uint64(size-n), chunk))); err != nil {
				return found{}, err
			}
		}
		piece, err := r.next()
		_, _ = h.Write(piece) // never fails, package hash says
		n += int64(len(piece))
		s.bytes.Add(int64(len(piece)))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return failed(ctx, err, n)
		}
		if ctx.Err() != nil {
			return found{}, ctx.Err()
		}
	}
	switch {
	case digest.NewDigest(d.Algorithm(), h) == d:
		return found{bytes: n}, nil
	case n != size:
		return found{kind: storage.DamageSize, bytes: n}, nil
	}
	return found{kind: storage.DamageDigest, bytes: n}, nil
}

// failed says what an error of the blob store means: that the bytes are damaged, or
// that nothing is known of them.
func failed(ctx context.Context, err error, n int64) (found, error) {
	if ctx.Err() != nil {
		return found{}, ctx.Err()
	}
	switch err = storage.Classify(err); {
	case errors.Is(err, storage.ErrNotFound):
		return found{kind: storage.DamageMissing, cause: err}, nil
	case errors.Is(err, storage.ErrUnreadable), errors.Is(err, storage.ErrReadOnly): // that is: no permission
		return found{kind: storage.DamageUnreadable, bytes: n, cause: err}, nil
	}
	return found{}, &uncheckedError{err}
}

// examine checks a blob. If it is damaged, it is marked and moved away; if it was
// marked and is whole, the mark is taken back.
func (s *Scrub) examine(ctx context.Context, blob registry.StoredBlob, slowly bool) (found, error) {
	f, err := s.check(ctx, blob.Digest, blob.Size, slowly)
	switch {
	case err != nil:
		return f, err
	case f.kind == 0 && blob.Damaged:
		s.log.InfoContext(ctx, "bytes that were damaged are whole again", "digest", blob.Digest)
		err = s.registry.Sound(ctx, blob.Digest)
	case f.kind != 0 && !blob.Damaged:
		return s.confirm(ctx, blob.Digest, blob.Size, f)
	}
	if f.isRead() {
		s.confirming.Lock()
		s.inRow = 0
		s.confirming.Unlock()
	}
	return f, err
}

// isRead says that the store gave bytes, whatever they are.
func (f found) isRead() bool {
	return f.kind != storage.DamageMissing && f.kind != storage.DamageUnreadable
}

// confirm marks a blob that seems to be damaged, and then looks again.
func (s *Scrub) confirm(ctx context.Context, d digest.Digest, size int64, first found) (found, error) {
	s.confirming.Lock()
	defer s.confirming.Unlock()
	if _, ok, err := s.registry.StoredBlob(ctx, d); !ok || err != nil {
		return found{}, err // it was deleted meanwhile
	}
	if first.isRead() {
		s.inRow = 0
	} else if s.inRow++; s.inRow >= maxInRow && !s.forced {
		if !s.reads(ctx) {
			return found{}, errors.Join(ErrAway, first.cause)
		}
		s.inRow = 0
	}
	marked, err := s.registry.Suspect(ctx, d, first.kind)
	if err != nil || !marked {
		return found{}, err
	}
	return s.again(ctx, d, size)
}

// reads says whether the store gives any bytes at all.
func (s *Scrub) reads(ctx context.Context) bool {
	tries := 0
	for info, err := range s.blobs.List(ctx, "") {
		if err != nil || tries == maxInRow {
			return false
		}
		if info.Size == 0 {
			continue
		}
		tries++
		f, err := s.blobs.Open(ctx, info.Digest)
		if err != nil {
			continue
		}
		piece, _ := newReader(f).next()
		_ = f.Close() // it was only read
		if len(piece) > 0 {
			return true
		}
	}
	return false
}

// again checks a blob that is marked once more, and moves it away. Only now is it sure
// that no push has replaced the bytes: one that was done before the mark has, and one
// that comes after it has to wait, and to see its bytes.
func (s *Scrub) again(ctx context.Context, d digest.Digest, size int64) (found, error) {
	f, err := s.check(ctx, d, size, false)
	switch {
	case ctx.Err() != nil:
		return found{}, ctx.Err() // it is done later, by finishMoves
	case err != nil, f.kind == 0:
		s.log.WarnContext(ctx, "bytes seemed to be damaged, and at a second look are not", "digest", d, "error", err)
		return f, errors.Join(err, s.registry.Sound(ctx, d))
	}
	return f, s.moveAway(ctx, d, size, f)
}

// moveAway moves damaged bytes to where they harm nobody.
func (s *Scrub) moveAway(ctx context.Context, d digest.Digest, size int64, f found) error {
	kept := false
	if f.kind != storage.DamageMissing {
		until, ok, err := s.registry.Moves(ctx, d)
		if err != nil || !ok {
			return err
		}
		moving, cancel := context.WithDeadline(ctx, until)
		err = s.blobs.Quarantine(moving, d)
		cancel()
		kept = err == nil
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			s.log.WarnContext(ctx, "cannot move damaged bytes away; a push will replace them", "digest", d, "error", err)
		}
	}
	s.log.ErrorContext(ctx, "stored bytes are damaged: they are unknown to clients until somebody pushes them again",
		"digest", d, "damage", f.kind.String(), "size", size, "found", f.bytes, "cause", f.cause)
	err := s.registry.Settle(ctx, d, f.kind, kept)
	select {
	case s.hurt <- struct{}{}:
	default: // it is about to look
	}
	return err
}

// finishMoves does what again was kept from: nobody can push what is marked until it
// is settled.
func (s *Scrub) finishMoves(ctx context.Context) error {
	var moving []registry.DamagedBlob
	for blob, err := range s.registry.Damaged(ctx) {
		if err != nil {
			return err
		}
		if blob.Moving {
			moving = append(moving, blob)
		}
	}
	for _, blob := range moving {
		if err := s.finishMove(ctx, blob); err != nil {
			return err
		}
	}
	return nil
}

func (s *Scrub) finishMove(ctx context.Context, blob registry.DamagedBlob) error {
	s.confirming.Lock()
	defer s.confirming.Unlock()
	marked, err := s.registry.Suspect(ctx, blob.Digest, blob.Kind)
	if err == nil && marked {
		_, err = s.again(ctx, blob.Digest, blob.Size)
	}
	return err
}
