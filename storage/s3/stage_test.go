package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/storage"
)

func TestPartSize(t *testing.T) {
	for _, c := range []struct{ first, off, want int64 }{
		{defaultPart, 0, defaultPart},
		{minPart, 0, minPart},
		{defaultPart, 16<<30 - 1, defaultPart},
		{defaultPart, 16 << 30, 32 << 20},
		{64 << 20, 16 << 30, 64 << 20},
		{defaultPart, 100 << 30, 128 << 20},
		{defaultPart, 256 << 30, 2 << 30},
		{maxFirstPart, 0, maxFirstPart},
		{defaultPart, maxBlob, 2 << 30},
	} {
		if got := partSize(c.first, c.off); got != c.want {
			t.Errorf("partSize(%d, %d) = %d, want %d", c.first, c.off, got, c.want)
		}
	}
	for _, first := range []int64{minPart, minPart + 1, defaultPart, 100 << 20, maxFirstPart} {
		n, last := 0, int64(0)
		for off := int64(0); off < maxBlob; n++ {
			size := partSize(first, off)
			if size < last || size < minPart || size > 5<<30 {
				t.Fatalf("the part at %d has %d bytes, the one before it %d", off, size, last)
			}
			off, last = off+size, size
		}
		if n > maxParts {
			t.Errorf("with first parts of %d bytes, 5 TiB are %d parts", first, n)
		}
	}
}

// TestBuffer checks a buffer against a slice, in memory and in a file.
func TestBuffer(t *testing.T) {
	data := noise(memoryMost+1, 1)
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, 2*chunkSize + 5, memoryMost + 1} {
		dir := t.TempDir()
		b := buffer{dir: dir}
		for piece := range slices.Chunk(data[:size], 1_000_003) {
			if n, err := b.Write(piece); n != len(piece) || err != nil {
				t.Fatalf("Write: %d, %v", n, err)
			}
		}
		if inFile := b.file != nil; inFile != (size > memoryMost) {
			t.Errorf("%d bytes: in a file: %v", size, inFile)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("the file has the name %v, %v", left, err)
		}
		for range 2 {
			got, err := io.ReadAll(b.reader())
			if err != nil || !bytes.Equal(got, data[:size]) {
				t.Fatalf("%d bytes read as %d others, %v", size, len(got), err)
			}
		}
		b.truncate(int64(size / 2))
		if _, err := b.Write([]byte("end")); err != nil {
			t.Fatal(err)
		}
		want := append(slices.Clone(data[:size/2]), "end"...)
		if got, err := io.ReadAll(b.reader()); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, truncated and appended to, read as %d others, %v", size, len(got), err)
		}
		b.reset()
	}
}

func checkStage(t testing.TB, s storage.Stage, data []byte) {
	t.Helper()
	r, err := s.Reader()
	must(t, "Reader", err)
	got, err := io.ReadAll(r)
	must(t, "read the stage", errors.Join(err, r.Close()))
	if !bytes.Equal(got, data) {
		t.Fatalf("the stage of %d bytes reads as %d others", len(data), len(got))
	}
}

// TestResume goes on with a stage in another process again and again, from where it
// was synced or before that: within the tail, at the end of a part, and within one.
func TestResume(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	data := noise(2*minPart+1000, 1)
	part := int64(minPart)
	for _, c := range []struct {
		name    string
		to, off int64 // up to where it is written, and from where on then
	}{
		{"where it was", 2*part + 1000, 2*part + 1000},
		{"within the tail", 2*part + 1000, 2*part + 1},
		{"at the end of the parts", 2*part + 1000, 2 * part},
		{"no tail", 2 * part, 2 * part},
		{"at the end of a part", 2*part + 1000, part},
		{"within a part", 2*part + 1000, part + part/2},
		{"within the first part", 2*part + 1000, 1000},
		{"within the last part", 2 * part, 2*part - 1},
		{"within a small tail", 1000, 10},
	} {
		for _, read := range []bool{false, true} {
			t.Run(c.name, func(t *testing.T) {
				st := openStage(t, open(t, o), "id", 0)
				write(t, st, data[:c.to])
				must(t, "Sync", st.Sync())
				if read { // its parts have become an object
					checkStage(t, st, data[:c.to])
				}
				must(t, "Close", st.Close())

				st = openStage(t, open(t, o), "id", c.off)
				if _, err := open(t, o).Stage(t.Context(), "id", c.off+1); !errors.Is(err, storage.ErrNotFound) && c.off < c.to {
					t.Errorf("what was behind is still there: %v", err)
				}
				if read {
					checkStage(t, st, data[:c.off])
				}
				other := noise(minPart+1000, 2)
				write(t, st, other)
				must(t, "Sync, Close", errors.Join(st.Sync(), st.Close()))
				all := slices.Concat(data[:c.off], other)

				b := open(t, o)
				st = openStage(t, b, "id", int64(len(all)))
				if read {
					checkStage(t, st, all)
				}
				write(t, st, []byte("end"))
				all = append(all, "end"...)
				d := digest.FromBytes(all)
				must(t, "Commit, Close", errors.Join(st.Commit(d), st.Close()))
				checkBlob(t, b, d, all)
				must(t, "Delete", b.Delete(t.Context(), d))
				if left := below(t, s, b); len(left) > 0 {
					t.Errorf("%q are left", left)
				}
			})
		}
	}
}

