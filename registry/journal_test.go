package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// diary is a journal that writes a row for each change, unless it is to fail.
type diary struct {
	mu   sync.Mutex
	fail error
	done []registry.Change
	meta storage.Meta
}

func (d *diary) Write(_ context.Context, tx storage.Tx, changes []registry.Change) error {
	for range changes {
		n, err := storage.Next(tx, storage.CountEvents)
		if err != nil {
			return err
		}
		if err := storage.Outbox.Put(tx, storage.Key("diary", storage.NumberPart(n)), storage.Delivery{}); err != nil {
			return err
		}
	}
	return d.fail
}

func (d *diary) Done(_ context.Context, changes []registry.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done = append(d.done, changes...)
}

// take returns what was noted since the last call, in words.
func (d *diary) take() (words []string) {
	for _, c := range d.done {
		kind := [...]string{"pushed", "deleted", "moved", "untagged", "dropped"}[c.Kind]
		if c.Digest == "" {
			kind += " nothing"
		}
		if c.Was != "" {
			kind += " again"
		}
		words = append(words, strings.TrimSpace(kind+" "+c.Tag))
	}
	d.done = nil
	return words
}

func (d *diary) rows(t *testing.T) (n int64) {
	t.Helper()
	err := d.meta.View(t.Context(), func(tx storage.Tx) (err error) {
		n, err = storage.Total(tx, storage.CountEvents)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func withDiary(t *testing.T) (*registry.Local, *diary) {
	t.Helper()
	d := &diary{meta: mem.NewMeta()}
	l, err := registry.NewLocal(t.Context(), mem.NewBlobs(), d.meta, registry.Options{Journal: d})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, d
}

// artifact pushes a manifest that says text and points tags at it.
func artifact(t *testing.T, l *registry.Local, text string, tags ...string) (digest.Digest, error) {
	t.Helper()
	empty := []byte("{}")
	if _, err := l.PushBlob(t.Context(), "a", digest.FromBytes(empty), bytes.NewReader(empty)); err != nil {
		t.Fatal(err)
	}
	data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/b",
"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"text":%q}}`, digest.FromBytes(empty), text)
	d := digest.FromBytes(data)
	_, err := l.PushManifest(t.Context(), "a", registry.ManifestPush{Data: data, Digest: d, Tags: tags})
	return d, err
}

func TestJournal(t *testing.T) {
	l, d := withDiary(t)
	ctx := t.Context()
	one, err := artifact(t, l, "one", "v1", "v2")
	if err != nil {
		t.Fatal(err)
	}
	two, err := artifact(t, l, "two", "v1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := artifact(t, l, "two", "v1"); err != nil { // again: nothing moves
		t.Fatal(err)
	}
	want := []string{"pushed", "moved v1", "moved v2", "pushed", "moved again v1", "pushed"}
	if got := d.take(); !reflect.DeepEqual(got, want) {
		t.Errorf("noted %q, want %q", got, want)
	}
	rows := d.rows(t)
	if rows != int64(len(want)) {
		t.Errorf("%d rows in the transactions, want %d", rows, len(want))
	}

	for _, err := range []error{l.DeleteTag(ctx, "a", "v1"), l.DeleteManifest(ctx, "a", one), l.DeleteManifest(ctx, "a", two), l.DeleteBlob(ctx, "a", digest.FromString("{}"))} {
		if err != nil {
			t.Error(err)
		}
	}
	want = []string{"untagged v1", "untagged v2", "deleted", "deleted", "dropped"}
	if got := d.take(); !reflect.DeepEqual(got, want) {
		t.Errorf("noted %q, want %q", got, want)
	}

	// What is refused is not noted, and what cannot be noted is not done.
	if err := l.DeleteTag(ctx, "a", "v1"); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Error(err)
	}
	rows = d.rows(t)
	d.fail = errors.New("no ink")
	if _, err := artifact(t, l, "three", "v3"); !errors.Is(err, d.fail) {
		t.Errorf("a push that the journal refuses: %v", err)
	}
	if _, err := l.StatManifest(ctx, "a", registry.Reference{Tag: "v3"}); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Errorf("it was done all the same: %v", err)
	}
	if got := d.take(); got != nil || d.rows(t) != rows {
		t.Errorf("noted %q", got)
	}
}

// TestImmutable creates tags that can be neither moved nor removed, by many
// pushes at once: one of them wins.
func TestImmutable(t *testing.T) {
	l, _ := withDiary(t)
	l.SetImmutable(func(repo, tag string) bool { return repo == "a" && strings.HasPrefix(tag, "v") })
	var wg sync.WaitGroup
	won := make(chan digest.Digest, 8)
	for i := range 8 {
		wg.Go(func() {
			d, err := artifact(t, l, fmt.Sprint(i), "v1", "latest")
			switch {
			case err == nil:
				won <- d
			case !errors.Is(err, registry.ErrTagImmutable):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d pushes of an immutable tag succeeded", len(won))
	}
	d, ctx := <-won, t.Context()
	for _, tag := range []string{"v1", "latest"} {
		if desc, err := l.StatManifest(ctx, "a", registry.Reference{Tag: tag}); err != nil || desc.Digest != d {
			t.Errorf("%s: %v %v, want %s", tag, desc.Digest, err, d)
		}
	}
	if err := l.DeleteTag(ctx, "a", "v1"); !errors.Is(err, registry.ErrTagImmutable) {
		t.Errorf("delete the tag: %v", err)
	}
	if err := l.DeleteManifest(ctx, "a", d); !errors.Is(err, registry.ErrTagImmutable) {
		t.Errorf("delete the manifest: %v", err)
	}
	if err := l.DeleteTag(ctx, "a", "latest"); err != nil {
		t.Error(err)
	}
}

// declared is a reader that says how long it is.
type declared struct {
	io.Reader
	n int64
}

func (d declared) Length() int64 { return d.n }

func TestLimits(t *testing.T) {
	l, _ := withDiary(t)
	l.SetLimits(registry.Limits{Blob: 10, Manifest: 100})
	ctx, ten := t.Context(), "0123456789"
	if _, err := l.PushBlob(ctx, "a", digest.FromString(ten), strings.NewReader(ten)); err != nil {
		t.Errorf("a blob of the greatest size: %v", err)
	}
	if _, err := l.PushBlob(ctx, "a", digest.FromString(ten+"x"), strings.NewReader(ten+"x")); !errors.Is(err, registry.ErrTooLarge) {
		t.Errorf("a blob that is too large: %v", err)
	}
	unread := declared{iotestFail{t}, 11}
	if _, err := l.PushBlob(ctx, "a", digest.FromString(ten), unread); !errors.Is(err, registry.ErrTooLarge) {
		t.Errorf("a blob that says it is too large: %v", err)
	}
	id, err := l.StartUpload(ctx, "a", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		text string
		size int64
		err  error
	}{{"012345", 6, nil}, {"6789x", 6, registry.ErrTooLarge}, {"6789", 10, nil}} {
		n, err := l.WriteUpload(ctx, "a", id, registry.Chunk{}, strings.NewReader(step.text))
		if !errors.Is(err, step.err) || err == nil && n != step.size {
			t.Errorf("%q: %d, %v; want %d, %v", step.text, n, err, step.size, step.err)
		}
		if n, err := l.UploadSize(ctx, "a", id); n != step.size || err != nil {
			t.Errorf("after %q the session has %d bytes, %v", step.text, n, err)
		}
	}
	if _, err := l.CommitUpload(ctx, "a", id, registry.Chunk{}, strings.NewReader(""), digest.FromString(ten)); err != nil {
		t.Error(err)
	}
	if id, err = l.StartUpload(ctx, "a", digest.SHA256); err != nil {
		t.Fatal(err)
	}
	if _, err := l.WriteUpload(ctx, "a", id, registry.Chunk{}, strings.NewReader(ten)); err != nil {
		t.Fatal(err)
	}
	l.SetLimits(registry.Limits{Blob: 5})
	if _, err := l.WriteUpload(ctx, "a", id, registry.Chunk{}, strings.NewReader("x")); !errors.Is(err, registry.ErrTooLarge) {
		t.Errorf("a session that held more before the limit was lowered: %v", err)
	}
	l.SetLimits(registry.Limits{Manifest: 100})
	if _, err := artifact(t, l, "long", "v1"); !errors.Is(err, registry.ErrManifestTooLarge) {
		t.Errorf("a manifest that is too large: %v", err)
	}
}

// iotestFail fails the test if it is read.
type iotestFail struct{ t *testing.T }

func (f iotestFail) Read([]byte) (int, error) {
	f.t.Error("it was read")
	return 0, io.EOF
}
