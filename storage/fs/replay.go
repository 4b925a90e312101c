package fs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/storage"
)

// The kinds of records.
const (
	kindPut    = 'P'
	kindRemove = 'R'
)

// record is an entry of the journal:
//
//	kind      1 byte
//	digest    1 byte for the algorithm, 32 or 64 bytes (storage.DigestPart)
//	length    4 bytes, big-endian: of data
//	checksum  4 bytes, big-endian: CRC-32C of what is before it
//	data      the blob, which its digest checks
type record struct {
	kind   byte
	digest digest.Digest
	data   []byte
}

// Bytes of a record between its digest and its data.
const recordTail = 4 + 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r record) encode() []byte {
	part := storage.DigestPart(r.digest)
	b := make([]byte, 0, 1+len(part)+recordTail+len(r.data))
	b = append(append(b, r.kind), part...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.data)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return append(b, r.data...)
}

// errTorn says that a record is not whole: its writer was cut short, so nobody
// was told that it is durable.
var errTorn = errors.New("torn record")

// readRecord reads the next record; io.EOF says that there is none.
func readRecord(r *bufio.Reader) (record, error) {
	const shortest = 1 + 1 + 32 + recordTail
	head, err := r.Peek(shortest)
	if len(head) == 0 {
		return record{}, io.EOF
	}
	if err != nil {
		return record{}, errTorn
	}
	if head[1] == storage.DigestPart(digest.SHA512.FromBytes(nil))[0] {
		if head, err = r.Peek(shortest + 32); err != nil {
			return record{}, errTorn
		}
	}
	d, tail, err := storage.CutDigest(head[1:])
	if err != nil || len(tail) != recordTail || crc32.Checksum(head[:len(head)-4], castagnoli) != binary.BigEndian.Uint32(tail[4:]) {
		return record{}, errTorn
	}
	rec := record{kind: head[0], digest: d}
	length := binary.BigEndian.Uint32(tail)
	if length > small || rec.kind != kindPut && rec.kind != kindRemove {
		return record{}, errTorn
	}
	if _, err := r.Discard(len(head)); err != nil {
		return record{}, err
	}
	rec.data = make([]byte, length)
	if _, err := io.ReadFull(r, rec.data); err != nil {
		return record{}, errTorn
	}
	if rec.kind == kindPut && d.Algorithm().FromBytes(rec.data) != d {
		return record{}, errTorn
	}
	return rec, nil
}

// replay calls apply with each record of the journal in dir, in their order,
// makes what it did durable, and removes the journal.
func replay(dir string, apply func(record) error) error {
	entries, err := os.ReadDir(dir) // sorted by name, that is by age
	if err != nil || len(entries) == 0 {
		return err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, filepath.Join(dir, e.Name()))
	}
	slices.Sort(names)
	for _, name := range names {
		if err := replaySegment(name, apply); err != nil {
			return err
		}
	}
	if err := syncFileSystem(dir); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return durable.SyncDir(dir)
}

func replaySegment(name string, apply func(record) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	r := bufio.NewReaderSize(f, 2*small)
	for {
		rec, err := readRecord(r)
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			return nil // behind a torn record there is nothing that anybody relies on
		}
		if err != nil {
			return err
		}
		if err := apply(rec); err != nil {
			return err
		}
	}
}
