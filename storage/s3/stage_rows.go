package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/berth-registry/berth/storage"
)

func stageKey(id string) []byte { return storage.Key(id) }

func stagePartKey(id string, i int) []byte { return storage.Key(id, storage.NumberPart(int64(i))) }

// load reads what a stage consists of, or returns storage.ErrNotFound.
func (b *Blobs) load(ctx context.Context, id string) (state storage.Staged, parts []storage.StagedPart, err error) {
	err = b.meta.View(ctx, func(tx storage.Tx) (err error) {
		parts = nil
		if state, err = storage.Stages.Get(tx, stageKey(id)); err != nil {
			return err
		}
		for e, err := range storage.StageParts.Scan(tx, storage.Key(id, ""), nil) {
			if err != nil {
				return err
			}
			parts = append(parts, e.Value)
		}
		if len(parts) != state.Parts {
			return fmt.Errorf("damaged rows of stage %s: it has %d parts, not %d", id, len(parts), state.Parts)
		}
		return nil
	})
	return state, parts, err
}

// forget removes the rows of a stage, if there are any.
func (b *Blobs) forget(ctx context.Context, id string) error {
	return b.meta.Update(ctx, func(tx storage.Tx) error {
		return errors.Join(storage.Stages.Delete(tx, stageKey(id)), deleteParts(tx, id, 0))
	})
}

// deleteParts removes the rows of the parts from the i-th on.
func deleteParts(tx storage.Tx, id string, i int) error {
	var keys [][]byte
	var after []byte
	if i > 0 {
		after = stagePartKey(id, i-1)
	}
	for e, err := range storage.StageParts.Scan(tx, storage.Key(id, ""), after) {
		if err != nil {
			return err
		}
		keys = append(keys, append([]byte(nil), e.Key...))
	}
	for _, key := range keys {
		if err := storage.StageParts.Delete(tx, key); err != nil {
			return err
		}
	}
	return nil
}

// Sync implements storage.Stage: what is behind the parts becomes the tail object,
// and the rows name both. What they named before is removed after that.
func (s *stage) Sync() error {
	switch {
	case s.err != nil:
		return s.err
	case s.ended:
		return errEnded
	case !s.dirty:
		return nil
	}
	if err := s.sync(); err != nil {
		return s.fail(err)
	}
	return nil
}

func (s *stage) sync() error {
	if s.buf.n == partSize(s.blobs.partSize, s.state.Size) {
		if err := s.flush(); err != nil {
			return err
		}
	}
	if !s.unread {
		s.dropTail()
		if s.buf.n > 0 {
			key := s.newKey("tail-")
			if err := s.blobs.put(s.ctx, key, &s.buf); err != nil {
				return err
			}
			s.state.Tail, s.state.TailSize = key, s.buf.n
		}
	}
	if err := s.save(); err != nil {
		return err
	}
	s.dirty = false
	var err error
	for _, key := range s.garbage {
		err = errors.Join(err, s.blobs.remove(s.ctx, key))
	}
	s.blobs.warn(s.ctx, err)
	s.garbage = nil
	return nil
}

// save writes the stage's rows. It fails if another has written them since, or has begun
// the stage, too: two that go on with a stage at once must not mix their parts, and one
// must not take from the other what that has saved.
func (s *stage) save() error {
	known, rev := s.state.Rev, rand.Text()
	next := s.state
	next.Rev, next.Parts, next.Digest, next.Updated = rev, len(s.parts), string(s.final), s.blobs.now()
	err := s.blobs.meta.Update(s.ctx, func(tx storage.Tx) error {
		old, err := storage.Stages.Get(tx, stageKey(s.id))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		switch {
		case old.Rev == rev:
			return nil // it was done, and not heard of
		case old.Rev != known:
			return fmt.Errorf("stage %s was changed by another process", s.id)
		}
		first := min(s.saved, len(s.parts))
		if err := deleteParts(tx, s.id, first); err != nil {
			return err
		}
		for i, p := range s.parts[first:] {
			if err := storage.StageParts.Put(tx, stagePartKey(s.id, first+i), p); err != nil {
				return err
			}
		}
		return storage.Stages.Put(tx, stageKey(s.id), next)
	})
	if err != nil {
		return err
	}
	s.state, s.saved = next, len(s.parts)
	return nil
}
