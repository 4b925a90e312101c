package s3

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Commit implements storage.Stage. What is in memory becomes the blob by one
// request. The parts of a multipart upload become it at once if the upload is that of
// the blob; else they become an object of the stage, which is copied and removed.
func (s *stage) Commit(d digest.Digest) error {
	switch {
	case s.err != nil:
		return s.err
	case s.ended:
		return errEnded
	case s.final != "" && s.final != d && s.state.Upload != "":
		return s.fail(fmt.Errorf("stage %s is to become %s, not %s", s.id, s.final, d))
	}
	if err := s.become(d); err != nil {
		return s.fail(err)
	}
	s.ended = true
	s.clear()
	return nil
}

func (s *stage) become(d digest.Digest) error {
	key := s.blobs.key(d)
	switch {
	case s.state.Upload != "":
		if err := s.complete(); err != nil || s.final != "" {
			return err
		}
		return s.blobs.copy(s.ctx, s.state.Key, key, s.state.Size)
	case s.state.Whole:
		return s.blobs.copy(s.ctx, s.state.Key, key, s.state.Size)
	case s.unread:
		return s.blobs.copy(s.ctx, s.state.Tail, key, s.state.TailSize)
	default:
		return s.blobs.put(s.ctx, key, &s.buf)
	}
}

// complete sends what is behind the parts as the last one and has them become an
// object. If the upload is gone, they became it before, by a process that did not
// live to tell, or by an attempt whose answer was lost.
func (s *stage) complete() error {
	if err := s.seal(); err != nil {
		return err
	}
	c, err := s.blobs.complete(s.ctx, s.state.Key, s.state.Upload, s.parts)
	if !c.lost {
		return err
	}
	// The object is right if it is that of the blob, which only bytes that were checked
	// become; or if it was made from the parts as they are here.
	if s.final == "" && s.wrote && !c.asked {
		return err
	}
	switch whole, herr := s.isWhole(); {
	case herr != nil:
		return herr
	case !whole:
		return fmt.Errorf("stage %s has lost its parts: %w", s.id, err)
	}
	return nil
}

// seal makes all that the stage holds be parts. If the stage has rows, they say so
// from then on: so an object that is found in the place of the upload is made of what
// they name, and by nobody who went on with the stage before another did.
func (s *stage) seal() error {
	if s.unread {
		if err := s.fetchTail(); err != nil {
			return err
		}
	}
	if s.buf.n > 0 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	if s.state.Rev == "" || s.final != "" {
		return nil
	}
	s.dropTail()
	s.state.Sealed = true
	return s.save()
}

// isWhole says whether the parts have become the object.
func (s *stage) isWhole() (bool, error) {
	o, err := s.blobs.head(s.ctx, s.state.Key)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return o.Size == s.state.Size, err
}

// clear removes what a stage was that has become a blob. The blob is there in any
// case: what stays here is found by its age.
func (s *stage) clear() {
	keys := s.garbage
	if s.state.Tail != "" {
		keys = append(keys, s.state.Tail)
	}
	if s.state.Key != "" && s.final == "" {
		keys = append(keys, s.state.Key)
	}
	var err error
	for _, key := range keys {
		err = errors.Join(err, s.blobs.remove(s.ctx, key))
	}
	if s.state.Rev != "" {
		err = errors.Join(err, s.blobs.forget(s.ctx, s.id))
	}
	s.blobs.warn(s.ctx, err)
	s.buf.reset()
}

// freeze has the parts, and what is behind them, become an object of the stage.
func (s *stage) freeze() error {
	if s.final != "" {
		return errors.New("a stage of a known digest cannot be read: its parts would become a blob that nobody has checked")
	}
	if err := s.complete(); err != nil {
		return err
	}
	s.toWhole()
	return nil
}

func (s *stage) toWhole() {
	if s.state.Tail != "" {
		s.garbage = append(s.garbage, s.state.Tail)
	}
	s.state.Upload, s.state.Tail, s.state.TailSize, s.state.Whole, s.state.Sealed = "", "", 0, true, false
	s.parts, s.saved, s.unread, s.dirty = nil, 0, false, true
	s.buf.reset()
}

// reopen makes the first size bytes of the whole object parts of a new upload, but
// for those at the end that are too few for a part: they are read.
func (s *stage) reopen(size int64) error {
	from := s.state.Key
	rest := size % s.blobs.copyPart
	if rest >= minPart {
		rest = 0
	}
	if err := s.blobs.read(s.ctx, from, size-rest, rest, &s.buf); err != nil {
		s.buf.reset()
		return err
	}
	next := storage.Staged{Rev: s.state.Rev}
	if size > rest {
		next.Key, next.Size = s.newKey(""), size-rest
		var err error
		if next.Upload, err = s.blobs.begin(s.ctx, next.Key); err != nil {
			return err
		}
		if s.parts, err = s.blobs.copyInto(s.ctx, from, next.Key, next.Upload, next.Size); err != nil {
			s.blobs.warn(s.ctx, s.blobs.abort(s.ctx, next.Key, next.Upload))
			return err
		}
	}
	s.state, s.saved, s.garbage, s.dirty = next, 0, append(s.garbage, from), true
	return nil
}

// cut forgets what is behind off bytes, which are fewer than there are.
func (s *stage) cut(off int64) error {
	s.dirty = true
	switch {
	case s.state.Whole:
		return s.reopen(off)
	case off > s.state.Size:
		if err := s.fetchTail(); err != nil {
			return err
		}
		s.buf.truncate(off - s.state.Size)
		return nil
	}
	s.dropTail()
	var size int64
	for i, p := range s.parts {
		if size == off {
			s.parts, s.saved, s.state.Size = s.parts[:i], min(s.saved, i), size
			return nil
		}
		if size += p.Size; size > off {
			return s.cutWithin(i, size, off)
		}
	}
	return nil
}

func (s *stage) dropTail() {
	if s.state.Tail != "" {
		s.garbage = append(s.garbage, s.state.Tail)
	}
	s.state.Tail, s.state.TailSize, s.unread = "", 0, false
}

// cutWithin cuts within the i-th part, which ends at end. What is before off in it
// can only be read when it is part of an object.
func (s *stage) cutWithin(i int, end, off int64) error {
	if s.final != "" {
		return fmt.Errorf("stage %s cannot be read, and has no part that ends at %d bytes: %w", s.id, off, storage.ErrNotFound)
	}
	s.parts, s.state.Size = s.parts[:i+1], end
	if err := s.freeze(); err != nil {
		return err
	}
	return s.reopen(off)
}
