package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
)

// What has changed when the server ends is noted, too.
func TestLastNotes(t *testing.T) {
	dir := t.TempDir()
	blobs, err := fs.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blobs.Close() }()
	meta, err := bolt.Open(filepath.Join(dir, metaFile))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = meta.Close() }()
	local, err := registry.NewLocal(t.Context(), blobs, meta, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	n := newNoter(healthOptions{local: local, meta: meta, notes: blobs, log: slog.New(slog.DiscardHandler)})
	if _, err := local.PushBlob(t.Context(), "a", digest.FromString("{}"), strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	}
	data := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	if _, err := local.PushManifest(t.Context(), "a", registry.ManifestPush{Data: data, Digest: digest.FromBytes(data), Tags: []string{"v1"}}); err != nil {
		t.Fatal(err)
	}
	if lag, err := n.lag(t.Context()); lag <= 0 || err != nil {
		t.Errorf("the lag is %v, %v before anything is noted", lag, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it ends at once
	n.Run(ctx)
	if lag, err := n.lag(t.Context()); lag != 0 || err != nil {
		t.Errorf("the lag is %v, %v when all is noted", lag, err)
	}
	note, err := blobs.Note(t.Context(), "repositories/a")
	if err != nil || !strings.Contains(string(note), `"tag":"v1"`) {
		t.Errorf("the note is %s, %v", note, err)
	}
}