// TestResumeKnown goes on with a stage whose digest was known.
func TestResumeKnown(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	data := noise(3*minPart, 1)
	d := digest.FromBytes(data)
	b := open(t, o)
	st, err := b.StageFor(t.Context(), "id", d)
	must(t, "StageFor", err)
	write(t, st, data[:minPart+1000])
	must(t, "Sync, Close", errors.Join(st.Sync(), st.Close()))

	st = openStage(t, open(t, o), "id", minPart+1000)
	write(t, st, data[minPart+1000:])
	if _, err := st.Reader(); err == nil {
		t.Error("the parts of a blob nobody has checked can be read")
	}
	if err := st.Commit(digest.FromString("another")); err == nil {
		t.Error("a stage becomes another blob than it was for")
	}
	_ = st.Close()
	if left := below(t, s, b); has(left, "blobs/") && !has(left, "multipart blobs/") {
		t.Fatalf("there is a blob: %q", left)
	}
	st = openStage(t, b, "id", minPart+1000)
	write(t, st, data[minPart+1000:])
	must(t, "Commit, Close", errors.Join(st.Commit(d), st.Close()))
	checkBlob(t, b, d, data)
	must(t, "Delete", b.Delete(t.Context(), d))
	if left := below(t, s, b); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}

// TestTwoWriters has two processes go on with one stage: only one of them can save
// what it has.
func TestTwoWriters(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	data := noise(3*minPart, 1)
	st := openStage(t, open(t, o), "id", 0)
	write(t, st, data[:minPart+1000])
	must(t, "Sync, Close", errors.Join(st.Sync(), st.Close()))
	one, two := openStage(t, open(t, o), "id", minPart+1000), openStage(t, open(t, o), "id", minPart+1000)
	write(t, one, data[minPart+1000:])
	write(t, two, noise(2*minPart, 2))
	must(t, "Sync of one", one.Sync())
	if err := two.Sync(); err == nil {
		t.Error("both were saved")
	}
	_ = two.Close()
	d := digest.FromBytes(data)
	// Its second part is the other's now, which S3 tells by its ETag.
	err := errors.Join(one.Commit(d), one.Close())
	b := open(t, o)
	if err == nil {
		checkBlob(t, b, d, data)
	} else if _, err := b.Size(t.Context(), d); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Size of a mixture: %v", err)
	}
	discardAll(t, b)
}

// TestTwoBegin has two processes begin one stage: what one has saved the other does not
// write over, whether it saves or lets go, and knew the digest or not.
func TestTwoBegin(t *testing.T) {
	s := berthtest.StartS3(t)
	data, other := noise(minPart+1000, 1), noise(2*minPart, 2)
	d := digest.FromBytes(data)
	for name, begin := range map[string]func(*Blobs) (storage.Stage, error){
		"unknown": func(b *Blobs) (storage.Stage, error) { return b.Stage(t.Context(), "id", 0) },
		"known":   func(b *Blobs) (storage.Stage, error) { return b.StageFor(t.Context(), "id", digest.FromBytes(other)) },
	} {
		for _, sync := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, sync %v", name, sync), func(t *testing.T) {
				o := options(t, s)
				one := openStage(t, open(t, o), "id", 0)
				two, err := begin(open(t, o))
				must(t, "Stage", err)
				write(t, one, data)
				write(t, two, other)
				must(t, "Sync of one", one.Sync())
				if sync {
					if err := two.Sync(); err == nil {
						t.Error("both were saved")
					}
				}
				_ = two.Close()
				must(t, "Close of one", one.Close())
				b := open(t, o)
				st := openStage(t, b, "id", int64(len(data)))
				must(t, "Commit, Close", errors.Join(st.Commit(d), st.Close()))
				checkBlob(t, b, d, data)
				discardAll(t, b)
				must(t, "Discard", b.Discard(t.Context(), "id"))
				if left := below(t, s, b); len(left) != 1 {
					t.Errorf("%q are left", left)
				}
			})
		}
	}
}

