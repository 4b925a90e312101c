package scrub_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/scrub"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
)

// world is a registry in a directory, and its scrub.
type world struct {
	t     testing.TB
	dir   string
	files *fs.Blobs
	hooks *hooked // over files
	meta  *bolt.Meta
	clock time.Duration // by which the registry's clock is ahead
	*registry.Local
	scrub *scrub.Scrub
}

// hooked is a blob store that does what a test says first.
type hooked struct {
	storage.Blobs
	mu         sync.Mutex
	open       func(digest.Digest) error
	quarantine func(digest.Digest) // before it is done
	staged     func()
	commit     func() // before it is done
	committed  func()
	opened     []digest.Digest
}

func (h *hooked) hook(set func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	set()
}

func (h *hooked) Open(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	h.mu.Lock()
	open := h.open
	h.opened = append(h.opened, d)
	h.mu.Unlock()
	f, err := h.Blobs.Open(ctx, d)
	if err != nil || open == nil {
		return f, err
	}
	if fails := open(d); fails != nil {
		f = failing{f, fails}
	}
	return f, nil
}

func (h *hooked) Quarantine(ctx context.Context, d digest.Digest) error {
	h.mu.Lock()
	before := h.quarantine
	h.mu.Unlock()
	if before != nil {
		before(d)
	}
	return h.Blobs.Quarantine(ctx, d)
}

func (h *hooked) Stage(ctx context.Context, id string, off int64) (storage.Stage, error) {
	h.call(&h.staged)
	s, err := h.Blobs.Stage(ctx, id, off)
	return hookedStage{s, h}, err
}

// call calls a hook, once.
func (h *hooked) call(hook *func()) {
	h.mu.Lock()
	fn := *hook
	*hook = nil
	h.mu.Unlock()
	if fn != nil {
		fn()
	}
}

type hookedStage struct {
	storage.Stage
	h *hooked
}

func (s hookedStage) Commit(d digest.Digest) error {
	s.h.call(&s.h.commit)
	err := s.Stage.Commit(d)
	s.h.call(&s.h.committed)
	return err
}

