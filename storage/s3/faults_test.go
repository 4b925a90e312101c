package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/storage"
)

// noise is n bytes that look random, the same for the same seed.
func noise(n int, seed uint64) []byte {
	data := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	_, _ = rand.NewChaCha8(key).Read(data)
	return data
}

func write(t testing.TB, s storage.Stage, data []byte) {
	t.Helper()
	if n, err := s.Write(data); err != nil || n != len(data) {
		t.Fatalf("Write of %d bytes: %d, %v", len(data), n, err)
	}
}

func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func openStage(t testing.TB, b *Blobs, id string, off int64) storage.Stage {
	t.Helper()
	s, err := b.Stage(t.Context(), id, off)
	must(t, fmt.Sprintf("Stage at %d", off), err)
	return s
}

// store stores data as the blob that it is, of known digest from the start.
func store(ctx context.Context, b *Blobs, id string, data []byte) (d digest.Digest, err error) {
	d = digest.FromBytes(data)
	s, err := b.StageFor(ctx, id, d)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if _, err := s.Write(data); err != nil {
		return d, err
	}
	return d, s.Commit(d)
}

func mustStore(t testing.TB, b *Blobs, data []byte) digest.Digest {
	t.Helper()
	d, err := store(t.Context(), b, "known", data)
	must(t, "store", err)
	return d
}

func checkBlob(t testing.TB, b *Blobs, d digest.Digest, data []byte) {
	t.Helper()
	size, err := b.Size(t.Context(), d)
	if err != nil || size != int64(len(data)) {
		t.Fatalf("Size = %d, %v, want %d", size, err, len(data))
	}
	r, err := b.Open(t.Context(), d)
	must(t, "Open", err)
	got, err := io.ReadAll(r)
	must(t, "read", errors.Join(err, r.Close()))
	if !bytes.Equal(got, data) {
		t.Fatalf("blob of %d bytes reads as %d others", len(data), len(got))
	}
}

// below lists the files of a server below a driver's prefix, and the multipart
// uploads of the bucket.
func below(t testing.TB, s *berthtest.S3, b *Blobs) (names []string) {
	t.Helper()
	root := filepath.Join(s.Dir, b.prefix)
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && e.Type().IsRegular() {
			names = append(names, strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	must(t, "look into the bucket", err)
	page, err := b.core.ListMultipartUploads(t.Context(), b.bucket, b.prefix, "", "", "", 1000)
	must(t, "list multipart uploads", err)
	for _, u := range page.Uploads {
		names = append(names, "multipart "+strings.TrimPrefix(u.Key, b.prefix))
	}
	return names
}

// discardAll does what a registry does that clears up.
func discardAll(t testing.TB, b *Blobs) {
	t.Helper()
	for s, err := range b.Stages(t.Context()) {
		must(t, "Stages", err)
		must(t, "Discard", b.Discard(t.Context(), s.ID))
	}
	for s, err := range b.Stages(t.Context()) {
		t.Errorf("after all were discarded, there is the stage %v, %v", s, err)
	}
}

// use does all that one can do with a store, with small and large blobs.
func use(t *testing.T, b *Blobs) {
	small, large := noise(1000, 1), noise(2*minPart+100_000, 2)
	checkBlob(t, b, mustStore(t, b, small), small)
	d := mustStore(t, b, large)
	checkBlob(t, b, d, large)
	must(t, "Quarantine", b.Quarantine(t.Context(), d))
	if _, err := b.Size(t.Context(), d); !errors.Is(err, storage.ErrNotFound) {
		t.Fatalf("Size of what was moved away: %v", err)
	}

	s := openStage(t, b, "session", 0)
	write(t, s, large[:minPart+1000])
	must(t, "Sync, Close", errors.Join(s.Sync(), s.Close()))
	s = openStage(t, b, "session", minPart+1000)
	write(t, s, large[minPart+1000:])
	must(t, "Sync, Close", errors.Join(s.Sync(), s.Close()))
	s = openStage(t, b, "session", int64(len(large)))
	must(t, "Commit, Close", errors.Join(s.Commit(d), s.Close()))
	checkBlob(t, b, d, large)

	must(t, "PutNote", b.PutNote(t.Context(), "a/b", []byte("note")))
	if data, err := b.Note(t.Context(), "a/b"); err != nil || string(data) != "note" {
		t.Fatalf("Note = %q, %v", data, err)
	}
	n := 0
	for _, err := range b.List(t.Context(), "") {
		must(t, "List", err)
		n++
	}
	if n != 2 {
		t.Errorf("List lists %d blobs, want 2", n)
	}
	must(t, "Delete", b.Delete(t.Context(), d))
	discardAll(t, b)
}

// TestFaults checks that what happens to any request once is not seen, and that
// nothing stays behind.
func TestFaults(t *testing.T) {
	s := berthtest.StartS3(t)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, s)
			o := options(t, s)
			o.Endpoint, o.Timeout = p.URL, 3*time.Second
			if f.name == "silent" {
				o.Timeout = 300 * time.Millisecond
			}
			b := open(t, o)
			p.set(once(f.fault))
			use(t, b)
			p.set(nil)
			for _, name := range below(t, s, b) {
				if !strings.HasPrefix(name, "blobs/") && !strings.HasPrefix(name, "quarantine/") && !strings.HasPrefix(name, "notes/") {
					t.Errorf("%s is left", name)
				}
			}
		})
	}
}

