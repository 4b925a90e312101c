package scrub_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/scrub"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/mem"
)

var errAway = errors.New("the other registry is away")

// upstream has what it is given, and pushes it to the registry when it is asked to.
type upstream struct {
	mu    sync.Mutex
	away  bool
	has   map[digest.Digest][]byte
	asked []digest.Digest
	repos [][]string
	push  func(ctx context.Context, repo string, data []byte) error
}

func (u *upstream) heal(ctx context.Context, d digest.Digest, repos []string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked, u.repos = append(u.asked, d), append(u.repos, repos)
	data, ok := u.has[d]
	switch {
	case u.away:
		return errAway
	case !ok:
		return errors.ErrUnsupported
	}
	return u.push(ctx, repos[0], data)
}

func (u *upstream) setAway(away bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.away = away
}

func (u *upstream) times(d digest.Digest) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, a := range u.asked {
		if a == d {
			n++
		}
	}
	return n
}

// TestHeal has damaged blobs and manifests stored anew from elsewhere.
func TestHeal(t *testing.T) {
	w := newWorld(t, t.TempDir())
	data, lost := noise(300_000, 1), noise(1000, 2)
	w.mustPush("hub/a", []byte("{}"))
	d, other := w.mustPush("hub/a", data), w.mustPush("own", lost)
	w.mustPush("hub/b", data)
	manifest := manifestOf(data)
	m, err := w.pushManifest("hub/a", manifest, "v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range []digest.Digest{d, other, m} {
		flip(t, w.path(broken))
	}
	u := &upstream{has: map[digest.Digest][]byte{d: data, m: manifest}, push: func(_ context.Context, repo string, data []byte) error {
		if bytes.Equal(data, manifest) {
			_, err := w.pushManifest(repo, data)
			return err
		}
		_, err := w.push(repo, data)
		return err
	}}
	s := w.newScrub(scrub.Options{Heal: u.heal})
	w.roundOf(s)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	for deadline := time.Now().Add(30 * time.Second); len(w.status(s).Damaged) > 1 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	running.Wait()
	w.isWhole("hub/a", data)
	w.isWhole("hub/b", data)
	if got, _, err := w.Manifest(t.Context(), "hub/a", registry.Reference{Tag: "v1"}); err != nil || !bytes.Equal(got, manifest) {
		t.Errorf("manifest: %q, %v", got, err)
	}
	if left := w.status(s).Damaged; len(left) != 1 || left[0].Digest != other {
		t.Errorf("damaged: %+v, want what nobody has", left)
	}
	if i := slices.Index(u.asked, d); !slices.Equal(u.repos[i], []string{"hub/a", "hub/b"}) {
		t.Errorf("asked for %v", u.repos)
	}
}

// TestHealAgain has it tried every hour, and after a restart, while the other registry
// is away.
func TestHealAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blobs, meta := mem.NewBlobs(), mem.NewMeta()
		local, err := registry.NewLocal(t.Context(), blobs, meta, registry.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer local.Close()
		data := noise(1000, 1)
		d := digest.FromBytes(data)
		push := func(ctx context.Context, repo string, data []byte) error {
			_, err := local.PushBlob(ctx, repo, d, bytes.NewReader(data))
			return err
		}
		if err := errors.Join(push(t.Context(), "hub/a", data), blobs.Delete(t.Context(), d)); err != nil {
			t.Fatal(err)
		}
		u := &upstream{away: true, has: map[digest.Digest][]byte{d: data}, push: push}
		run := func() (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			s := scrub.New(blobs, meta, local, scrub.Options{Interval: 24 * time.Hour, Heal: u.heal})
			var running sync.WaitGroup
			running.Go(func() { s.Run(ctx) })
			synctest.Wait()
			return func() { cancel(); running.Wait() }
		}
		stop := run()
		if n := u.times(d); n != 1 {
			t.Fatalf("tried %d times at once", n)
		}
		time.Sleep(3*time.Hour + time.Minute)
		synctest.Wait()
		if n := u.times(d); n != 4 {
			t.Errorf("tried %d times in three hours", n)
		}
		stop()
		stop = run()
		defer func() { stop() }()
		if n := u.times(d); n != 5 {
			t.Errorf("tried %d times after a restart", n)
		}
		u.setAway(false)
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		if _, _, err := local.Blob(t.Context(), "hub/a", d); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if n := u.times(d); n != 6 {
			t.Errorf("tried %d times, though it is whole", n)
		}
	})
}
