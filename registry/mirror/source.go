package mirror

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

const (
	// maxResumes is how often in a row a transfer that broke off goes on, and
	// resumeProgress how many bytes must come for the count to begin anew.
	maxResumes     = 5
	resumeProgress = 1 << 20
	// resumePause is how long the first pause before that is; each is twice the one
	// before it.
	resumePause = 50 * time.Millisecond
)

// source reads a blob from an upstream, and goes on where it was when the connection
// breaks.
type source struct {
	ctx  context.Context //nolint:containedctx // it lives as long as the transfer
	m    *mirrored
	body io.ReadSeekCloser
	size int64

	failed   int   // times in a row
	progress int64 // bytes since it failed first
	dead     error // for good
}

// open asks an upstream for a blob.
func (m *mirrored) open(ctx context.Context, repo string, d digest.Digest) (*source, error) {
	open := m.Remote.Blob
	if u, ok := m.Remote.(Unhashed); ok {
		open = u.OpenBlob
	}
	body, desc, err := open(ctx, m.theirs(repo), d)
	if err != nil {
		return nil, err
	}
	return &source{ctx: ctx, m: m, body: body, size: desc.Size}, nil
}

// Read reads on. An error is for good.
func (s *source) Read(p []byte) (int, error) {
	for s.dead == nil {
		n, err := s.body.Read(p)
		s.m.counts.fetched.Add(int64(n))
		if s.progress += int64(n); s.progress >= resumeProgress {
			s.failed, s.progress = 0, 0
		}
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF), !s.again(err):
			s.dead = err
			return n, err
		case n > 0:
			return n, nil
		}
	}
	return 0, s.dead
}

// again says whether it makes sense to go on after an error, and waits until it does.
func (s *source) again(err error) bool {
	if s.ctx.Err() != nil || saysNo(err) || errors.Is(err, registry.ErrDigestInvalid) || s.m.Unavailable() != nil {
		return false
	}
	s.failed++
	if s.failed > maxResumes {
		return false
	}
	timer := time.NewTimer(resumePause << (s.failed - 1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// Close ends the transfer.
func (s *source) Close() error { return s.body.Close() }
