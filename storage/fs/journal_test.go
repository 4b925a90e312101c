package fs

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

func openFS(t testing.TB, dir string) *Blobs {
	t.Helper()
	b, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func put(t testing.TB, b *Blobs, data []byte) digest.Digest {
	t.Helper()
	s, err := b.Stage(t.Context(), "stage", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Write(data)
	d := digest.FromBytes(data)
	if err := errors.Join(err, s.Commit(d), s.Close()); err != nil {
		t.Fatal(err)
	}
	return d
}

func read(t testing.TB, b *Blobs, d digest.Digest) []byte {
	t.Helper()
	f, err := b.Open(t.Context(), d)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// afterPowerCut returns a copy of dir as it may be on disk when the power fails
// before a checkpoint: of small blobs only the journal is.
func afterPowerCut(t testing.TB, dir string, harm func(blob string)) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(to, "blobs/*/*/*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal("no blobs", err)
	}
	for _, name := range blobs {
		harm(name)
	}
	return to
}

// Whatever a power cut leaves of a small blob's file, the journal restores it.
func TestReplay(t *testing.T) {
	dir := t.TempDir()
	b := openFS(t, dir)
	want := map[digest.Digest][]byte{}
	for _, data := range [][]byte{{}, []byte("a"), bytes.Repeat([]byte("b"), small)} {
		want[put(t, b, data)] = data
	}
	for name, harm := range map[string]func(string){
		"missing":      func(f string) { _ = os.Remove(f) },
		"empty":        func(f string) { _ = os.Truncate(f, 0) },
		"too long":     func(f string) { _ = os.WriteFile(f, bytes.Repeat([]byte{0}, small+1), 0o600) },
		"zeros":        func(f string) { fi, _ := os.Stat(f); _ = os.WriteFile(f, make([]byte, fi.Size()), 0o600) },
		"untouched":    func(string) {},
		"no directory": func(f string) { _ = os.RemoveAll(filepath.Dir(f)) },
	} {
		t.Run(name, func(t *testing.T) {
			after := afterPowerCut(t, dir, harm)
			b := openFS(t, after)
			for d, data := range want {
				if got := read(t, b, d); !bytes.Equal(got, data) || got == nil {
					t.Errorf("%s has %d bytes, want %d", d, len(got), len(data))
				}
			}
			if left, _ := filepath.Glob(filepath.Join(after, "journal/*")); len(left) > 0 {
				t.Errorf("the journal is still there: %q", left)
			}
		})
	}
}

// A removed blob does not come back with the journal; one that was put again
// after that does.
func TestReplayRemoved(t *testing.T) {
	dir := t.TempDir()
	b := openFS(t, dir)
	gone, back := put(t, b, []byte("gone")), put(t, b, []byte("back"))
	for _, d := range []digest.Digest{gone, back} {
		if err := b.Delete(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	put(t, b, []byte("back"))
	b = openFS(t, afterPowerCut(t, dir, func(string) {}))
	if got := read(t, b, gone); got != nil {
		t.Errorf("the removed blob came back")
	}
	if got := read(t, b, back); string(got) != "back" {
		t.Errorf("the blob that was put again is %q", got)
	}
}

// TestReplayStagedAgain removes a blob that the journal holds, and pushes it again by
// way of a file: what the journal says of it is not the last word.
func TestReplayStagedAgain(t *testing.T) {
	dir := t.TempDir()
	b := openFS(t, dir)
	data := []byte("small, and sent in pieces the second time")
	d := put(t, b, data)
	if err := b.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	s, err := b.Stage(t.Context(), "stage", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Write(data)
	if err := errors.Join(err, s.Sync(), s.Commit(d), s.Close()); err != nil {
		t.Fatal(err)
	}
	after := openFS(t, afterPowerCut(t, dir, func(string) {})) // its process is killed, no more
	if got := read(t, after, d); !bytes.Equal(got, data) {
		t.Errorf("after a restart the blob is %q", got)
	}
}

// Bytes at the end that are not a whole record, as a crash leaves them, do not
// hide the records before them.
func TestReplayTorn(t *testing.T) {
	dir := t.TempDir()
	b := openFS(t, dir)
	d := put(t, b, []byte("whole"))
	torn := record{kindPut, digest.FromString("torn"), []byte("torn")}.encode()
	for n := range torn {
		after := afterPowerCut(t, dir, func(f string) { _ = os.Remove(f) })
		segments, _ := filepath.Glob(filepath.Join(after, "journal/*"))
		f, err := os.OpenFile(segments[0], os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write(torn[:n])
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		b := openFS(t, after)
		if got := read(t, b, d); string(got) != "whole" {
			t.Fatalf("with %d bytes of a torn record the blob before it is %q", n, got)
		}
		if got := read(t, b, digest.FromString("torn")); got != nil {
			t.Fatalf("%d bytes of a torn record made a blob", n)
		}
		_ = b.Close()
	}
}

// A checkpoint empties the journal and loses nothing, also while blobs are put,
// and one that follows a failed one writes everything again.
func TestCheckpoint(t *testing.T) {
	dir := t.TempDir()
	b := openFS(t, dir)
	var mu sync.Mutex
	var all []digest.Digest
	var wg sync.WaitGroup
	for i := range byte(8) {
		wg.Go(func() {
			for n := range byte(30) {
				data := bytes.Repeat([]byte{i, n}, 1000)
				d := digest.FromBytes(data)
				if err := b.putSmall(d, data); err != nil {
					t.Error(err)
				}
				mu.Lock()
				all = append(all, d)
				mu.Unlock()
				if n%10 == 0 {
					if err := b.journal.checkpoint(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	damaged := b.path(all[len(all)-1])
	if err := b.putSmall(all[len(all)-1], read(t, b, all[len(all)-1])); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged, []byte("lost by the kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.journal.suspect = true
	if err := b.journal.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "journal/*")); len(left) > 0 {
		t.Errorf("the journal is still there: %q", left)
	}
	for _, d := range all {
		if got := digest.FromBytes(read(t, b, d)); got != d {
			t.Errorf("%s is %s", d, got)
		}
	}
}

// A segment that cannot be synced takes nothing more: what follows goes to a new
// one.
func TestBrokenSegment(t *testing.T) {
	dir := t.TempDir()
	b := openFS(t, dir)
	put(t, b, []byte("before"))
	if err := b.journal.current.file.Close(); err != nil { // every call fails now
		t.Fatal(err)
	}
	data := []byte("fails")
	if err := b.putSmall(digest.FromBytes(data), data); err == nil {
		t.Fatal("a write to a broken segment succeeded")
	}
	after := put(t, b, []byte("after"))
	b = openFS(t, afterPowerCut(t, dir, func(f string) { _ = os.Remove(f) }))
	if got := read(t, b, after); string(got) != "after" {
		t.Errorf("the blob after the failure is %q", got)
	}
	if got := read(t, b, digest.FromString("before")); string(got) != "before" {
		t.Errorf("the blob before the failure is %q", got)
	}
}

func FuzzReadRecord(f *testing.F) {
	whole := slices.Concat(
		record{kindPut, digest.FromString("x"), []byte("x")}.encode(),
		record{kindRemove, digest.FromString("x"), nil}.encode(),
		record{kindPut, digest.SHA512.FromString("y"), []byte("y")}.encode())
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte{kindPut, 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(data), 2*small)
		for used := 0; ; {
			rec, err := readRecord(r)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, errTorn) {
					t.Errorf("%v", err)
				}
				return
			}
			again := rec.encode()
			if !bytes.HasPrefix(data[used:], again) {
				t.Errorf("record %+v is written as %x, not as it was read", rec, again)
			}
			used += len(again)
		}
	})
}