// TestFaultsStay checks that what does not pass becomes an error soon, which says
// what was done and no secret, and that there never is half a blob.
func TestFaultsStay(t *testing.T) {
	s := berthtest.StartS3(t)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, s)
			o := options(t, s)
			o.Endpoint, o.Timeout, o.Retries = p.URL, 200*time.Millisecond, 2
			if f.name == "spoiled" {
				o.Timeout = 3 * time.Second
			}
			b := open(t, o)
			there := mustStore(t, b, []byte("there before"))
			p.set(always(f.fault))
			start := time.Now()
			for _, size := range []int{100, minPart + 1} {
				d, err := store(t.Context(), b, "known", noise(size, 3))
				checkError(t, o, err)
				if f.name == "lost" || f.name == "half" {
					continue // it is there, and its client does not know
				}
				if _, err := os.Stat(filepath.Join(s.Dir, b.key(d))); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("there is something of a blob that was not stored: %v", err)
				}
			}
			if f.name != "spoiled" && f.name != "broken" { // they have no body
				_, err := b.Size(t.Context(), there)
				if f.name != "half" {
					checkError(t, o, err)
				}
				if r, err := b.Open(t.Context(), there); err == nil {
					_, err = io.ReadAll(r)
					checkError(t, o, err)
				} else {
					checkError(t, o, err)
				}
				for _, err := range b.List(t.Context(), "") {
					checkError(t, o, err)
				}
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
			p.set(nil)
			discardAll(t, b)
			for _, name := range below(t, s, b) {
				if !strings.HasPrefix(name, "blobs/") {
					t.Errorf("%s is left", name)
				}
			}
		})
	}
}

func checkError(t *testing.T, o Options, err error) {
	t.Helper()
	switch {
	case err == nil:
		t.Error("there is no error")
	case errors.Is(err, storage.ErrNotFound):
		t.Errorf("the error says that there is none: %v", err)
	case !strings.HasPrefix(err.Error(), "S3: "):
		t.Errorf("the error does not say where it is from: %v", err)
	case strings.Contains(err.Error(), o.SecretKey), strings.Contains(err.Error(), o.AccessKey), strings.Contains(err.Error(), "http://"):
		t.Errorf("the error says too much: %v", err)
	}
}

// TestErrors checks what errors of the server are taken for.
func TestErrors(t *testing.T) {
	s := berthtest.StartS3(t)
	p := newProxy(t, s)
	o := options(t, s)
	o.Endpoint = p.URL
	b := open(t, o)
	for _, c := range []struct {
		status int
		code   string
		want   error
	}{
		{http.StatusForbidden, "QuotaExceeded", storage.ErrNoSpace},
		{http.StatusInsufficientStorage, "XMinioStorageFull", storage.ErrNoSpace},
		{http.StatusForbidden, "AccessDenied", storage.ErrReadOnly},
	} {
		p.set(always(answer(c.status, c.code)))
		if _, err := store(t.Context(), b, "id", []byte("bytes")); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.code, err, c.want)
		}
		if n := len(p.requests()); n != 1 {
			t.Errorf("%s was tried %d times", c.code, n)
		}
	}
	p.set(always(answer(http.StatusForbidden, "AccessDenied")))
	if _, err := b.Size(t.Context(), digest.FromString("x")); err == nil || errors.Is(err, storage.ErrReadOnly) || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("what may not be read: error %v", err)
	}
	for _, code := range []string{"NoSuchBucket", "InvalidAccessKeyId"} {
		p.set(always(answer(http.StatusNotFound, code)))
		if _, err := b.Open(t.Context(), digest.FromString("x")); err == nil || errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: Open: error %v, which must not say that there is no such blob", code, err)
		}
		if _, err := b.Size(t.Context(), digest.FromString("x")); err == nil || errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: Size: error %v, which must not say that there is no such blob", code, err)
		}
	}
}

// TestContext checks that an operation ends with its context, whatever the server
// does.
func TestContext(t *testing.T) {
	s := berthtest.StartS3(t)
	p := newProxy(t, s)
	o := options(t, s)
	o.Endpoint, o.Timeout = p.URL, time.Minute
	b := open(t, o)
	d := mustStore(t, b, []byte("bytes"))
	for _, f := range []fault{silent, answer(http.StatusServiceUnavailable, "SlowDown")} {
		p.set(always(f))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		start := time.Now()
		_, err := b.Open(ctx, d)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 10*time.Second {
			t.Errorf("Open: error %v after %v", err, time.Since(start))
		}
		cancel()
	}
}
