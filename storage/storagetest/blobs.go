package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// TestBlobs checks that a driver does what storage.Blobs and storage.Stage
// promise. Each call of open returns an empty store of its own; the suite closes
// it if it is an io.Closer.
func TestBlobs(t *testing.T, open func(t *testing.T) storage.Blobs) {
	for _, c := range []struct {
		name string
		test func(*testing.T, storage.Blobs)
	}{
		{"blob", testBlob},
		{"ranges", testRanges},
		{"nothing there", testNothingThere},
		{"replace", testReplace},
		{"resume", testResume},
		{"resume what is too short", testResumeShort},
		{"close keeps", testCloseKeeps},
		{"start again", testStartAgain},
		{"read while writing", testReadWhileWriting},
		{"known digest", testKnownDigest},
		{"discard", testDiscard},
		{"stages", testStages},
		{"at once", testStagesAtOnce},
		{"same blob at once", testSameBlobAtOnce},
		{"list", testList},
		{"quarantine", testQuarantine},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t)
			defer closeBlobs(t, b)
			c.test(t, b)
		})
	}
}

func closeBlobs(t *testing.T, b storage.Blobs) {
	t.Helper()
	if c, ok := b.(io.Closer); ok {
		if err := c.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	}
}

// stageID returns the i-th of some ids such as upload sessions have.
func stageID(i int) string { return fmt.Sprintf("%032x", 0xbe417b+i) }

func openStage(t *testing.T, b storage.Blobs, id string, off int64) storage.Stage {
	t.Helper()
	s, err := b.Stage(context.Background(), id, off)
	if err != nil {
		t.Fatalf("Stage at %d: %v", off, err)
	}
	return s
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func write(t *testing.T, s storage.Stage, p []byte) {
	t.Helper()
	n, err := s.Write(p)
	if err != nil || n != len(p) {
		t.Fatalf("Write of %d bytes: %d, %v", len(p), n, err)
	}
}

// store stores data as the blob d through the i-th stage.
func store(b storage.Blobs, i int, d digest.Digest, data []byte) (err error) {
	s, err := b.Stage(context.Background(), stageID(i), 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for chunk := range slices.Chunk(data, 100_000) {
		if _, err := s.Write(chunk); err != nil {
			return err
		}
	}
	return s.Commit(d)
}

// blobError is an error unless data is the blob d.
func blobError(b storage.Blobs, d digest.Digest, data []byte) (err error) {
	size, err := b.Size(context.Background(), d)
	if err != nil || size != int64(len(data)) {
		return fmt.Errorf("Size = %d, %w, want %d", size, err, len(data))
	}
	r, err := b.Open(context.Background(), d)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	got, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(got, data) {
		err = fmt.Errorf("blob of %d bytes reads as %d others", len(data), len(got))
	}
	return err
}

func checkBlob(t *testing.T, b storage.Blobs, d digest.Digest, data []byte) {
	t.Helper()
	if err := blobError(b, d, data); err != nil {
		t.Errorf("%.20s: %v", d, err)
	}
}

// checkStage fails the test unless s holds data.
func checkStage(t *testing.T, s storage.Stage, data []byte) {
	t.Helper()
	r, err := s.Reader()
	must(t, "Reader", err)
	got, err := io.ReadAll(r)
	must(t, "read the stage", errors.Join(err, r.Close()))
	if !bytes.Equal(got, data) {
		t.Errorf("stage holds %d bytes %.20x, want %d bytes %.20x", len(got), got, len(data), data)
	}
}

func checkNoBlob(t *testing.T, b storage.Blobs, d digest.Digest) {
	t.Helper()
	if _, err := b.Size(context.Background(), d); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Size: error %v, want ErrNotFound", err)
	}
	r, err := b.Open(context.Background(), d)
	if !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Open: error %v, want ErrNotFound", err)
	}
	if err == nil {
		_ = r.Close()
	}
}

func checkNoStage(t *testing.T, b storage.Blobs, id string, off int64) {
	t.Helper()
	s, err := b.Stage(context.Background(), id, off)
	if !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Stage at %d: error %v, want ErrNotFound", off, err)
	}
	if err == nil {
		_ = s.Close()
	}
}

func stages(t *testing.T, b storage.Blobs) []string {
	t.Helper()
	ids := []string{}
	for s, err := range b.Stages(context.Background()) {
		must(t, "Stages", err)
		if age := time.Since(s.Modified); age > time.Hour || age < -time.Hour {
			t.Errorf("stage %s was modified at %v", s.ID, s.Modified)
		}
		ids = append(ids, s.ID)
	}
	slices.Sort(ids)
	return ids
}

