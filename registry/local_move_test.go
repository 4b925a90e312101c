package registry_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/mem"
)

// TestMoveTag moves a tag only from what it names, only to what is there, and only if it
// may be moved.
func TestMoveTag(t *testing.T) {
	l := newLocal(t, mem.NewBlobs(), mem.NewMeta())
	ctx := t.Context()
	push := func(n int, tags ...string) digest.Digest {
		data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"n":"%d"}}`, n)
		d := digest.FromBytes(data)
		if _, err := l.PushManifest(ctx, "a", registry.ManifestPush{Data: data, Digest: d, Tags: tags}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	one, two, none := push(1, "t"), push(2, "t"), digest.FromString("none")
	for _, tt := range []struct {
		tag      string
		from, to digest.Digest
		want     error
	}{
		{"t", one, two, registry.ErrTagElsewhere},
		{"u", one, two, registry.ErrTagElsewhere},
		{"t", two, none, registry.ErrManifestUnknown},
		{"t", two, one, nil},
		{"t", two, one, registry.ErrTagElsewhere},
	} {
		if err := l.MoveTag(ctx, "a", tt.tag, tt.from, tt.to); !errors.Is(err, tt.want) {
			t.Errorf("%s from %s to %s: %v, want %v", tt.tag, tt.from, tt.to, err, tt.want)
		}
	}
	l.SetImmutable(func(string, string) bool { return true })
	if err := l.MoveTag(ctx, "a", "t", one, two); !errors.Is(err, registry.ErrTagImmutable) {
		t.Errorf("immutable: %v", err)
	}
	if d, err := l.StatManifest(ctx, "a", registry.Reference{Tag: "t"}); err != nil || d.Digest != one {
		t.Errorf("%s, %v", d.Digest, err)
	}
}
