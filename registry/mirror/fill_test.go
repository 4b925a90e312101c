package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/mirror"
	"github.com/berth-registry/berth/registry/remote"
	"github.com/berth-registry/berth/storage"
)

// clients is how many pull at once.
const clients = 64

// served is the mirror over HTTP.
func served(t testing.TB, o *ours) *client {
	t.Helper()
	s := httptest.NewServer(registry.NewServer(o, registry.ServerOptions{}))
	t.Cleanup(s.Close)
	c, err := remote.New(s.URL, s.Client())
	if err != nil {
		t.Fatal(err)
	}
	return &client{c, s.URL}
}

type client struct {
	*remote.Client
	url string
}

// believe reads a blob as a client does that checks nothing but that the answer is
// whole.
func (c *client) believe(repo string, d digest.Digest) ([]byte, error) {
	resp, err := http.Get(c.url + "/v2/" + repo + "/blobs/" + string(d))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d: %s", resp.StatusCode, data)
		if resp.StatusCode == http.StatusNotFound {
			err = registry.ErrBlobUnknown
		}
	}
	return data, err
}

// TestManyCold: many pull what nobody has pulled before, and it comes once.
func TestManyCold(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 3<<20, 700_000, 0, 77)
	c := served(t, o)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			has(t, c, "hub/app", tagged("v1"), a)
			has(t, c, "hub/app", digested(a.desc.Digest), a)
			hasBlobs(t, c, "hub/app", a)
		})
	}
	wg.Wait()
	o.settled(t)
	if n := u.sent.Load(); n != a.size() {
		t.Errorf("the upstream sent %d bytes, the image has %d", n, a.size())
	}
	if n, want := u.times("GET blobs"), len(a.blobs); n != want {
		t.Errorf("%d blobs were asked for, want %d", n, want)
	}
	hasBlobs(t, o.cache, "hub/app", a)
}

