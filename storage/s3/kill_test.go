package s3

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/storage"
)

// dead lets n requests through, of the last one loses the answer if lose, and then
// cuts off all: as if the driver's process had died there.
func dead(n int, lose bool) func(*http.Request) fault {
	return func(*http.Request) fault {
		n--
		switch {
		case n > 0, n == 0 && !lose:
			return nil
		case n == 0:
			return lost
		}
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { cut(w) }
	}
}

// TestKilled has a driver die after each request of a push, and checks with another
// one that there is no blob, or all of it, that a client can go on from what was
// acknowledged, and that what is left can be cleared up.
func TestKilled(t *testing.T) {
	small, large := noise(100_000, 1), noise(2*minPart+1000, 2)
	for _, c := range []struct {
		name string
		push func(t *testing.T, b *Blobs, d digest.Digest) error
		data []byte
		at   int64 // what was synced before, and can be gone on from
	}{
		{"small", pushKnown(small), small, 0},
		{"large", pushKnown(large), large, 0},
		{"small session", pushSession, small, int64(len(small))},
		{"large session", pushSession, large, int64(len(large))},
		{"grown session", growSession(large), large, minPart + 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := berthtest.StartS3(t)
			p := newProxy(t, s)
			killEverywhere(t, s, p, c.data, c.at, c.push)
		})
	}
}

func killEverywhere(t *testing.T, s *berthtest.S3, p *proxy, data []byte, at int64, push func(*testing.T, *Blobs, digest.Digest) error) {
	t.Helper()
	d := digest.FromBytes(data)
	for n, lose := 0, false; ; lose = !lose {
		if !lose {
			n++
		}
		o := options(t, s)
		survivor := open(t, o)
		survivor.copyMost, survivor.copyPart = minPart+1, minPart
		if at > 0 {
			st := openStage(t, survivor, "session", 0)
			write(t, st, data[:at])
			must(t, "Sync, Close", errors.Join(st.Sync(), st.Close()))
		}
		o.Endpoint, o.Retries, o.Timeout = p.URL, -1, 2*time.Second
		p.set(nil)
		b := open(t, o)
		b.copyMost, b.copyPart = minPart+1, minPart
		p.set(dead(n, lose))
		err := push(t, b, d)
		requests := p.requests()
		if len(requests) < n {
			must(t, "push, undisturbed", err)
			if n < 2 {
				t.Fatalf("there were only the requests %q", requests)
			}
			return
		}
		what := fmt.Sprintf("killed after request %d (answer lost: %v): %s", n, lose, requests[n-1])
		switch _, serr := survivor.Size(t.Context(), d); {
		case serr == nil:
			checkBlob(t, survivor, d, data)
		case !errors.Is(serr, storage.ErrNotFound) || err == nil:
			t.Fatalf("%s: Size: %v, push: %v", what, serr, err)
		}
		if at > 0 && err != nil {
			goOn(t, what, survivor, data, at)
		}
		discardAll(t, survivor)
		for _, name := range below(t, s, survivor) {
			if !strings.HasPrefix(name, "blobs/") || name != strings.TrimPrefix(survivor.key(d), survivor.prefix) {
				t.Errorf("%s: %s is left", what, name)
			}
		}
	}
}

// goOn has a client send the rest again and commit.
func goOn(t *testing.T, what string, b *Blobs, data []byte, at int64) {
	t.Helper()
	d := digest.FromBytes(data)
	st, err := b.Stage(t.Context(), "session", at)
	if errors.Is(err, storage.ErrNotFound) { // it was committed, and its rows were removed
		if _, serr := b.Size(t.Context(), d); serr == nil {
			return
		}
	}
	must(t, what+": go on", err)
	write(t, st, data[at:])
	must(t, what+": commit again", errors.Join(st.Commit(d), st.Close()))
	checkBlob(t, b, d, data)
}

func pushKnown(data []byte) func(*testing.T, *Blobs, digest.Digest) error {
	return func(t *testing.T, b *Blobs, _ digest.Digest) error {
		t.Helper()
		_, err := store(t.Context(), b, "known", data)
		return err
	}
}

func pushSession(t *testing.T, b *Blobs, d digest.Digest) error {
	t.Helper()
	state, _, err := b.load(t.Context(), "session")
	must(t, "load", err)
	st, err := b.Stage(t.Context(), "session", state.Size+state.TailSize)
	if err != nil {
		return err
	}
	return errors.Join(st.Commit(d), st.Close())
}

func growSession(data []byte) func(*testing.T, *Blobs, digest.Digest) error {
	return func(t *testing.T, b *Blobs, d digest.Digest) error {
		t.Helper()
		st, err := b.Stage(t.Context(), "session", minPart+1000)
		if err != nil {
			return err
		}
		for piece := range slices.Chunk(data[minPart+1000:], 1<<20) {
			if _, err := st.Write(piece); err != nil {
				return errors.Join(err, st.Close())
			}
		}
		return errors.Join(st.Commit(d), st.Close())
	}
}
