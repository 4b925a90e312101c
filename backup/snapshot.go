package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/berth-registry/berth/storage"
)

// A snapshot is a sequence of CBOR items (RFC 8742), compressed with zstd (RFC 8878):
// a Header; a row each, table by table in the order of their keys; and a trailer,
// which has the SHA-256 of all that comes before it. Whatever does not end like that
// is damaged.

const (
	formatName = "berth-backup"
	// formatVersion is that of the snapshots that are written. Those of earlier
	// versions can be read.
	formatVersion = 1
	// maxItem is how large an item may be, bytes: far more than any row. One that
	// claims to be larger is damaged.
	maxItem = 32 << 20
	// maxWindow is how much memory the decompression of a snapshot may need, bytes.
	maxWindow = 64 << 20
)

// ErrDamaged says that a snapshot is damaged.
var ErrDamaged = errors.New("the snapshot is damaged")

// ErrLater says that a snapshot was made by a later version.
var ErrLater = errors.New("the snapshot was made by a later version of berth, which has to restore it")

type (
	// Header is the first item of a snapshot.
	Header struct {
		Format   string    `cbor:"1,keyasint"`
		Version  int       `cbor:"2,keyasint"`
		Created  time.Time `cbor:"3,keyasint"`
		Registry []byte    `cbor:"4,keyasint"` // whose it is, a hash of a secret of its own
	}
	// row is a row of a table.
	row struct {
		_     struct{} `cbor:",toarray"`
		Table string
		Key   []byte
		Value []byte
	}
	// trailer is the last item.
	trailer struct {
		Rows   int64  `cbor:"1,keyasint"`
		Blobs  int64  `cbor:"2,keyasint"`
		Bytes  int64  `cbor:"3,keyasint"` // in the blobs
		SHA256 []byte `cbor:"4,keyasint"` // of all items before
	}
)

