package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// testStore is a store with what it says.
type testStore struct {
	*Store
	mu     sync.Mutex
	events []string
}

func openStore(t *testing.T, root string, limits Limits) *testStore {
	t.Helper()
	s := &testStore{}
	var err error
	s.Store, err = Open(t.Context(), Options{
		Root: root, Limits: limits, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Event: func(a events.Action, ref string, attrs map[string]string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, fmt.Sprintf("%s %s %s", a, ref, attrs["name"]))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newStore(t *testing.T) *testStore {
	return openStore(t, filepath.Join(t.TempDir(), "images"), Limits{})
}

// ent is an entry of a test's layer.
type ent struct {
	name  string
	kind  byte // 0: a regular file, or a directory if the name ends in a slash
	body  string
	link  string
	mode  int64
	uid   int
	dev   [2]int64
	xattr map[string]string
	time  time.Time
}

var testTime = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)

func layerTarOf(t testing.TB, entries ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		hdr := &tar.Header{
			Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Uid: e.uid, Gid: e.uid, Size: int64(len(e.body)),
			Devmajor: e.dev[0], Devminor: e.dev[1], ModTime: e.time, Format: tar.FormatPAX,
		}
		if e.time.IsZero() {
			hdr.ModTime = testTime
		}
		if e.kind == 0 {
			hdr.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				hdr.Typeflag = tar.TypeDir
			}
		}
		if e.mode == 0 {
			hdr.Mode = 0o644
			if hdr.Typeflag == tar.TypeDir {
				hdr.Mode = 0o755
			}
		}
		for k, v := range e.xattr {
			if hdr.PAXRecords == nil {
				hdr.PAXRecords = map[string]string{}
			}
			hdr.PAXRecords[xattrRecord+k] = v
		}
		if err := tw.WriteHeader(hdr); err != nil {
			t.Fatalf("%s: %v", e.name, err)
		}
		if _, err := io.WriteString(tw, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	if cerr := w.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	return out.Bytes()
}

// memRegistry is a registry of which a test decides every byte.
type memRegistry struct {
	mu      sync.Mutex
	blobs   map[digest.Digest][]byte
	types   map[digest.Digest]string
	tags    map[string]digest.Digest // by "repository:tag"
	fetched map[digest.Digest]int
	// onFetch, if not nil, wraps what is sent.
	onFetch func(ctx context.Context, d digest.Digest, r io.Reader) io.Reader
}

func newRegistry() *memRegistry {
	return &memRegistry{blobs: map[digest.Digest][]byte{}, types: map[digest.Digest]string{}, tags: map[string]digest.Digest{}, fetched: map[digest.Digest]int{}}
}

func (m *memRegistry) put(mediaType string, b []byte) ocispec.Descriptor {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := digest.FromBytes(b)
	m.blobs[d], m.types[d] = b, mediaType
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

func (m *memRegistry) putJSON(t testing.TB, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return m.put(mediaType, b)
}

func (m *memRegistry) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.tags[ref]
	if _, after, found := strings.Cut(ref, "@"); found {
		d, ok = digest.Digest(after), true
	}
	b, there := m.blobs[d]
	if !ok || !there {
		return ocispec.Descriptor{}, runner.Errorf(runner.ErrNotFound, "manifest unknown: %s", ref)
	}
	return ocispec.Descriptor{MediaType: m.types[d], Digest: d, Size: int64(len(b))}, nil
}

func (m *memRegistry) Fetch(ctx context.Context, _ string, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[desc.Digest]
	if !ok {
		return nil, runner.Errorf(runner.ErrNotFound, "blob unknown: %s", desc.Digest)
	}
	m.fetched[desc.Digest]++
	var r io.Reader = bytes.NewReader(b[offset:])
	if m.onFetch != nil {
		r = m.onFetch(ctx, desc.Digest, r)
	}
	return io.NopCloser(r), nil
}

// testImage is an image of a test.
type testImage struct {
	id       digest.Digest
	manifest ocispec.Descriptor
	layers   []ocispec.Descriptor
	diffIDs  []digest.Digest
}

// addImage puts an image of gzip layers into the registry; change may alter its
// configuration.
func (m *memRegistry) addImage(t testing.TB, ref string, change func(*ocispec.Image), layers ...[]byte) testImage {
	t.Helper()
	created := testTime
	cfg := ocispec.Image{Created: &created, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	var out testImage
	for i, l := range layers {
		out.diffIDs = append(out.diffIDs, digest.FromBytes(l))
		out.layers = append(out.layers, m.put(ocispec.MediaTypeImageLayerGzip, gz(t, l)))
		cfg.History = append(cfg.History, ocispec.History{Created: &created, CreatedBy: fmt.Sprintf("ADD layer %d", i)})
	}
	cfg.RootFS.DiffIDs = out.diffIDs
	if change != nil {
		change(&cfg)
	}
	config := m.putJSON(t, ocispec.MediaTypeImageConfig, cfg)
	out.id = config.Digest
	out.manifest = m.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: out.layers,
	})
	if ref != "" {
		m.tags[ref] = out.manifest.Digest
	}
	return out
}

// messages collects progress as lines.
type messages struct {
	mu    sync.Mutex
	lines []string
}

func (m *messages) progress(msg jsonstream.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	line := msg.Stream + msg.Status
	if msg.ID != "" {
		line = msg.ID + ": " + line
	}
	m.lines = append(m.lines, strings.TrimSpace(line))
}

func (m *messages) count(part string) int {
	n := 0
	for _, l := range m.lines {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

func (s *testStore) pull(t *testing.T, f Fetcher, ref string) (string, *messages) {
	t.Helper()
	msgs := &messages{}
	id, err := s.tryPull(t.Context(), f, ref, "", msgs.progress)
	if err != nil {
		t.Fatalf("pull %s: %v", ref, err)
	}
	return id, msgs
}

func (s *testStore) tryPull(ctx context.Context, f Fetcher, ref, platform string, p runner.Progress) (string, error) {
	named, err := s.ParseRef(ref)
	if err != nil {
		return "", err
	}
	return s.Pull(ctx, f, named, platform, p)
}

// mounted mounts an image's layers in a namespace of its own and returns the
// directory, as seen from here.
func (s *testStore) mounted(t *testing.T, id string) string {
	t.Helper()
	lower, err := s.Layers(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if len(lower) == 1 {
		lower = append(lower, t.TempDir())
	}
	dir := t.TempDir()
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		t.Fatalf("mount %v: %v", lower, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// listing is what a tree has, with the contents of its files.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		line := fmt.Sprintf("%s %v", rel, info.Mode())
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += " " + string(b)
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// files counts the entries of the store's directories.
func (s *testStore) files(t *testing.T) (layers, blobs, ingests int) {
	t.Helper()
	count := func(dir string) int {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	return count(s.path("layers")), count(s.path("blobs", "sha256")), count(s.path("ingest"))
}

func (s *testStore) wantFiles(t *testing.T, layers, blobs int) {
	t.Helper()
	if l, b, i := s.files(t); l != layers || b != blobs || i != 0 {
		t.Errorf("%d layers, %d blobs and %d ingests are on disk, want %d, %d and 0", l, b, i, layers, blobs)
	}
}

func equal[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\ngot  %v\nwant %v", what, got, want)
	}
}
