package migrating

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/berth-registry/berth/storage"
)

// chunk is how many bytes are read at once.
const chunk = 256 << 10

// damageError says what is wrong with a blob.
type damageError struct {
	kind storage.DamageKind
	text string
}

func (e *damageError) Error() string { return e.text }

func isDamage(err error) bool {
	_, is := errors.AsType[*damageError](err)
	return is
}

// read reads a blob, hashes it, and writes it to w, unless that is nil. It fails with a
// damageError if the blob is not what it should be; then w has got what it should not.
func (m *mover) read(ctx context.Context, from storage.Blobs, b blob, w io.Writer) error {
	f, err := from.Open(ctx, b.digest)
	if errors.Is(err, storage.ErrNotFound) {
		return &damageError{storage.DamageMissing, "its bytes are missing"}
	}
	if err != nil {
		return unreadable(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	h := b.digest.Algorithm().Hash()
	n, err := m.pump(ctx, f, h, w)
	switch {
	case err != nil:
		return err
	case n != b.size:
		return &damageError{storage.DamageSize, fmt.Sprintf("it has %d bytes instead of %d", n, b.size)}
	case digest.NewDigest(b.digest.Algorithm(), h) != b.digest:
		return &damageError{storage.DamageDigest, "its bytes are not those of its digest"}
	}
	return nil
}

// pump reads all that r has into h and w, as fast as it may.
func (m *mover) pump(ctx context.Context, r io.Reader, h hash.Hash, w io.Writer) (n int64, err error) {
	buf := make([]byte, chunk)
	for {
		got, err := r.Read(buf)
		n += int64(got)
		if got > 0 {
			if err := wait(ctx, m.limit, got); err != nil {
				return n, err
			}
			_, _ = h.Write(buf[:got]) // a hash never fails
			if w != nil {
				if _, err := w.Write(buf[:got]); err != nil {
					return n, fmt.Errorf("write to the target: %w", err)
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, unreadable(err)
		}
	}
}

// wait waits until n bytes may be copied.
func wait(ctx context.Context, limit *rate.Limiter, n int) error {
	if limit == nil {
		return ctx.Err()
	}
	return limit.WaitN(ctx, n)
}

// unreadable is an error of reading: damage if the medium says that what it holds is.
func unreadable(err error) error {
	if err = storage.Classify(err); errors.Is(err, storage.ErrUnreadable) {
		return &damageError{storage.DamageUnreadable, "the medium cannot read it"}
	}
	return err
}
