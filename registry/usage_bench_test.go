package registry_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/mem"
)

// BenchmarkPush pushes images of one new layer each, to a store that has some: on
// disk, and without the disk's share in memory.
func BenchmarkPush(b *testing.B) {
	for _, store := range []string{"bolt", "mem"} {
		for _, quota := range []string{"no quotas", "other quotas", "quota"} {
			b.Run(store+"/"+quota, func(b *testing.B) { benchmarkPush(b, store, quota) })
		}
	}
}

func benchmarkPush(b *testing.B, store, quota string) {
	ctx := b.Context()
	meta := storage.Meta(mem.NewMeta())
	if store == "bolt" {
		var err error
		if meta, err = bolt.Open(filepath.Join(b.TempDir(), "meta.db")); err != nil {
			b.Fatal(err)
		}
		defer meta.Close()
	}
	l, err := registry.NewLocal(ctx, mem.NewBlobs(), meta, registry.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	setBenchmarkQuotas(l, quota)
	push := func(i int) {
		repo := fmt.Sprintf("team/r%d", i%50)
		for _, text := range []string{"{}", fmt.Sprint("layer ", i)} {
			if _, err := l.PushBlob(ctx, repo, digest.FromString(text), strings.NewReader(text)); err != nil {
				b.Fatal(err)
			}
		}
		data := imageOf(fmt.Sprint("layer ", i))
		if _, err := l.PushManifest(ctx, repo, registry.ManifestPush{Data: data, Digest: digest.FromBytes(data), Tags: []string{fmt.Sprint("v", i%100)}}); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 200 {
		push(i)
	}
	i := 200
	for b.Loop() {
		push(i)
		i++
	}
}

func setBenchmarkQuotas(l *registry.Local, quota string) {
	switch quota {
	case "other quotas":
		l.SetQuotas([]registry.Quota{under("a", 1, 1), under("b", 1, 1), under("c", 1, 1)})
	case "quota":
		l.SetQuotas([]registry.Quota{under("team", 1<<50, 1<<40)})
	}
}
