package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// TestMetaReopen checks that rows outlive the store that wrote them. open opens
// the store that is kept in dir, or makes one if dir is empty.
func TestMetaReopen(t *testing.T, open func(t *testing.T, dir string) storage.Meta) {
	dir := t.TempDir()
	m := open(t, dir)
	put(t, m, "a", "b")
	large := noise(4<<20, 1)
	update(t, m, func(tx storage.Tx) error {
		return errors.Join(
			tx.Delete(table, []byte("b")),
			tx.Put(table, []byte("large"), large),
			tx.Put(other, []byte("o"), []byte("other")),
		)
	})
	for i := range 5 {
		must(t, "Close", m.Close())
		m = open(t, dir)
		view(t, m, func(tx storage.Tx) error {
			keys, err := scan(tx, nil, nil)
			if err == nil && !slices.Equal(keys, []string{"a", "large", "n/all"}[:min(2+i, 3)]) {
				err = fmt.Errorf("keys are %q", keys)
			}
			return errors.Join(err,
				expect(tx, table, "a", []byte("value of a")),
				expect(tx, table, "large", large),
				expect(tx, other, "o", []byte("other")),
			)
		})
		checkNumber(t, m, "n/all", int64(i))
		update(t, m, func(tx storage.Tx) error { return add(tx, "n/all", 1) })
	}
	must(t, "Close", m.Close())
}

// TestBlobsReopen checks that blobs and stages outlive the store that wrote
// them. open opens the store that is kept in dir, or makes one if dir is empty;
// the suite closes it if it is an io.Closer.
func TestBlobsReopen(t *testing.T, open func(t *testing.T, dir string) storage.Blobs) {
	dir := t.TempDir()
	b := open(t, dir)
	data := noise(500_000, 1)
	d := digest.SHA512.FromBytes(data)
	must(t, "store", store(b, 0, d, data))
	s := openStage(t, b, stageID(1), 0)
	write(t, s, data[:1000])
	must(t, "Sync", s.Sync())
	write(t, s, data[1000:2000])
	must(t, "Close", s.Close())
	closeBlobs(t, b)

	b = open(t, dir)
	checkBlob(t, b, d, data)
	if got := stages(t, b); !slices.Equal(got, []string{stageID(1)}) {
		t.Errorf("Stages lists %q", got)
	}
	s = openStage(t, b, stageID(1), 1000)
	checkStage(t, s, data[:1000])
	write(t, s, data[1000:3000])
	must(t, "Commit", s.Commit(digest.FromBytes(data[:3000])))
	must(t, "Close", s.Close())
	closeBlobs(t, b)

	b = open(t, dir)
	checkBlob(t, b, d, data)
	checkBlob(t, b, digest.FromBytes(data[:3000]), data[:3000])
	if got := stages(t, b); len(got) > 0 {
		t.Errorf("Stages lists %q", got)
	}
	closeBlobs(t, b)
}
