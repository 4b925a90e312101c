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
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/remote"
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
// TestCut: a connection that breaks now and then is gone on with where it was.
// TestRedirect: blobs may be elsewhere.
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
// TestRefetch: a scrub has found content to be damaged.
// small is a file system of some bytes, which only this test sees.
// TestNoRoom: what does not fit on the disk is served, though not kept.
// TestDiskFills: the disk gets full in the middle of a transfer.
// TestSlots: no more than so many blobs come at once, and the rest come later.
