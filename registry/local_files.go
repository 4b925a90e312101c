package registry

import (
	"context"
	"hash"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// PushFile makes a file of this machine the blob d of a repository: by a hard link,
// if the store can do that, after which nobody may write to the file; linked says
// so. It fails with ErrDigestInvalid if the file does not hold d.
func (l *Local) PushFile(ctx context.Context, repo string, d digest.Digest, f *os.File) (desc Descriptor, linked bool, err error) {
	if _, ok := l.blobs.(storage.Adopter); !ok {
		desc, err = l.PushBlob(ctx, repo, d, f)
		return desc, false, err
	}
	limited, err := l.limit(&stoppable{ctx, f}, 0)
	if err != nil {
		return desc, false, err
	}
	h := d.Algorithm().Hash()
	size, err := receive(io.Discard, h, limited)
	if err == nil {
		err = isDigest(h, d, size)
	}
	if err != nil {
		return desc, false, err
	}
	return l.PushVerified(ctx, repo, d, f, size)
}

// PushVerified is PushFile for whoever has found already that the size bytes of the
// file are d.
func (l *Local) PushVerified(ctx context.Context, repo string, d digest.Digest, f *os.File, size int64) (desc Descriptor, linked bool, err error) {
	adopter, ok := l.blobs.(storage.Adopter)
	if !ok {
		desc, err = l.PushBlob(ctx, repo, d, io.NewSectionReader(f, 0, size))
		return desc, false, err
	}
	if err := l.room(ctx, repo, d, size); err != nil {
		return desc, false, err
	}
	arrival := l.arriving(d)
	defer arrival.end()
	if err := arrival.prepare(ctx); err != nil {
		return desc, false, err
	}
	if linked, err = adopter.Adopt(ctx, d, f); err != nil {
		return desc, false, err
	}
	err = arrival.stored(ctx, func(tx *changing) error { return linkNew(tx, repo, d, size) })
	return blobDescriptor(d, size), linked, err
}

// isDigest fails with ErrDigestInvalid if what was hashed is not d.
func isDigest(h hash.Hash, d digest.Digest, size int64) error {
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return ErrDigestInvalid.With("the %d bytes sent have the digest %s, not %s", size, got, d)
	}
	return nil
}

// stoppable reads until a context ends.
type stoppable struct {
	ctx context.Context //nolint:containedctx // it lives as long as one call
	r   io.Reader
}

func (s *stoppable) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}