func testBlob(t *testing.T, b storage.Blobs) {
	blobs := map[digest.Digest][]byte{}
	for _, size := range []int{0, 1, 4096, 3_000_001} {
		data := noise(size, uint64(size))
		blobs[digest.SHA256.FromBytes(data)] = data
		blobs[digest.SHA512.FromBytes(data)] = data
	}
	i := 0
	for d, data := range blobs {
		checkNoBlob(t, b, d)
		must(t, "store", store(b, i, d, data))
		i++
	}
	if got := stages(t, b); len(got) > 0 {
		t.Errorf("after the commits there are the stages %q", got)
	}
	for d, data := range blobs {
		checkBlob(t, b, d, data)
		must(t, "Delete", b.Delete(context.Background(), d))
		checkNoBlob(t, b, d)
		if err := b.Delete(context.Background(), d); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Delete again: error %v, want ErrNotFound", err)
		}
		delete(blobs, d)
		for d, data := range blobs {
			checkBlob(t, b, d, data)
		}
	}
}

func testRanges(t *testing.T, b storage.Blobs) {
	data := noise(300_000, 1)
	d := digest.FromBytes(data)
	must(t, "store", store(b, 0, d, data))
	r, err := b.Open(context.Background(), d)
	must(t, "Open", err)
	defer func() { must(t, "Close", r.Close()) }()

	size := int64(len(data))
	at := func(want int64, off int64, whence int) {
		t.Helper()
		if got, err := r.Seek(off, whence); err != nil || got != want {
			t.Fatalf("Seek(%d, %d) = %d, %v, want %d", off, whence, got, err, want)
		}
		got := make([]byte, min(1000, max(0, size-want)))
		if _, err := io.ReadFull(r, got); err != nil {
			t.Fatalf("read at %d: %v", want, err)
		}
		if want <= size && !bytes.Equal(got, data[want:want+int64(len(got))]) {
			t.Errorf("read at %d: other bytes than were stored", want)
		}
	}
	at(size, 0, io.SeekEnd)
	at(0, 0, io.SeekStart)
	at(123_456, 123_456, io.SeekStart)
	at(123_456+1000+10, 10, io.SeekCurrent)
	at(123_456, -2010, io.SeekCurrent)
	at(size-7, -7, io.SeekEnd)
	at(size+100, size+100, io.SeekStart)
	if n, err := r.Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read behind the end = %d, %v, want EOF", n, err)
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("Seek to -1: no error")
	}
	if ra, ok := r.(io.ReaderAt); ok {
		got := make([]byte, 500)
		if _, err := ra.ReadAt(got, 777); err != nil || !bytes.Equal(got, data[777:1277]) {
			t.Errorf("ReadAt: error %v, or other bytes than were stored", err)
		}
	}
}

func testNothingThere(t *testing.T, b storage.Blobs) {
	d := digest.FromString("never stored")
	checkNoBlob(t, b, d)
	checkNoBlob(t, b, digest.SHA512.FromString("never stored"))
	if err := b.Delete(context.Background(), d); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Delete: error %v, want ErrNotFound", err)
	}
	checkNoStage(t, b, stageID(0), 1)
	if got := stages(t, b); len(got) > 0 {
		t.Errorf("an empty store has the stages %q", got)
	}
}

// testReplace checks that a commit replaces a blob. Callers only do that with
// the same bytes; other ones show that it happens.
func testReplace(t *testing.T, b storage.Blobs) {
	d := digest.FromString("some blob")
	for i, data := range [][]byte{noise(1000, 1), noise(1000, 1), noise(10, 2), {}, noise(2000, 3)} {
		must(t, "store", store(b, i, d, data))
		checkBlob(t, b, d, data)
	}
}

// testSameBlobAtOnce checks that a blob is whole at any time while several
// stages become it.
func testSameBlobAtOnce(t *testing.T, b storage.Blobs) {
	data := noise(200_000, 1)
	d := digest.FromBytes(data)
	must(t, "store", store(b, 0, d, data))
	atOnce(t, 8, func(i int) error {
		for range 5 {
			if err := errors.Join(store(b, i, d, data), blobError(b, d, data)); err != nil {
				return err
			}
		}
		return nil
	})
	if got := stages(t, b); len(got) > 0 {
		t.Errorf("after the commits there are the stages %q", got)
	}
}

func testStagesAtOnce(t *testing.T, b storage.Blobs) {
	atOnce(t, 16, func(i int) error {
		data := noise(150_000+i, uint64(i))
		d := digest.FromBytes(data)
		return errors.Join(store(b, i, d, data), blobError(b, d, data))
	})
}
