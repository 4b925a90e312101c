package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/berth-registry/berth/registry"
)

// follower reads a blob while it comes. It reads where it likes, and waits for what is
// not there yet. What it gets before the end of the blob is not verified.
type follower struct {
	ctx  context.Context //nolint:containedctx // it is its caller's, who reads it
	f    *fill
	file *os.File // the spool, opened for this reader
	size int64
	pos  int64
}

var _ registry.Piecer = (*follower)(nil)

// follow waits until the blob begins to come, and returns a reader of it for a
// repository. It fails with errCached or errDirect if it is to be had elsewhere.
func (f *fill) follow(ctx context.Context, repo string) (*follower, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Of a blob that is held back whole, it can still be said that it did not come.
	for f.err == nil && !f.over && (f.size < 0 || f.size <= holdBack && !f.whole) {
		if err := f.wait(ctx); err != nil {
			return nil, err
		}
	}
	switch {
	case f.repo != repo && (isAbsent(f.err) || errors.Is(f.err, registry.ErrDenied)):
		return nil, errCached // it was asked for as what does not have it
	case f.err != nil:
		return nil, f.err
	case f.spool == nil:
		return nil, errCached
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.spool.file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("open what has come of blob %s: %w", f.d, err)
	}
	return &follower{ctx: ctx, f: f, file: file, size: f.size}, nil
}

// Read reads what is there, and waits if that is nothing. It fails if the blob cannot
// come to its end.
func (r *follower) Read(p []byte) (int, error) {
	n, err := r.next(int64(len(p)))
	if n == 0 {
		return 0, err
	}
	got, err := r.file.ReadAt(p[:n], r.pos)
	if r.pos += int64(got); got == 0 {
		return 0, fmt.Errorf("read what has come of blob %s: %w", r.f.d, err)
	}
	return got, nil
}

// Piece lets what is there be sent without a copy of it.
func (r *follower) Piece(most int64) (*os.File, int64, error) {
	n, err := r.next(most)
	if err != nil {
		return nil, 0, err
	}
	if _, err := r.file.Seek(r.pos, io.SeekStart); err != nil {
		return nil, 0, fmt.Errorf("read what has come of blob %s: %w", r.f.d, err)
	}
	r.pos += n
	return r.file, n, nil
}

// next waits for something to read, and says how much of it there is, up to most.
func (r *follower) next(most int64) (int64, error) {
	if most == 0 {
		return 0, nil
	}
	to, err := r.f.readable(r.ctx, r.pos)
	if err == nil && r.pos >= to {
		err = io.EOF
	}
	if err != nil {
		return 0, err
	}
	return min(most, to-r.pos), nil
}

// readable waits until something behind pos may be read, and returns up to where.
func (f *fill) readable(ctx context.Context, pos int64) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch held := min(f.written, f.size-holdBack); {
		case f.whole:
			return f.size, nil
		case f.err != nil:
			return 0, f.err
		case held > pos:
			return held, nil
		}
		if err := f.wait(ctx); err != nil {
			return 0, err
		}
	}
}

// Seek only notes where the next Read begins.
func (r *follower) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return r.pos, errSeek
	}
	r.pos = offset
	return offset, nil
}

var errSeek = errors.New("seek before the start of the blob")

// Close lets go of the blob, which goes on coming.
func (r *follower) Close() error { return r.file.Close() }