// TestCopies checks that a large object is copied in parts, and that a copy that
// fails leaves nothing.
func TestCopies(t *testing.T) {
	s := berthtest.StartS3(t)
	p := newProxy(t, s)
	o := options(t, s)
	o.Endpoint = p.URL
	b := open(t, o)
	b.copyMost, b.copyPart = minPart, minPart
	data := noise(3*minPart+1, 1)
	d := digest.FromBytes(data)
	st := openStage(t, b, "id", 0)
	write(t, st, data)
	must(t, "Commit, Close", errors.Join(st.Commit(d), st.Close()))
	checkBlob(t, b, d, data)
	if !has(p.requests(), "partNumber=4") {
		t.Errorf("it was not copied in parts: %q", p.requests())
	}
	p.set(func(r *http.Request) fault {
		if r.URL.Query().Get("partNumber") == "3" {
			return answer(http.StatusForbidden, "AccessDenied")
		}
		return nil
	})
	if err := b.Quarantine(t.Context(), d); !errors.Is(err, storage.ErrReadOnly) {
		t.Errorf("Quarantine: error %v, want ErrReadOnly", err)
	}
	p.set(nil)
	checkBlob(t, b, d, data)
	if left := below(t, s, b); len(left) != 1 {
		t.Errorf("%q are left", left)
	}
}

// TestAbandoned checks that a stage of which only multipart uploads are left is
// listed with the time of its last part, and discarded.
func TestAbandoned(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	later := time.Now().Add(48 * time.Hour)
	o.Now = func() time.Time { return later }
	b := open(t, o)
	data := noise(minPart+1, 1)
	session := openStage(t, b, "session", 0)
	known, err := b.StageFor(t.Context(), "known", digest.FromBytes(data))
	must(t, "StageFor", err)
	write(t, session, data)
	write(t, known, data)
	var ids []string
	for st, err := range b.Stages(t.Context()) { // neither was closed
		must(t, "Stages", err)
		ids = append(ids, st.ID)
		if age := time.Since(st.Modified); age < -time.Minute || age > time.Minute {
			t.Errorf("stage %q was modified at %v", st.ID, st.Modified)
		}
	}
	if len(ids) != 2 || !slices.Contains(ids, "session") {
		t.Errorf("the stages are %q", ids)
	}
	discardAll(t, b)
	if left := below(t, s, b); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
	for _, id := range []string{"", ".", "..", "a/b", "multipart x", "multipart a b", "a b"} {
		if _, err := b.Stage(t.Context(), id, 0); err == nil {
			t.Errorf("stage id %q is accepted", id)
		}
	}
}

// TestRequests counts the requests of a small blob and of one in parts whose
// digest is known.
func TestRequests(t *testing.T) {
	s := berthtest.StartS3(t)
	p := newProxy(t, s)
	o := options(t, s)
	o.Endpoint = p.URL
	b := open(t, o)
	for _, c := range []struct {
		size int
		want []string
	}{
		{1000, []string{"PUT"}},
		{minPart, []string{"PUT"}},
		{minPart + 1, []string{"POST", "PUT", "PUT", "POST"}},
	} {
		p.set(nil)
		data := noise(c.size, 1)
		d := mustStore(t, b, data)
		var got []string
		for _, r := range p.requests() {
			method, rest, _ := strings.Cut(r, " ")
			got = append(got, method)
			if !strings.Contains(rest, d.Encoded()) {
				t.Errorf("request %q is not about the blob", r)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d bytes are the requests %q, want %q", c.size, got, c.want)
		}
		p.set(nil)
		checkBlob(t, b, d, data)
		if got := p.requests(); len(got) != 2 { // for its size, and for itself
			t.Errorf("to read it took the requests %q", got)
		}
	}
}

// TestMemory streams a gibibyte, and looks at how much of it is in memory.
func TestMemory(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	o.PartSize, o.Timeout = 0, time.Minute
	b := open(t, o)
	const size = 1 << 30
	st, err := b.StageFor(t.Context(), "id", digest.FromString("of some length"))
	must(t, "StageFor", err)
	piece := noise(1<<20, 1)
	most := uint64(0)
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	for n := range size / len(piece) {
		piece[0] = byte(n)
		write(t, st, piece)
		if n%13 == 0 {
			runtime.GC() // what is garbage does not count: when it goes is not ours to say
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64())
		}
	}
	must(t, "Commit, Close", errors.Join(st.Commit(digest.FromString("of some length")), st.Close()))
	if most > 64<<20 {
		t.Errorf("%d MiB were in memory", most>>20)
	}
	fi, err := os.Stat(filepath.Join(s.Dir, b.key(digest.FromString("of some length"))))
	if err != nil || fi.Size() != size {
		t.Errorf("the blob is %v, %v", fi, err)
	}
}

// TestSameBlob stores one blob by several processes at once, while others read it.
func TestSameBlob(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	data := noise(2*minPart+1, 1)
	mustStore(t, open(t, o), data)
	var wg sync.WaitGroup
	for i := range 4 {
		b := open(t, o)
		wg.Go(func() {
			if _, err := store(context.Background(), b, string(rune('a'+i)), data); err != nil {
				t.Errorf("store: %v", err)
			}
		})
		wg.Go(func() {
			r, err := b.Open(context.Background(), digest.FromBytes(data))
			if err != nil {
				t.Errorf("Open: %v", err)
				return
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("it reads as %d bytes, %v", len(got), err)
			}
			_ = r.Close()
		})
	}
	wg.Wait()
	if left := below(t, s, open(t, o)); len(left) != 1 {
		t.Errorf("%q are left", left)
	}
}