// TestManyRepositories: the same blob is pulled from several repositories of an
// upstream at once.
func TestManyRepositories(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app0", "v1", 1, 2<<20)
	d := a.layer()
	for i := 1; i < 4; i++ {
		if _, err := u.MountBlob(t.Context(), fmt.Sprint("app", i), "app0", d); err != nil {
			t.Fatal(err)
		}
	}
	release := u.hold()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			got, err := read(o, fmt.Sprint("hub/app", i%8), d)
			if i%8 >= 4 {
				is(t, "a repository that does not have it", err, registry.ErrBlobUnknown)
			} else if err != nil || !bytes.Equal(got, a.blobs[d]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	u.await(t, "GET blobs", 1)
	release()
	wg.Wait()
	o.settled(t)
	// Who was first may have been one that does not have it.
	if n := u.sent.Load(); n > int64(len(a.blobs[d]))+4*1024 {
		t.Errorf("the upstream sent %d bytes", n)
	}
	for i := range 4 {
		if got, err := read(o.cache, fmt.Sprint("hub/app", i), d); err != nil || !bytes.Equal(got, a.blobs[d]) {
			t.Errorf("app%d: %d bytes in the cache, %v", i, len(got), err)
		}
	}
}

// hold has the GETs of blobs send half of what they should, and the rest after
// release.
func (u *theirs) hold() (release func()) {
	gate := make(chan struct{})
	u.fail(onBlobs(func(w http.ResponseWriter, r *http.Request) bool {
		data, ok := u.data(r)
		if !ok {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		w.(*counting).flush()
		select {
		case <-gate:
			_, _ = w.Write(data[len(data)/2:])
		case <-r.Context().Done():
		}
		return true
	}))
	return func() { close(gate) }
}

func (c *counting) flush() { _ = http.NewResponseController(c.ResponseWriter).Flush() }

// data is the blob that a request asks for.
func (u *theirs) data(r *http.Request) ([]byte, bool) {
	repo, d, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")
	data, err := read(u.Local, repo, digest.Digest(d))
	return data, err == nil
}

// await waits until something was asked for n times.
func (u *theirs) await(t testing.TB, what string, n int) {
	t.Helper()
	for end := time.Now().Add(patience); u.times(what) < n; {
		if time.Now().After(end) {
			t.Fatalf("%s was asked for %d times, want %d", what, u.times(what), n)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestFirstByte: it does not wait for the last one, nor for a client that is slow, nor
// is the transfer ended by those that go away.
func TestFirstByte(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 4<<20)
	d, want := a.layer(), a.blobs[a.layer()]
	release := u.hold()
	ctx, vanish := context.WithCancel(t.Context())
	gone, _, err := o.Blob(ctx, "hub/app", d)
	if err != nil {
		t.Fatal(err)
	}
	slow, _, err := o.Blob(t.Context(), "hub/app", d)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	first := make([]byte, 100)
	if _, err := io.ReadFull(slow, first); err != nil || !bytes.Equal(first, want[:100]) {
		t.Fatalf("the first bytes: %v", err)
	}
	// A range that is there, and one that is not yet.
	part, _, err := o.Blob(t.Context(), "hub/app", d)
	if err != nil {
		t.Fatal(err)
	}
	defer part.Close()
	if _, err := part.Seek(1<<20, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(part, first); err != nil || !bytes.Equal(first, want[1<<20:1<<20+100]) {
		t.Fatalf("a range: %v", err)
	}
	if _, err := part.Seek(-100, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	stuck := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, gone)
		stuck <- err
	}()
	vanish()
	if err := <-stuck; !errors.Is(err, context.Canceled) {
		t.Errorf("who has gone away: %v", err)
	}
	gone.Close()
	release()
	if _, err := io.ReadFull(part, first); err != nil || !bytes.Equal(first, want[len(want)-100:]) {
		t.Errorf("the last bytes: %v", err)
	}
	o.settled(t) // whoever is slow
	if got, err := read(o.cache, "hub/app", d); err != nil || !bytes.Equal(got, want) {
		t.Errorf("cache: %d bytes, %v", len(got), err)
	}
	rest, err := io.ReadAll(slow)
	if err != nil || !bytes.Equal(rest, want[100:]) {
		t.Errorf("who is slow: %d bytes, %v", len(rest), err)
	}
}

// TestSlowTransfer: that an upstream is slow does not count as a client's slowness.
func TestSlowTransfer(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 1<<20)
	s := httptest.NewServer(registry.NewServer(o, registry.ServerOptions{BodyTimeout: 200 * time.Millisecond}))
	defer s.Close()
	u.fail(onBlobs(func(w http.ResponseWriter, r *http.Request) bool {
		data, ok := u.data(r)
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		for i := 0; i < len(data); i += 1 << 17 {
			_, _ = w.Write(data[i:min(len(data), i+1<<17)])
			w.(*counting).flush()
			time.Sleep(100 * time.Millisecond) // the upstream is slow
		}
		return ok
	}))
	c := client{url: s.URL}
	if got, err := c.believe("hub/app", a.layer()); err != nil || !bytes.Equal(got, a.blobs[a.layer()]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestNobodyWaits: a transfer that nobody waits for any more goes on to its end.
func TestNobodyWaits(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 1<<20)
	release := u.hold()
	b, _, err := o.Blob(t.Context(), "hub/app", a.layer())
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if _, err := b.Read(make([]byte, 1)); err == nil {
		t.Error("it can be read after Close")
	}
	release()
	o.settled(t)
	if got, err := read(o.cache, "hub/app", a.layer()); err != nil || !bytes.Equal(got, a.blobs[a.layer()]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestBadBytes: whatever an upstream sends instead of a blob, no client gets an answer
// that looks whole, and nothing is kept; once the upstream is well, the blob comes.
func TestBadBytes(t *testing.T) {
	const size = 300_000
	length := func(w http.ResponseWriter, n int) { w.Header().Set("Content-Length", strconv.Itoa(n)) }
	for name, fault := range map[string]func(w http.ResponseWriter, r *http.Request, data []byte){
		"wrong in the middle": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			data[size/2] ^= 1
			length(w, size)
			_, _ = w.Write(data)
		},
		"wrong at the end": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			data[size-1] ^= 1
			length(w, size)
			_, _ = w.Write(data)
		},
		"truncated": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			length(w, size)
			_, _ = w.Write(data[:size/2])
		},
		"truncated, and said to be whole": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			length(w, size/2)
			_, _ = w.Write(data[:size/2])
		},
		"nothing": func(w http.ResponseWriter, _ *http.Request, _ []byte) { length(w, 0) },
		"longer": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			length(w, size+1)
			_, _ = w.Write(append(data, 0))
		},
		"endless": func(w http.ResponseWriter, r *http.Request, data []byte) {
			for r.Context().Err() == nil {
				if _, err := w.Write(data); err != nil {
					return
				}
			}
		},
		"cut each time": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			length(w, size)
			_, _ = w.Write(data[:100])
			w.(*counting).flush()
			panic(http.ErrAbortHandler)
		},
		"a page": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>Sign in to the network</html>"))
		},
		"another range": func(w http.ResponseWriter, r *http.Request, data []byte) {
			if r.Header.Get("Range") != "" {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 5-%d/%d", size-1, size))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(data[5:])
				return
			}
			length(w, size)
			_, _ = w.Write(data[:100])
			w.(*counting).flush()
			panic(http.ErrAbortHandler)
		},
		"500":          func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusInternalServerError) },
		"unauthorized": func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusUnauthorized) },
		"hurried":      func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusTooManyRequests) },
		"elsewhere": func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, "http://127.0.0.1:1/?X-Signature=hush", http.StatusFound)
		},
		"round and round": func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := newTheirs(t)
			o := newOurs(t, u)
			a := push(t, u, "app", "v1", 1, size)
			c := served(t, o)
			u.fail(onBlobs(func(w http.ResponseWriter, r *http.Request) bool {
				data, ok := u.data(r)
				if ok {
					fault(w, r, data)
				}
				return ok
			}))
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					got, err := c.believe("hub/app", a.layer())
					if err == nil {
						t.Errorf("a client got %d bytes", len(got))
					}
					if err != nil && (strings.Contains(err.Error(), "hush") || errors.Is(err, registry.ErrBlobUnknown)) {
						t.Errorf("a client was told: %v", err)
					}
				})
			}
			wg.Wait()
			o.settled(t)
			if _, err := o.cache.StatBlob(t.Context(), "hub/app", a.layer()); !errors.Is(err, registry.ErrBlobUnknown) {
				t.Errorf("the cache has it: %v", err)
			}
			if _, ok, err := o.cache.StoredBlob(t.Context(), a.layer()); ok || err != nil {
				t.Errorf("the store has it: %v", err)
			}
			if left, err := os.ReadDir(o.dir); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
			u.fail(nil)
			if got, err := read(c, "hub/app", a.layer()); err != nil || !bytes.Equal(got, a.blobs[a.layer()]) {
				t.Errorf("when it is well again: %d bytes, %v", len(got), err)
			}
		})
	}
}