// failing cannot be read.
type failing struct {
	io.ReadSeekCloser
	err error
}

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func newWorld(t testing.TB, dir string) *world {
	t.Helper()
	w := &world{t: t, dir: dir}
	var err error
	if w.files, err = fs.Open(dir, nil); err != nil {
		t.Fatal(err)
	}
	w.hooks = &hooked{Blobs: w.files}
	if w.meta, err = bolt.Open(filepath.Join(dir, "meta.db")); err != nil {
		t.Fatal(err)
	}
	w.Local, err = registry.NewLocal(t.Context(), w.hooks, w.meta, registry.Options{Now: func() time.Time { return time.Now().Add(w.clock) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	w.scrub = w.newScrub(scrub.Options{})
	return w
}

func (w *world) newScrub(o scrub.Options) *scrub.Scrub {
	o.Log = slog.New(slog.NewTextHandler(w.t.Output(), nil))
	return scrub.New(w.hooks, w.meta, w.Local, o)
}

func (w *world) end() {
	if w.Local != nil {
		w.Close()
		if err := errors.Join(w.files.Close(), w.meta.Close()); err != nil {
			w.t.Error(err)
		}
		w.Local = nil
	}
}

// round has a whole round run.
func (w *world) round() scrub.Status {
	w.t.Helper()
	return w.roundOf(w.scrub)
}

// newRound has a round run that begins now: what was harmed before is found, which one
// that goes on may have gone past.
func (w *world) newRound() scrub.Status {
	w.t.Helper()
	if !w.status(w.scrub).Round.Began.IsZero() {
		w.round()
	}
	return w.round()
}

func (w *world) roundOf(s *scrub.Scrub) scrub.Status {
	w.t.Helper()
	before := w.status(s).Round.Last.Finished
	if started, err := s.Start(w.t.Context()); err != nil || !started {
		w.t.Fatalf("a round did not begin: %v, %v", started, err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	defer running.Wait()
	defer cancel()
	for {
		st := w.status(s)
		switch {
		case st.Problem != nil || st.Round.Last.Finished.After(before):
			return st
		case ctx.Err() != nil:
			w.t.Fatal("a round takes longer than a minute")
		}
		time.Sleep(time.Millisecond)
	}
}

func (w *world) status(s *scrub.Scrub) scrub.Status {
	w.t.Helper()
	st, err := s.Status(w.t.Context(), 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// noise returns n bytes that look random and are the same for the same seed.
func noise(n int, seed uint64) []byte {
	b := make([]byte, 0, n+sha256.Size)
	for i := uint64(0); len(b) < n; i++ {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, seed), i))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

func (w *world) push(repo string, data []byte) (digest.Digest, error) {
	d := digest.FromBytes(data)
	_, err := w.PushBlob(w.t.Context(), repo, d, bytes.NewReader(data))
	return d, err
}

func (w *world) mustPush(repo string, data []byte) digest.Digest {
	w.t.Helper()
	d, err := w.push(repo, data)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// manifestOf makes an image of blobs.
func manifestOf(layers ...[]byte) []byte {
	var list []byte
	for i, data := range layers {
		if i > 0 {
			list = append(list, ',')
		}
		list = fmt.Appendf(list, `{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, digest.FromBytes(data), len(data))
	}
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[%s]}`,
		digest.FromString("{}"), list)
}

func (w *world) pushManifest(repo string, data []byte, tags ...string) (digest.Digest, error) {
	d := digest.FromBytes(data)
	_, err := w.PushManifest(w.t.Context(), repo, registry.ManifestPush{Data: data, Digest: d, Tags: tags})
	return d, err
}

// read reads a blob, or says why not.
func (w *world) read(repo string, d digest.Digest) ([]byte, error) {
	f, _, err := w.Blob(w.t.Context(), repo, d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}

// isWhole fails the test unless a blob is there.
func (w *world) isWhole(repo string, data []byte) {
	w.t.Helper()
	if got, err := w.read(repo, digest.FromBytes(data)); err != nil || !bytes.Equal(got, data) {
		w.t.Errorf("%s reads as %d bytes, %v, want %d", digest.FromBytes(data), len(got), err, len(data))
	}
}

// isUnknown fails the test unless clients take a blob for unknown.
func (w *world) isUnknown(repo string, d digest.Digest) {
	w.t.Helper()
	ctx := w.t.Context()
	for name, ask := range map[string]func() error{
		"Blob":           func() error { _, err := w.read(repo, d); return err },
		"StatBlob":       func() error { _, err := w.StatBlob(ctx, repo, d); return err },
		"MountBlob":      func() error { _, err := w.MountBlob(ctx, "other", repo, d); return err },
		"MountBlob, any": func() error { _, err := w.MountBlob(ctx, "other", "", d); return err },
	} {
		if err := ask(); !errors.Is(err, registry.ErrBlobUnknown) {
			w.t.Errorf("%s of a damaged blob: %v, want ErrBlobUnknown", name, err)
		}
	}
}

func (w *world) path(d digest.Digest) string {
	return filepath.Join(w.dir, "blobs", string(d.Algorithm()), d.Encoded()[:2], d.Encoded())
}

func (w *world) quarantined(d digest.Digest) []byte {
	data, _ := os.ReadFile(filepath.Join(w.dir, "quarantine", string(d.Algorithm()), d.Encoded())) // nil if it is not there
	return data
}

// flip flips a bit in the middle of a file.
func flip(t testing.TB, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 8
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// harms are what can happen to a blob, and what the scrub is to call it.
var harms = []struct {
	name string
	do   func(w *world, d digest.Digest)
	kind storage.DamageKind
}{
	{"bit", func(w *world, d digest.Digest) { flip(w.t, w.path(d)) }, storage.DamageDigest},
	{"short", func(w *world, d digest.Digest) { w.truncate(d, -1) }, storage.DamageSize},
	{"long", func(w *world, d digest.Digest) { w.truncate(d, 1) }, storage.DamageSize},
	{"empty", func(w *world, d digest.Digest) { w.truncate(d, -1<<40) }, storage.DamageSize},
	{"gone", func(w *world, d digest.Digest) { _ = os.Remove(w.path(d)) }, storage.DamageMissing},
	{"eio", func(w *world, d digest.Digest) {
		w.hooks.hook(func() {
			w.hooks.open = func(o digest.Digest) error {
				if o != d || w.quarantined(d) != nil {
					return nil
				}
				return &os.PathError{Op: "read", Path: "blob", Err: syscall.EIO}
			}
		})
	}, storage.DamageUnreadable},
}

func (w *world) truncate(d digest.Digest, by int64) {
	fi, err := os.Stat(w.path(d))
	if err == nil {
		err = os.Truncate(w.path(d), max(0, fi.Size()+by))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestDamage harms a blob, large and small, in each way: it is found, moved away,
// unknown, and heals by each kind of push.
func TestDamage(t *testing.T) {
	for _, size := range []int{100, 300_000, 4096 * 80} {
		for i, harm := range harms {
			t.Run(fmt.Sprintf("%s/%d", harm.name, size), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, t.TempDir())
				data, other := noise(size, 1), noise(size, 2)
				d := w.mustPush("a", data)
				w.mustPush("b", data)
				w.mustPush("a", other)
				w.mustPush("a", []byte("{}"))
				image := manifestOf(data, other)
				if _, err := w.pushManifest("a", image, "v1"); err != nil {
					t.Fatal(err)
				}
				if st := w.round(); len(st.Damaged) > 0 || st.Round.Last.Blobs != 4 || st.Problem != nil {
					t.Fatalf("of what is whole: %+v", st)
				}
				harm.do(w, d)
				st := w.round()
				if len(st.Damaged) != 1 || st.Damaged[0].Digest != d || st.Damaged[0].Kind != harm.kind || st.Damaged[0].Moving ||
					st.Damaged[0].Size != int64(size) || !slices.Equal(st.Damaged[0].Repos, []string{"a", "b"}) || st.Round.Last.Damaged != 1 {
					t.Fatalf("found %+v, want %s of %s", st, harm.kind, d)
				}
				w.isUnknown("a", d)
				w.isUnknown("b", d)
				w.isWhole("a", other)
				if kept := harm.kind != storage.DamageMissing; st.Damaged[0].Kept != kept || kept != (w.quarantined(d) != nil) {
					t.Errorf("kept: %v, and in quarantine are %d bytes", st.Damaged[0].Kept, len(w.quarantined(d)))
				}
				if _, err := w.pushManifest("b", manifestOf(data), "v2"); !errors.Is(err, registry.ErrManifestBlobUnknown) {
					t.Errorf("a manifest that needs it is %v", err)
				}
				w.round() // finds nothing new
				w.heal(i, data)
				w.isWhole("a", data)
				w.isWhole("b", data)
				if _, err := w.pushManifest("a", image, "v2"); err != nil {
					t.Errorf("a manifest that needs what was healed is %v", err)
				}
				if st := w.round(); len(st.Damaged) > 0 || st.Round.Last.Damaged > 0 {
					t.Errorf("what was healed is %+v", st.Damaged)
				}
			})
		}
	}
}

// heal pushes a blob again, in one of the ways that there are.
func (w *world) heal(way int, data []byte) {
	w.t.Helper()
	ctx, d := w.t.Context(), digest.FromBytes(data)
	repo := []string{"a", "b", "new"}[way%3]
	if way%2 == 0 {
		w.mustPush(repo, data)
		return
	}
	id, err := w.StartUpload(ctx, repo, digest.SHA256)
	if err == nil {
		_, err = w.WriteUpload(ctx, repo, id, registry.Chunk{}, bytes.NewReader(data[:len(data)/2]))
	}
	if err == nil {
		_, err = w.CommitUpload(ctx, repo, id, registry.Chunk{}, bytes.NewReader(data[len(data)/2:]), d)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestDamagedManifest harms a manifest: it is unknown, by tag and digest, also to an
// index, and heals by a push.
func TestDamagedManifest(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.mustPush("a", []byte("{}"))
	image := manifestOf()
	d, err := w.pushManifest("a", image, "v1")
	if err != nil {
		t.Fatal(err)
	}
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}]}`, d, len(image))
	if _, err := w.pushManifest("a", index, "index"); err != nil {
		t.Fatal(err)
	}
	flip(t, w.path(d))
	if st := w.round(); len(st.Damaged) != 1 {
		t.Fatalf("damaged: %+v", st.Damaged)
	}
	for _, ref := range []registry.Reference{{Tag: "v1"}, {Digest: d}} {
		_, serr := w.StatManifest(t.Context(), "a", ref)
		if _, _, err := w.Manifest(t.Context(), "a", ref); !errors.Is(err, registry.ErrManifestUnknown) || !errors.Is(serr, registry.ErrManifestUnknown) {
			t.Errorf("a damaged manifest is %v, %v", err, serr)
		}
	}
	if _, err := w.pushManifest("a", index, "again"); !errors.Is(err, registry.ErrManifestBlobUnknown) {
		t.Errorf("an index of it is %v", err)
	}
	for _, data := range [][]byte{image, index} {
		if _, err := w.pushManifest("a", data); err != nil {
			t.Fatal(err)
		}
	}
	if got, _, err := w.Manifest(t.Context(), "a", registry.Reference{Tag: "v1"}); err != nil || !bytes.Equal(got, image) {
		t.Errorf("healed, it is %q, %v", got, err)
	}
	if st := w.round(); len(st.Damaged) > 0 {
		t.Errorf("damaged: %+v", st.Damaged)
	}
}

// TestSecondLook has a read fail once, and bytes come back: neither is damage for
// long.
func TestSecondLook(t *testing.T) {
	w := newWorld(t, t.TempDir())
	data := noise(100_000, 1)
	d := w.mustPush("a", data)
	failed := false
	w.hooks.hook(func() {
		w.hooks.open = func(digest.Digest) error {
			if failed {
				return nil
			}
			failed = true
			return syscall.EIO
		}
	})
	if st := w.round(); len(st.Damaged) > 0 || !failed {
		t.Errorf("a read that failed once makes %+v", st.Damaged)
	}
	w.isWhole("a", data)
	away := w.path(d) + ".away"
	if err := os.Rename(w.path(d), away); err != nil {
		t.Fatal(err)
	}
	if st := w.round(); len(st.Damaged) != 1 {
		t.Errorf("damaged: %+v", st.Damaged)
	}
	if err := os.Rename(away, w.path(d)); err != nil {
		t.Fatal(err)
	}
	if st := w.round(); len(st.Damaged) > 0 {
		t.Errorf("bytes that came back are %+v", st.Damaged)
	}
	w.isWhole("a", data)
}

// TestAway takes the whole store away: nothing is called damaged that is only not
// there, until somebody says so.
func TestAway(t *testing.T) {
	w := newWorld(t, t.TempDir())
	for i := range 100 {
		w.mustPush("a", noise(100, uint64(i)))
	}
	blobs := filepath.Join(w.dir, "blobs")
	if err := os.Rename(blobs, blobs+".away"); err != nil {
		t.Fatal(err)
	}
	auto := w.newScrub(scrub.Options{Interval: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { auto.Run(ctx) })
	waitFor(t, "the round to stop", func() bool { return w.status(auto).Problem != nil })
	if st := w.status(auto); !errors.Is(st.Problem, scrub.ErrAway) || len(st.Damaged) >= 20 {
		t.Errorf("%d are damaged, and the problem is %v", len(st.Damaged), st.Problem)
	}
	cancel()
	running.Wait()
	if st := w.round(); st.Problem != nil || len(st.Damaged) != 100 { // asked for
		t.Errorf("asked for, %d are damaged, and the problem is %v", len(st.Damaged), st.Problem)
	}
	if err := errors.Join(os.RemoveAll(blobs), os.Rename(blobs+".away", blobs)); err != nil {
		t.Fatal(err)
	}
	if st := w.round(); st.Problem != nil || len(st.Damaged) != 0 {
		t.Errorf("back again, %d are damaged, and the problem is %v", len(st.Damaged), st.Problem)
	}
	for i := range 100 { // a part that is really lost is, however large
		if i%4 > 0 {
			_ = os.Remove(w.path(digest.FromBytes(noise(100, uint64(i)))))
		}
	}
	if st := w.roundOf(w.newScrub(scrub.Options{})); st.Problem != nil || len(st.Damaged) != 75 {
		t.Errorf("of 75 that are lost, %d are damaged, and the problem is %v", len(st.Damaged), st.Problem)
	}
}

func waitFor(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestDoubt has a client find the damage: it is unknown soon, without a round, and a
// damaged manifest is never served.
func TestDoubt(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.SetDoubt(w.scrub.Doubt)
	data := noise(100_000, 1)
	d := w.mustPush("a", data)
	w.mustPush("a", []byte("{}"))
	w.isWhole("a", data)
	m, err := w.pushManifest("a", manifestOf(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	w.end()
	w = newWorld(t, w.dir) // has nothing in memory
	w.SetDoubt(w.scrub.Doubt)
	flip(t, w.path(m))
	_ = os.Remove(w.path(d))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.scrub.Run(ctx) })
	got, _, err := w.Manifest(t.Context(), "a", registry.Reference{Tag: "v1"})
	if err == nil {
		t.Errorf("a damaged manifest was served: %q", got)
	}
	if _, err := w.read("a", d); err == nil {
		t.Error("a blob that is gone was served")
	}
	waitFor(t, "the blob to be unknown", func() bool {
		_, err := w.StatBlob(t.Context(), "a", d)
		return errors.Is(err, registry.ErrBlobUnknown)
	})
	waitFor(t, "the manifest to be unknown", func() bool {
		_, err := w.StatManifest(t.Context(), "a", registry.Reference{Tag: "v1"})
		return errors.Is(err, registry.ErrManifestUnknown)
	})
	cancel()
	running.Wait()
	if st := w.status(w.scrub); !st.Round.Last.Finished.IsZero() {
		t.Error("there was a round")
	}
}
