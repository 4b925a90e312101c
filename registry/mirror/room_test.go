package mirror_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/mirror"
)

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
	if n := most.Load(); n > 48 || n < 2 {
		t.Errorf("%d at once", n)
	}
}
