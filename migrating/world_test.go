package migrating_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/migrating"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
	"github.com/berth-registry/berth/storage/s3"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// place is where a registry can be.
type place struct {
	t      *testing.T
	dir    string
	dsn    string
	bucket *berthtest.S3 // nil for files
	prefix string
}

var prefixes atomic.Int64

// newPlace makes an empty place of a kind.
func newPlace(t *testing.T, kind string, bucket *berthtest.S3) *place {
	t.Helper()
	p := &place{t: t, dir: t.TempDir(), prefix: fmt.Sprintf("p%d", prefixes.Add(1))}
	if strings.HasPrefix(kind, "s3") {
		p.bucket = bucket
	}
	if strings.HasSuffix(kind, "postgres") {
		p.dsn = postgrestest.Shared(t)
	}
	return p
}

// open opens the stores of the place until the test ends, or close is called.
func (p *place) open() (s migrating.Store, closeAll func()) {
	p.t.Helper()
	var err error
	if p.dsn != "" {
		s.Meta, err = postgres.Open(p.t.Context(), postgres.Options{DSN: p.dsn})
	} else {
		s.Meta, err = bolt.Open(filepath.Join(p.dir, "meta.db"))
	}
	if err != nil {
		p.t.Fatal(err)
	}
	blobs, closeBlobs := p.openBlobs(s.Meta)
	s.Blobs, s.Notes = blobs, blobs
	done := false
	closeAll = func() {
		if !done {
			done = true
			if err := errors.Join(closeBlobs(), s.Meta.Close()); err != nil {
				p.t.Error(err)
			}
		}
	}
	p.t.Cleanup(closeAll)
	return s, closeAll
}

type blobsAndNotes interface {
	storage.Blobs
	storage.Notes
}

func (p *place) openBlobs(meta storage.Meta) (blobsAndNotes, func() error) {
	p.t.Helper()
	if p.bucket == nil {
		b, err := fs.Open(p.dir, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		return b, b.Close
	}
	b, err := s3.Open(p.t.Context(), s3.Options{
		Endpoint: p.bucket.Endpoint, Bucket: p.bucket.Bucket, Region: p.bucket.Region, AccessKey: p.bucket.AccessKey, SecretKey: p.bucket.SecretKey,
		PathStyle: true, Prefix: p.prefix, PartSize: 5 << 20, Temp: p.dir, Meta: meta,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return b, b.Close
}

// local is a registry over stores, until the test ends or close is called.
func local(t *testing.T, s migrating.Store) (l *registry.Local, closeLocal func()) {
	t.Helper()
	l, err := registry.NewLocal(t.Context(), s.Blobs, s.Meta, registry.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	done := false
	closeLocal = func() {
		if !done {
			done = true
			l.Close()
		}
	}
	t.Cleanup(closeLocal)
	return l, closeLocal
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

// must ends the test if something failed.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// push pushes an image of one layer, and returns the layer's digest and the manifest's.
func push(t *testing.T, l *registry.Local, repo, tag string, layer []byte) (digest.Digest, digest.Digest) {
	t.Helper()
	ctx := t.Context()
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","of":"%s:%s"}`, repo, tag)
	for _, b := range [][]byte{layer, config} {
		_, err := l.PushBlob(ctx, repo, digest.FromBytes(b), bytes.NewReader(b))
		must(t, err)
	}
	desc := func(media string, b []byte) map[string]any {
		return map[string]any{"mediaType": media, "digest": digest.FromBytes(b), "size": len(b)}
	}
	data, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": desc("application/vnd.oci.image.config.v1+json", config),
		"layers": []any{desc("application/vnd.oci.image.layer.v1.tar+gzip", layer)},
	})
	must(t, err)
	d := digest.FromBytes(data)
	_, err = l.PushManifest(ctx, repo, registry.ManifestPush{Data: data, Digest: d, MediaType: manifestType, Tags: []string{tag}})
	must(t, err)
	return digest.FromBytes(layer), d
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// session is an upload session that has some bytes.
type session struct {
	id         string
	have, rest []byte
}

const sessionRepo = "uploads/open"

// begin begins a session.
func begin(t *testing.T, l *registry.Local, data []byte, at int) session {
	t.Helper()
	id, err := l.StartUpload(t.Context(), sessionRepo, digest.SHA256)
	must(t, err)
	_, err = l.WriteUpload(t.Context(), sessionRepo, id, registry.Chunk{}, bytes.NewReader(data[:at]))
	must(t, err)
	return session{id, data[:at], data[at:]}
}

// finish goes on with it.
func (s session) finish(t *testing.T, l *registry.Local) {
	t.Helper()
	size, err := l.UploadSize(t.Context(), sessionRepo, s.id)
	if err != nil || size != int64(len(s.have)) {
		t.Fatalf("the session has %d bytes, %v; want %d", size, err, len(s.have))
	}
	all := slices.Concat(s.have, s.rest)
	d := digest.FromBytes(all)
	_, err = l.CommitUpload(t.Context(), sessionRepo, s.id, registry.Chunk{}, bytes.NewReader(s.rest), d)
	must(t, err)
	if got := pull(t, l, sessionRepo, d); !bytes.Equal(got, all) {
		t.Fatalf("the session became %d bytes, want %d", len(got), len(all))
	}
}

// pull reads a blob.
func pull(t *testing.T, l *registry.Local, repo string, d digest.Digest) []byte {
	t.Helper()
	r, _, err := l.Blob(t.Context(), repo, d)
	must(t, err)
	defer r.Close()
	data, err := io.ReadAll(r)
	must(t, err)
	if digest.FromBytes(data) != d {
		t.Fatalf("%s is %s", d, digest.FromBytes(data))
	}
	return data
}

// rows counts the rows of a store, but for those of stages, which change when they are
// read.
func rows(t *testing.T, meta storage.Meta) (n int) {
	t.Helper()
	must(t, meta.View(context.Background(), func(tx storage.Tx) error {
		n = 0
		for _, table := range storage.Tables() {
			if table == storage.StageParts.Name() {
				continue
			}
			for _, err := range tx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				n++
			}
		}
		return nil
	}))
	return n
}
