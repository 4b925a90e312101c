package backup

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"iter"
	"runtime"
	"testing"
	"testing/iotest"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// sample is a snapshot of a little registry.
func sample(t testing.TB) []byte {
	t.Helper()
	meta := mem.NewMeta()
	err := meta.Update(t.Context(), func(tx storage.Tx) error {
		return errors.Join(
			storage.Settings.Put(tx, storage.Key("upload-key"), storage.Setting{Value: []byte("secret")}),
			tx.Put(storage.Stored.Name(), append([]byte{1}, make([]byte, 32)...), must(cbor.Marshal(storage.Blob{Size: 7}))),
			storage.Accounts.Put(tx, storage.Key("alice"), storage.Account{Epoch: 1}),
			storage.Uploads.Put(tx, storage.Key("session"), storage.Upload{}))
	})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	head := Header{Created: time.Unix(1e9, 0)}
	if sums, err := writeSnapshot(t.Context(), &b, meta, &head); err != nil || sums.Rows != 3 || sums.Blobs != 1 || sums.Bytes != 7 {
		t.Fatalf("wrote %+v, %v", sums, err)
	}
	return b.Bytes()
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

func compress(t testing.TB, data []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(data, nil)
}

func decompress(t testing.TB, data []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return must(z.DecodeAll(data, nil))
}

func read(r io.Reader) error {
	s, err := readSnapshot(r)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.eachBlob(func(stored) error { return nil })
}

// sealed is a snapshot of these items, with a trailer that is right.
func sealed(t testing.TB, items ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, item := range items {
		b.Write(must(cbor.Marshal(item)))
	}
	sum := sha256.Sum256(b.Bytes())
	b.Write(must(cbor.Marshal(trailer{Rows: int64(len(items) - 1), SHA256: sum[:]})))
	return compress(t, b.Bytes())
}

func TestHostileSnapshots(t *testing.T) {
	head := Header{Format: formatName, Version: formatVersion}
	later := head
	later.Version++
	alien := head
	alien.Format = "tar"
	account := func(name string) row {
		return row{Table: storage.Accounts.Name(), Key: []byte(name), Value: []byte{0xa0}}
	}
	huge := append(must(cbor.Marshal(head)), 0x83, 0x68) // a row whose table has 8 characters
	huge = append(append(huge, "accounts"...), 0x5b, 0, 0, 0, 1, 0, 0, 0, 0)
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"whole":          {sealed(t, head, account("a"), account("b")), nil},
		"no rows":        {sealed(t, head), nil},
		"later version":  {sealed(t, later), ErrLater},
		"unknown table":  {sealed(t, head, row{Table: "inventions", Key: []byte("k")}), ErrLater},
		"another format": {sealed(t, alien), ErrDamaged},
		"empty":          {nil, ErrDamaged},
		"no zstd":        {[]byte("hello"), ErrDamaged},
		"row twice":      {sealed(t, head, account("a"), account("a")), ErrDamaged},
		"no key":         {sealed(t, head, account("")), ErrDamaged},
		"long key":       {sealed(t, head, account(string(make([]byte, storage.MaxKey+1)))), ErrDamaged},
		"no blob":        {sealed(t, head, row{Table: storage.Stored.Name(), Key: []byte("k")}), ErrDamaged},
		"no row":         {sealed(t, head, "row"), ErrDamaged},
		"no trailer":     {compress(t, must(cbor.Marshal(head))), ErrDamaged},
		"huge item":      {compress(t, append(huge, make([]byte, 1<<30)...)), ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := read(bytes.NewReader(c.data))
			runtime.ReadMemStats(&after)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 512<<20 {
				t.Errorf("%d MiB of memory were made", used>>20)
			}
		})
	}
}

// An error of the medium is none of the snapshot.
func TestMediumFails(t *testing.T) {
	whole, broken := sample(t), errors.New("connection reset")
	for n := range whole {
		err := read(medium{io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken))})
		if !errors.Is(err, broken) || errors.Is(err, ErrDamaged) {
			t.Fatalf("behind %d bytes: %v", n, err)
		}
	}
}

func FuzzSnapshot(f *testing.F) {
	whole := decompress(f, sample(f))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := read(bytes.NewReader(compress(t, data))); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrLater) {
			t.Errorf("unexpected error %v", err)
		}
		_ = read(bytes.NewReader(data)) // whatever it is
	})
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"blobs/sha256/ab/ab" + string(bytes.Repeat([]byte("0"), 62)): true,
		"blobs/sha256/ac/ab" + string(bytes.Repeat([]byte("0"), 62)): false,
		"blobs/sha256/ab/ab": false,
		"blobs/md5/ab/ab":    false,
		"blobs/":             false,
		"":                   false,
		"other":              false,
	} {
		if d, ok := blobOf(name); ok != want {
			t.Errorf("blobOf(%q) = %s, %v", name, d, ok)
		}
	}
}

// A target that does not list in order is found out: nothing is taken to be missing
// that is there.
func TestUnordered(t *testing.T) {
	objects := []Object{{Name: "blobs/sha256/bb/b"}, {Name: "blobs/sha256/aa/a"}}
	l := &listed{}
	l.next, l.stop = iter.Pull2(func(yield func(Object, error) bool) {
		for _, o := range objects {
			if !yield(o, nil) {
				return
			}
		}
	})
	defer l.stop()
	if err := l.step(); err != nil {
		t.Fatal(err)
	}
	if err := l.step(); !errors.Is(err, storage.ErrUnreadable) {
		t.Errorf("got %v", err)
	}
}