// TestCut: a connection that breaks now and then is gone on with where it was.
func TestCut(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 5<<20)
	var sent, cuts atomic.Int64
	u.fail(onBlobs(func(w http.ResponseWriter, r *http.Request) bool {
		data, ok := u.data(r)
		if !ok || len(data) < 1<<20 {
			return false
		}
		from := 0
		if h := r.Header.Get("Range"); h != "" {
			from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(h, "bytes="), "-"))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.Header().Set("Content-Length", strconv.Itoa(len(data)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		}
		piece := data[from:min(len(data), from+700_001)]
		n, _ := w.Write(piece)
		sent.Add(int64(n))
		w.(*counting).flush()
		if from+n < len(data) {
			cuts.Add(1)
			panic(http.ErrAbortHandler)
		}
		return true
	}))
	hasBlobs(t, served(t, o), "hub/app", a)
	if cuts.Load() < 5 {
		t.Errorf("it was cut %d times", cuts.Load())
	}
	if n := sent.Load(); n != 5<<20 {
		t.Errorf("the upstream sent %d bytes", n)
	}
}

// TestRedirect: blobs may be elsewhere.
func TestRedirect(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 300_000)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = r.URL.Query().Get("path")
		registry.NewServer(u.Local, registry.ServerOptions{}).ServeHTTP(w, r)
	}))
	defer elsewhere.Close()
	u.fail(onBlobs(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, elsewhere.URL+"/?path="+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	}))
	hasBlobs(t, o, "hub/app", a)
}

