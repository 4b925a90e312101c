package mirror

import (
	"context"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// direct opens a blob that cannot be shared, as there is no room for it.
func (r *Registry) direct(ctx context.Context, m *mirrored, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	release, err := m.slot(ctx)
	if err != nil {
		return nil, registry.Descriptor{}, err
	}
	src, err := m.open(ctx, repo, d)
	if err := r.answered(m, question{kind: aBlob, repo: repo, ref: string(d)}, err); err != nil {
		release()
		return nil, registry.Descriptor{}, err
	}
	s := &straight{m: m, d: d, src: src, release: release, hash: d.Algorithm().Hash(), piece: make([]byte, pieceSize)}
	if src.size == 0 { // whose readers may read nothing
		if err := s.verify(); err != nil {
			_ = s.Close() // it was not used
			return nil, registry.Descriptor{}, err
		}
	}
	return s, descriptor(d, src.size), nil
}

// straight reads a blob from the upstream, which it holds back so much of that a
// reader gets its end only when all of it is found to be right. What is only reached
// by a Seek is not verified.
type straight struct {
	m       *mirrored
	d       digest.Digest
	src     *source
	release func()
	hash    hash.Hash
	hashed  int64 // bytes from the start
	piece   []byte
	held    []byte // of piece: what was received behind pos
	pos     int64
	whole   bool // what is held may be read to its end
	err     error
}

// Read reads what may be read, and receives more if that is nothing.
func (s *straight) Read(p []byte) (int, error) {
	for s.err == nil && len(p) > 0 {
		give := len(s.held)
		if !s.whole {
			give = max(0, give-1)
		}
		if give > 0 {
			n := copy(p, s.held[:give])
			s.held, s.pos = s.held[n:], s.pos+int64(n)
			return n, nil
		}
		if s.pos+int64(len(s.held)) >= s.src.size {
			if s.whole || s.pos >= s.src.size && s.src.size > 0 {
				return 0, io.EOF
			}
			s.err = s.verify()
			continue
		}
		s.err = s.receive()
	}
	return 0, s.err
}

// receive gets more from the upstream.
func (s *straight) receive() error {
	kept := copy(s.piece, s.held)
	at := s.pos + int64(kept)
	n, err := s.src.Read(s.piece[kept:min(int64(len(s.piece)), int64(kept)+s.src.size-at)])
	if n == 0 && err != nil {
		s.m.counts.failures.Add(1)
		return s.m.failure(early(err, at, s.src.size))
	}
	s.held = s.piece[:kept+n]
	if at == s.hashed {
		s.hash.Write(s.piece[kept : kept+n])
		s.hashed += int64(n)
	}
	return nil
}

// verify checks what was received, if that is all of the blob.
func (s *straight) verify() error {
	s.whole = true
	if s.hashed < s.src.size {
		return nil
	}
	if got := digest.NewDigest(s.d.Algorithm(), s.hash); got != s.d {
		s.m.counts.corrupt.Add(1)
		return s.m.failure(fmt.Errorf("the upstream sent %s for blob %s", got, s.d))
	}
	return nil
}

// Seek has the next Read begin elsewhere, which takes another request.
func (s *straight) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.pos
	case io.SeekEnd:
		offset += s.src.size
	}
	if offset < 0 {
		return s.pos, errSeek
	}
	if offset == s.pos {
		return offset, nil
	}
	s.held, s.whole, s.pos = nil, false, offset
	_, err := s.src.body.Seek(offset, io.SeekStart)
	return offset, err
}

// Close ends the transfer.
func (s *straight) Close() error {
	s.err = fs.ErrClosed
	s.release()
	return s.src.Close()
}
