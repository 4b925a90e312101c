package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/mem"
)

// everything lists what a registry shows: repositories, tags with their digests,
// and the referrers of what they name.
func everything(t *testing.T, l *registry.Local) (all []string) {
	t.Helper()
	ctx := t.Context()
	for repo, err := range l.Repositories(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		for tag, err := range l.Tags(ctx, repo, "") {
			if err != nil {
				t.Fatal(err)
			}
			data, desc, err := l.Manifest(ctx, repo, registry.Reference{Tag: tag})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprint(repo, ":", tag, " ", desc.Digest, " ", desc.MediaType))
			for r, err := range l.Referrers(ctx, repo, desc.Digest, "", "") {
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, fmt.Sprint(repo, " ", r.Digest, " refers to ", desc.Digest))
			}
			all = append(all, needs(t, l, repo, data)...)
		}
	}
	return all
}

// needs checks that all that a manifest needs can be read.
func needs(t *testing.T, l *registry.Local, repo string, data []byte) (all []string) {
	t.Helper()
	var m struct {
		Layers    []registry.Descriptor
		Manifests []registry.Descriptor
	}
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Layers {
		f, _, err := l.Blob(t.Context(), repo, d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		all = append(all, string(d.Digest))
	}
	for _, d := range m.Manifests {
		child, _, err := l.Manifest(t.Context(), repo, registry.Reference{Digest: d.Digest})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, needs(t, l, repo, child)...)
	}
	return all
}

// TestRebuild loses the metadata, and makes it anew.
func TestRebuild(t *testing.T) {
	blobs, err := fs.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	c := newCollectedOn(t, blobs)
	ctx := t.Context()
	one := must[digest.Digest](t)(c.image("a", nil, "", c.blob("a", "one")))
	two := must[digest.Digest](t)(c.image("a", nil, "", c.blob("a", "two")))
	index := must[digest.Digest](t)(c.index("a", []string{"v1", "latest"}, one, two))
	must[digest.Digest](t)(c.image("a", nil, index, c.blob("a", "signature")))
	must[digest.Digest](t)(c.image("a", []string{"gone"}, "", c.blob("a", "three")))
	must[digest.Digest](t)(c.image("deep/er/b", []string{"v1"}, "", c.blob("deep/er/b", "four")))
	must[digest.Digest](t)(c.image("empty", []string{"v1"}, "", c.blob("empty", "five")))
	if n, err := c.Snapshot(ctx, blobs); n != 3 || err != nil {
		t.Fatalf("%d repositories were noted, %v", n, err)
	}
	if n, err := c.Snapshot(ctx, blobs); n != 0 || err != nil {
		t.Errorf("nothing has changed, and %d repositories were noted, %v", n, err)
	}
	// What changes after that is noted, too: repositories that go included.
	for _, err := range []error{
		c.DeleteTag(ctx, "a", "gone"),
		c.DeleteManifest(ctx, "empty", must[registry.Descriptor](t)(c.StatManifest(ctx, "empty", registry.Reference{Tag: "v1"})).Digest),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if n, err := c.Snapshot(ctx, blobs); n != 2 || err != nil {
		t.Errorf("%d repositories were noted, %v", n, err)
	}
	want := everything(t, c.Local)

	anew := newLocal(t, blobs, mem.NewMeta())
	for range 2 { // the second time there is nothing left to do
		var repos []string
		if err := anew.Rebuild(ctx, blobs, func(r registry.Rebuilt) {
			repos = append(repos, fmt.Sprint(r.Repo, " ", r.Manifests, " ", r.Tags))
			if r.Problems != nil {
				t.Errorf("%s: %v", r.Repo, r.Problems)
			}
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(repos)
		if want := []string{"a 5 2", "deep/er/b 1 1"}; !reflect.DeepEqual(repos, want) {
			t.Errorf("rebuilt %q, want %q", repos, want)
		}
		if got := everything(t, anew); !reflect.DeepEqual(got, want) {
			t.Errorf("rebuilt\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestRebuildDamaged makes anew what there is, and tells of the rest.
func TestRebuildDamaged(t *testing.T) {
	blobs := mem.NewBlobs()
	c := newCollectedOn(t, blobs)
	ctx := t.Context()
	layer := c.blob("a", "lost")
	must[digest.Digest](t)(c.image("a", []string{"broken"}, "", layer))
	must[digest.Digest](t)(c.image("a", []string{"whole"}, "", c.blob("a", "kept")))
	if _, err := c.Snapshot(ctx, blobs); err != nil {
		t.Fatal(err)
	}
	if err := blobs.Delete(ctx, layer.Digest); err != nil {
		t.Fatal(err)
	}
	note, err := blobs.Note(ctx, "repositories/a")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"repositories/a":      append(note, "{\"tag\":\"../x\",\"digest\":\"sha256:1\"}\n{half"...),
		"repositories/A..b":   []byte("{}\n"),
		"something/else":      []byte("x"),
		"repositories/nobody": nil,
	} {
		if err := blobs.PutNote(ctx, name, data); err != nil {
			t.Fatal(err)
		}
	}
	anew := newLocal(t, blobs, mem.NewMeta())
	var problems []error
	if err := anew.Rebuild(ctx, blobs, func(r registry.Rebuilt) { problems = append(problems, r.Problems...) }); err != nil {
		t.Fatal(err)
	}
	if len(problems) != 4 {
		t.Errorf("problems: %v", problems)
	}
	if _, err := anew.StatManifest(ctx, "a", registry.Reference{Tag: "whole"}); err != nil {
		t.Error(err)
	}
	if _, err := anew.StatManifest(ctx, "a", registry.Reference{Tag: "broken"}); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Error(err)
	}
}

// TestSnapshotFails leaves for the next time what could not be noted.
func TestSnapshotFails(t *testing.T) {
	blobs := mem.NewBlobs()
	c := newCollectedOn(t, blobs)
	must[digest.Digest](t)(c.image("a", []string{"v1"}, "", c.blob("a", "one")))
	if _, err := c.Snapshot(t.Context(), fullNotes{blobs}); !errors.Is(err, storage.ErrNoSpace) {
		t.Fatal(err)
	}
	if n, err := c.Snapshot(t.Context(), blobs); n != 1 || err != nil {
		t.Errorf("%d repositories were noted, %v", n, err)
	}
}

// fullNotes takes no note.
type fullNotes struct{ storage.Notes }

func (fullNotes) PutNote(context.Context, string, []byte) error { return storage.ErrNoSpace }