// TestClose ends what is under way.
func TestClose(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 1<<20)
	defer u.hold()()
	b, _, err := o.Blob(t.Context(), "hub/app", a.layer())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if n, err := io.Copy(io.Discard, b); err == nil {
		t.Errorf("%d bytes and no error", n)
	}
	if _, _, err := o.Blob(t.Context(), "hub/app", a.layer()); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	if left, err := os.ReadDir(o.dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestDamaged: what the cache has lost is fetched again.
func TestDamaged(t *testing.T) {
	u := newTheirs(t)
	a := push(t, u, "app", "v1", 1, 300_000)
	hurt := func(t *testing.T, o *ours, d digest.Digest, fn func(path string) error) {
		t.Helper()
		path := blobPath(t, o.dir, d)
		if err := fn(path); err != nil {
			t.Fatal(err)
		}
	}
	for name, fn := range map[string]func(path string) error{
		"missing":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 50) },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOurs(t, u)
			hasBlobs(t, o, "hub/app", a)
			o.settled(t)
			hurt(t, o, a.layer(), fn)
			hasBlobs(t, o, "hub/app", a)
			o.settled(t)
			hasBlobs(t, o.cache, "hub/app", a)
		})
	}
	t.Run("manifest", func(t *testing.T) {
		o := newOurs(t, u)
		has(t, o, "hub/app", tagged("v1"), a)
		hurt(t, o, a.desc.Digest, os.Remove)
		o.restart(t, u) // as the cache has manifests in memory, too
		has(t, o, "hub/app", tagged("v1"), a)
		has(t, o, "hub/app", digested(a.desc.Digest), a)
		has(t, o.cache, "hub/app", tagged("v1"), a)
	})
}

// TestRefetch: a scrub has found content to be damaged.
func TestRefetch(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 300_000)
	has(t, o, "hub/app", tagged("v1"), a)
	hasBlobs(t, o, "hub/app", a)
	o.settled(t)
	repos := func(repos ...string) func(func(string) bool) {
		return func(yield func(string) bool) {
			for _, r := range repos {
				if !yield(r) {
					return
				}
			}
		}
	}
	for _, d := range []digest.Digest{a.layer(), a.desc.Digest} {
		if marked, err := o.cache.Suspect(t.Context(), d, storage.DamageMissing); err != nil || !marked {
			t.Fatalf("%v, %v", marked, err)
		}
		if err := os.Remove(blobPath(t, o.dir, d)); err != nil {
			t.Fatal(err)
		}
		if err := o.cache.Settle(t.Context(), d, storage.DamageMissing, false); err != nil {
			t.Fatal(err)
		}
		if err := o.Refetch(t.Context(), d, repos("mine", "hub/none", "hub/app")); err != nil {
			t.Errorf("refetch %s: %v", d, err)
		}
		if blob, ok, err := o.cache.StoredBlob(t.Context(), d); err != nil || !ok || blob.Damaged {
			t.Errorf("%v, %v, %v", blob, ok, err)
		}
	}
	hasBlobs(t, o.cache, "hub/app", a)
	has(t, o.cache, "hub/app", tagged("v1"), a)
	is(t, "of no mirror", o.Refetch(t.Context(), a.layer(), repos("mine")), registry.ErrBlobUnknown)
	u.down(http.StatusInternalServerError)
	is(t, "while the upstream is down", o.Refetch(t.Context(), a.layer(), repos("hub/app")), registry.ErrUnavailable)
}

