package backup

import (
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// stored is a row of stored bytes.
type stored struct {
	digest digest.Digest
	size   int64
	ok     bool // they are not just being deleted
}

func readBlob(key, value []byte) (stored, error) {
	d, _, err := storage.CutDigest(key)
	if err != nil {
		return stored{}, err
	}
	var b storage.Blob
	if err := cbor.Unmarshal(value, &b); err != nil {
		return stored{}, fmt.Errorf("damaged row of %s: %w", d, err)
	}
	if b.Size < 0 {
		return stored{}, fmt.Errorf("damaged row of %s: size %d", d, b.Size)
	}
	return stored{digest: d, size: b.Size, ok: !b.Deleting}, nil
}

// eachBlob calls fn with the bytes that a snapshot needs, in the byte order of their
// digests. The snapshot is read to its end, and found to be whole.
func (s *reader) eachBlob(fn func(stored) error) error {
	for {
		r, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.Table != storage.Stored.Name() {
			continue
		}
		b, err := readBlob(r.Key, r.Value)
		if err != nil {
			return damaged(err)
		}
		if b.ok {
			if err := fn(b); err != nil {
				return err
			}
		}
	}
}

// errBytes says that bytes are not those of their digest.
var errBytes = errors.New("damaged: they are not what their digest says")

// errSize says that there are more bytes than there should be, or fewer.
var errSize = errors.New("damaged: they are more or fewer than they should be")

// checked reads the bytes of a blob, the last of them only if all are right.
type checked struct {
	r        io.Reader
	verifier digest.Verifier
	left     int64
	err      error // that r has failed with, or errBytes, or errSize
}

func newChecked(r io.Reader, b stored) *checked {
	return &checked{r: r, verifier: b.digest.Verifier(), left: b.size}
}

func (c *checked) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.left == 0 { // it has no bytes at all, or all were read
		if c.err = c.end(); c.err == nil {
			c.err = io.EOF
		}
		return 0, c.err
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	_, _ = c.verifier.Write(p[:n]) // a hash never fails
	c.left -= int64(n)
	switch {
	case c.left == 0:
		err = c.end()
	case errors.Is(err, io.EOF):
		err = errSize
	}
	if err != nil {
		c.err = err
		return 0, err
	}
	return n, nil
}

// end says whether what was read is right, and all there is.
func (c *checked) end() error {
	if !c.verifier.Verified() {
		return errBytes
	}
	var more [1]byte
	n, err := io.ReadFull(c.r, more[:])
	switch {
	case n > 0:
		return errSize
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// failed is the error that reading ended with, nil if it went to the end or nobody
// has read that far.
func (c *checked) failed() error {
	if errors.Is(c.err, io.EOF) {
		return nil
	}
	return c.err
}

// reason says what is wrong with bytes, without names of places.
func reason(err error) string {
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return "missing"
	case errors.Is(err, errBytes):
		return errBytes.Error()
	case errors.Is(err, errSize):
		return errSize.Error()
	}
	return "unreadable"
}

func damageKind(err error) storage.DamageKind {
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return storage.DamageMissing
	case errors.Is(err, errBytes):
		return storage.DamageDigest
	case errors.Is(err, errSize):
		return storage.DamageSize
	}
	return storage.DamageUnreadable
}
