package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// errEnded says that a stage was committed or closed.
var errEnded = errors.New("the stage has ended")

// stage is parts that were sent, then either a tail object or bytes in memory; or
// one whole object. Its methods do not end with the context that it was opened in:
// what a client has sent is saved when the client has gone. The limits of each
// request end them.
type stage struct {
	blobs   *Blobs
	ctx     context.Context //nolint:containedctx // the methods of storage.Stage take none
	id      string
	final   digest.Digest // the blob that its parts become; empty if they become an object of the stage
	state   storage.Staged
	parts   []storage.StagedPart
	saved   int      // how many of parts are rows
	garbage []string // keys of objects that rows may still name
	buf     buffer   // what is behind the parts
	unread  bool     // it is not in buf, but only in the tail object
	dirty   bool     // it is not as its rows say
	wrote   bool     // since it was opened
	ended   bool
	err     error // of what has failed: nothing is done any more
}

func (b *Blobs) stageDir(id string) string { return b.prefix + "uploads/" + id + "/" }

// Stage opens a stage.
func (b *Blobs) Stage(ctx context.Context, id string, off int64) (storage.Stage, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("stage %s at %d: %w", id, off, storage.ErrNotFound)
	}
	state, parts, err := b.load(ctx, id)
	if off == 0 {
		if err == nil {
			err = b.Discard(ctx, id) // another try
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return nil, err
		}
		return b.newStage(ctx, id, ""), nil
	}
	if err != nil {
		return nil, err
	}
	size := state.Size + state.TailSize
	if size < off {
		return nil, fmt.Errorf("stage %s has %d bytes, not %d: %w", id, size, off, storage.ErrNotFound)
	}
	s := b.newStage(ctx, id, digest.Digest(state.Digest))
	s.state, s.parts, s.saved, s.unread = state, parts, len(parts), state.Tail != ""
	if err := s.unseal(); err != nil {
		return nil, err
	}
	if size > off {
		// At once: rows that say more than the stage holds would make what others wrote
		// behind off part of it.
		if err := errors.Join(s.cut(off), s.Sync()); err != nil {
			s.buf.reset()
			return nil, err
		}
	}
	return s, nil
}

// unseal looks what became of a stage whose process asked for its completion.
func (s *stage) unseal() error {
	if !s.state.Sealed {
		return nil
	}
	whole, err := s.isWhole()
	if whole {
		s.toWhole()
	}
	s.state.Sealed = false
	return err
}

// StageFor implements storage.DigestStager.
func (b *Blobs) StageFor(ctx context.Context, id string, d digest.Digest) (storage.Stage, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return b.newStage(ctx, id, d), nil
}

func (b *Blobs) newStage(ctx context.Context, id string, final digest.Digest) *stage {
	return &stage{blobs: b, ctx: context.WithoutCancel(ctx), id: id, final: final, buf: buffer{dir: b.temp}}
}

func checkID(id string) error {
	if id == "" || id[0] == '.' || strings.ContainsAny(id, "/\x00 ") {
		return fmt.Errorf("stage id %q is no part of a key", id)
	}
	return nil
}

// newKey is the key of another object of the stage.
func (s *stage) newKey(kind string) string {
	return s.blobs.stageDir(s.id) + kind + strings.ToLower(rand.Text())
}

// Write implements storage.Stage.
func (s *stage) Write(p []byte) (int, error) {
	if len(p) == 0 && s.err == nil {
		return 0, nil
	}
	if err := s.writable(); err != nil {
		return 0, s.fail(err)
	}
	s.dirty, s.wrote = true, true
	written := 0
	for len(p) > 0 {
		room := partSize(s.blobs.partSize, s.state.Size) - s.buf.n
		if room <= 0 {
			if err := s.flush(); err != nil {
				return written, s.fail(err)
			}
			continue
		}
		n, err := s.buf.Write(p[:min(int64(len(p)), room)])
		written += n
		p = p[n:]
		if err != nil {
			return written, s.fail(err)
		}
	}
	return written, nil
}

// writable makes the stage's end be in memory.
func (s *stage) writable() error {
	switch {
	case s.err != nil:
		return s.err
	case s.ended:
		return errEnded
	case s.unread:
		return s.fetchTail()
	case s.endsShort():
		if err := s.freeze(); err != nil {
			return err
		}
	}
	if s.state.Whole {
		return s.reopen(s.state.Size)
	}
	return nil
}

// endsShort says whether the last part is too small to be followed by another: it was
// to be the last.
func (s *stage) endsShort() bool {
	return len(s.parts) > 0 && s.parts[len(s.parts)-1].Size < minPart
}

func (s *stage) fetchTail() error {
	if err := s.blobs.read(s.ctx, s.state.Tail, 0, s.state.TailSize, &s.buf); err != nil {
		s.buf.reset()
		return err
	}
	s.unread = false
	return nil
}

// fail remembers an error of the stage.
func (s *stage) fail(err error) error {
	if s.err == nil {
		s.err = err
	}
	return err
}

// flush makes what is in memory a part.
func (s *stage) flush() error {
	if s.state.Upload == "" {
		key := s.newKey("")
		if s.final != "" {
			key = s.blobs.key(s.final)
		}
		upload, err := s.blobs.begin(s.ctx, key)
		if err != nil {
			return err
		}
		s.state.Key, s.state.Upload = key, upload
	}
	part, err := s.blobs.putPart(s.ctx, s.state.Key, s.state.Upload, len(s.parts), &s.buf)
	if err != nil {
		return err
	}
	s.parts = append(s.parts, part)
	s.state.Size += part.Size
	s.buf.reset()
	return nil
}

// Reader implements storage.Stage. The parts of a multipart upload cannot be read
// before they are an object, so they become one.
func (s *stage) Reader() (io.ReadCloser, error) {
	switch {
	case s.err != nil:
		return nil, s.err
	case s.ended:
		return nil, errEnded
	case s.state.Upload != "":
		if err := s.freeze(); err != nil {
			return nil, s.fail(err)
		}
	}
	switch {
	case s.state.Whole:
		return s.readObject(s.state.Key, s.state.Size), nil
	case s.unread:
		return s.readObject(s.state.Tail, s.state.TailSize), nil
	}
	data := make([]byte, s.buf.n) // what is written next may be sent, and its memory used again
	if _, err := io.ReadFull(s.buf.reader(), data); err != nil {
		return nil, local(err)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (s *stage) readObject(key string, size int64) io.ReadCloser {
	r := s.blobs.newReader(s.ctx, key)
	r.size, r.known = size, true
	return r
}

// Close implements storage.Stage.
func (s *stage) Close() error {
	defer s.buf.reset()
	if s.ended {
		return nil
	}
	var err error
	if s.err == nil && (s.final == "" || s.state.Rev != "") {
		err = s.Sync()
	}
	if s.state.Rev == "" && s.state.Upload != "" {
		s.blobs.warn(s.ctx, s.blobs.abort(s.ctx, s.state.Key, s.state.Upload)) // nobody knows of it
	}
	s.ended = true
	return err
}