// writeSnapshot writes the metadata to w as it is at one moment. It completes head.
func writeSnapshot(ctx context.Context, w io.Writer, meta storage.Meta, head *Header) (sums trailer, err error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return sums, err
	}
	mode, err := cbor.EncOptions{Time: cbor.TimeUnixMicro}.EncMode()
	if err != nil {
		return sums, err
	}
	sum := sha256.New()
	items := mode.NewEncoder(io.MultiWriter(z, sum))
	err = meta.View(ctx, func(tx storage.Tx) error {
		if head.Registry, err = registryID(tx); err != nil {
			return err
		}
		head.Format, head.Version = formatName, formatVersion
		if err := items.Encode(head); err != nil {
			return err
		}
		for _, table := range storage.Tables() {
			for r, err := range tx.Scan(table, nil, nil) {
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					return err
				}
				if isLeftOut(table, r.Key) {
					continue
				}
				if err := sums.count(table, r); err != nil {
					return err
				}
				if err := items.Encode(row{Table: table, Key: r.Key, Value: r.Value}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return sums, errors.Join(err, z.Close())
	}
	sums.SHA256 = sum.Sum(nil)
	if err := mode.NewEncoder(z).Encode(sums); err != nil {
		return sums, errors.Join(err, z.Close())
	}
	return sums, z.Close()
}

// isLeftOut says that a row is about what a backup does not have: upload sessions, the
// count of them, and what the processes of the registry are at.
func isLeftOut(table string, key []byte) bool {
	switch table {
	case storage.Uploads.Name(), storage.Leases.Name(), storage.Holds.Name(), storage.Collecting.Name():
		return true
	}
	return table == storage.Counters.Name() && string(key) == storage.CountUploads
}

// count adds up a row.
func (t *trailer) count(table string, r storage.Row) error {
	t.Rows++
	if table != storage.Stored.Name() {
		return nil
	}
	blob, err := readBlob(r.Key, r.Value)
	if err == nil && blob.ok {
		t.Blobs++
		t.Bytes += blob.size
	}
	return err
}

// registryID tells a registry from others, and what is made anew from it is the same.
func registryID(tx storage.Tx) ([]byte, error) {
	s, err := storage.Settings.Get(tx, storage.Key("upload-key"))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	id := sha256.Sum256(append([]byte(formatName+"\x00"), s.Value...))
	return id[:16], nil
}

// reader reads a snapshot.
type reader struct {
	Header
	z     *zstd.Decoder
	items *cbor.Decoder
	limit *budget
	sum   hash.Hash
	sums  trailer // so far
	last  row     // before this one
}

// budget is how much may be read before there must be an item.
type budget struct {
	r    io.Reader
	left int
}

func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, corrupt("an item is too large")
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// readSnapshot begins to read a snapshot. The caller closes it.
func readSnapshot(r io.Reader) (*reader, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	s := &reader{z: z, limit: &budget{r: z}, sum: sha256.New()}
	s.items = cbor.NewDecoder(s.limit)
	item, err := s.item()
	if err == nil {
		err = cbor.Unmarshal(item, &s.Header)
	}
	if err == nil && s.Format != formatName {
		err = errors.New("it does not begin like one")
	}
	if err == nil && s.Version > formatVersion {
		z.Close()
		return nil, ErrLater
	}
	if err != nil {
		z.Close()
		return nil, damaged(err)
	}
	s.sum.Write(item)
	return s, nil
}

// Close lets go of the reader.
func (s *reader) Close() { s.z.Close() }

func (s *reader) item() (cbor.RawMessage, error) {
	s.limit.left = maxItem
	var item cbor.RawMessage
	err := s.items.Decode(&item)
	return item, err
}

// next returns the next row, or io.EOF behind the last one, once all that was read is
// known to be as it was written.
func (s *reader) next() (row, error) {
	item, err := s.item()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return row{}, damaged(err)
	}
	const majorMap = 5 // RFC 8949, section 3.1
	if len(item) > 0 && item[0]>>5 == majorMap {
		return row{}, s.end(item)
	}
	s.sum.Write(item)
	var r row
	if err := cbor.Unmarshal(item, &r); err != nil {
		return row{}, damaged(err)
	}
	if len(r.Key) == 0 || len(r.Key) > storage.MaxKey || r.Table == s.last.Table && bytes.Compare(r.Key, s.last.Key) <= 0 {
		return row{}, corrupt("a row of %q is out of place", r.Table)
	}
	if !slices.Contains(storage.Tables(), r.Table) {
		return row{}, fmt.Errorf("%w: it has a table %q", ErrLater, r.Table)
	}
	s.last = r
	if err := s.sums.count(r.Table, storage.Row{Key: r.Key, Value: r.Value}); err != nil {
		return row{}, damaged(err)
	}
	return r, nil
}

// end reads the trailer, and returns io.EOF if all is well.
func (s *reader) end(item []byte) error {
	var t trailer
	if err := cbor.Unmarshal(item, &t); err != nil {
		return damaged(err)
	}
	s.sums.SHA256 = s.sum.Sum(nil)
	if !bytes.Equal(t.SHA256, s.sums.SHA256) || t.Rows != s.sums.Rows || t.Blobs != s.sums.Blobs || t.Bytes != s.sums.Bytes {
		return corrupt("it is not what was written")
	}
	if _, err := s.item(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("there is more behind its end")
	}
	return io.EOF
}

// damaged makes an error of reading one of damage, unless it is of the medium.
func damaged(err error) error {
	for _, passes := range []error{ErrDamaged, ErrLater, storage.ErrUnreadable, errMedium, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, passes) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// errMedium says that a target could not be read.
var errMedium = errors.New("cannot read the target")

// medium tells errors of a medium from those of what it holds.
type medium struct{ r io.Reader }

func (m medium) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errMedium, err)
	}
	return n, err
}

// openSnapshot opens a snapshot of a target.
func openSnapshot(ctx context.Context, t Target, name string) (*reader, func(), error) {
	f, err := t.Open(ctx, snapshotPath(name))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil, noSnapshot(name)
	}
	if err != nil {
		return nil, nil, err
	}
	s, err := readSnapshot(medium{f})
	if err != nil {
		_ = f.Close() // it was only read
		return nil, nil, err
	}
	return s, func() { s.Close(); _ = f.Close() }, nil
}

func readHeader(ctx context.Context, t Target, name string) (Header, error) {
	s, closeIt, err := openSnapshot(ctx, t, name)
	if err != nil {
		return Header{}, err
	}
	defer closeIt()
	return s.Header, nil
}