// small is a file system of some bytes, which only this test sees.
func small(t testing.TB, size int) string {
	t.Helper()
	fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatalf("this test makes a file system, for which it has to be root: %v", err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.FsconfigSetString(fd, "size", strconv.Itoa(size)), unix.FsconfigCreate(fd)); err != nil {
		t.Fatal(err)
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(mount) })
	return fmt.Sprintf("/proc/self/fd/%d/transfers", mount)
}

func inDir(dir string) func(*mirror.Upstream, *mirror.Options) {
	return func(_ *mirror.Upstream, o *mirror.Options) { o.Dir = dir }
}

// TestNoRoom: what does not fit on the disk is served, though not kept.
func TestNoRoom(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u, inDir(small(t, 1<<20)))
	a := push(t, u, "app", "v1", 1, 400_000, 0)
	c := served(t, o)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { hasBlobs(t, c, "hub/app", a) })
	}
	wg.Wait()
	o.settled(t)
	if _, err := o.cache.StatBlob(t.Context(), "hub/app", a.layer()); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("the cache has it: %v", err)
	}
	b, _, err := o.Blob(t.Context(), "hub/app", a.layer())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Seek(-10, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, a.blobs[a.layer()][400_000-10:]) {
		t.Errorf("a range: %d bytes, %v", len(got), err)
	}
	// Nor is it served wrongly.
	u.fail(onBlobs(func(w http.ResponseWriter, r *http.Request) bool {
		data, ok := u.data(r)
		if ok && len(data) > 0 {
			data[len(data)-1] ^= 1
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			_, _ = w.Write(data)
		}
		return ok && len(data) > 0
	}))
	if got, err := c.believe("hub/app", a.layer()); err == nil {
		t.Errorf("a client got %d bytes that are wrong", len(got))
	}
}

// TestDiskFills: the disk gets full in the middle of a transfer.
func TestDiskFills(t *testing.T) {
	u := newTheirs(t)
	dir := small(t, 70<<20)
	o := newOurs(t, u, inDir(dir))
	a := push(t, u, "app", "v1", 1, 2<<20)
	release := u.hold()
	b, _, err := o.Blob(t.Context(), "hub/app", a.layer())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := io.ReadFull(b, make([]byte, 1<<19)); err != nil {
		t.Fatal(err)
	}
	filler := dir + "/../filler"
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for piece := make([]byte, 1<<12); err == nil; {
		_, err = f.Write(piece)
	}
	release()
	if n, err := io.Copy(io.Discard, b); err == nil {
		t.Errorf("%d bytes, and no error", n)
	}
	b.Close()
	o.settled(t)
	u.fail(nil)
	hasBlobs(t, o, "hub/app", a) // though it is still full
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
}

// TestSlots: no more than so many blobs come at once, and the rest come later.
func TestSlots(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	var under, most atomic.Int64
	u.fail(onBlobs(func(_ http.ResponseWriter, _ *http.Request) bool {
		n := under.Add(1)
		defer under.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(5 * time.Millisecond) // so that more would be there at once
		return false
	}))
	var wg sync.WaitGroup
	for i := range 200 {
		data := noise(100, uint64(i))
		d := descOf(t, u, "app", data).Digest
		wg.Go(func() {
			if got, err := read(o, "hub/app", d); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n > 64 || n < 2 {
		t.Errorf("%d at once", n)
	}
}
