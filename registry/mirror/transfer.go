package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/opencontainers/go-digest"
)

// pieceSize is how many bytes of a transfer are read or hashed at a time, at most.
const pieceSize = 128 << 10

// fetch gets the blob from the upstream into the spool, and verifies it there.
func (f *fill) fetch(ctx context.Context) error {
	release, err := f.m.slot(ctx)
	if err != nil {
		return errClosed
	}
	defer release()
	src, err := f.m.open(ctx, f.repo, f.d)
	if err := f.r.answered(f.m, question{kind: aBlob, repo: f.repo, ref: string(f.d)}, err); err != nil {
		return err
	}
	defer func() { _ = src.Close() }() // all of it was read, or it failed
	spool, err := f.r.spool.open(src.size)
	if err != nil {
		return f.direct(err)
	}
	f.update(func() { f.spool, f.size = spool, src.size })
	var hashing sync.WaitGroup
	var got digest.Digest
	var unread error
	hashing.Go(func() { got, unread = f.hash(spool) })
	if err = f.receive(src, spool); err != nil {
		f.update(func() { f.err = err })
	}
	hashing.Wait()
	switch {
	case err != nil:
		return err
	case unread != nil:
		return f.direct(unread)
	case got != f.d:
		return f.unlike(got)
	}
	f.update(func() { f.whole = true })
	return nil
}

// slot waits until a transfer may begin, and returns what ends it.
func (m *mirrored) slot(ctx context.Context) (release func(), err error) {
	select {
	case m.slots <- struct{}{}:
		return sync.OnceFunc(func() { <-m.slots }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// receive writes what comes to the spool. The network never waits for who reads it
// there.
func (f *fill) receive(src *source, spool *spool) error {
	piece := make([]byte, pieceSize)
	for at := int64(0); at < src.size; {
		n, err := src.Read(piece[:min(pieceSize, src.size-at)])
		if n > 0 {
			if err := spool.writeAt(piece[:n], at); err != nil {
				return f.direct(err)
			}
			at += int64(n)
			f.update(func() { f.written = at })
		}
		switch {
		case at == src.size, err == nil:
		case src.ctx.Err() != nil:
			return errClosed
		default:
			f.m.counts.failures.Add(1)
			return f.m.failure(early(err, at, src.size))
		}
	}
	return nil
}

// early says that a transfer has ended before it should have.
func early(err error, at, size int64) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the upstream sent %d of %d bytes", at, size)
	}
	return err
}

// hash hashes the spool while it grows.
func (f *fill) hash(spool *spool) (digest.Digest, error) {
	h, piece := f.d.Algorithm().Hash(), make([]byte, pieceSize)
	for at := int64(0); ; {
		to, err := f.grown(at)
		if err != nil {
			return "", nil //nolint:nilerr // there is nothing to be hashed any more
		}
		if to == at {
			return digest.NewDigest(f.d.Algorithm(), h), nil
		}
		for at < to {
			n, err := spool.file.ReadAt(piece[:min(pieceSize, to-at)], at)
			if n == 0 {
				return "", err
			}
			h.Write(piece[:n])
			at += int64(n)
		}
	}
}

// grown waits until the spool is longer than at, and returns its length; at, if it is
// complete.
func (f *fill) grown(at int64) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.written == at && at < f.size && f.err == nil {
		if err := f.wait(context.Background()); err != nil {
			return 0, err
		}
	}
	return f.written, f.err
}

// direct has the readers of a blob fetch it themselves, as the spool has failed; those
// that have begun to read fail.
func (f *fill) direct(err error) error {
	f.r.warn("a mirror cannot keep what it fetches", err,
		slog.String("mirror", f.m.Name), slog.String("repo", f.repo), slog.String("blob", string(f.d)))
	return errDirect
}

// unlike says that what has come is not the blob.
func (f *fill) unlike(got digest.Digest) error {
	f.m.counts.corrupt.Add(1)
	err := fmt.Errorf("the upstream sent %s for blob %s", got, f.d)
	f.r.warn("an upstream sent other bytes than it should have", err,
		slog.String("mirror", f.m.Name), slog.String("repo", f.repo))
	return f.m.failure(err)
}
