package mirror_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/mirror"
	"github.com/berth-registry/berth/registry/remote"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/mem"
)

// patience is how long a test waits for what should happen at once.
const patience = 30 * time.Second

// theirs is a registry with an HTTP server that a test can have fail.
type theirs struct {
	*registry.Local
	*httptest.Server

	mu    sync.Mutex
	fault func(w http.ResponseWriter, r *http.Request) bool // says that it has answered
	asked map[string]int                                    // by method and path
	sent  atomic.Int64                                      // bytes of bodies
}

// memory is an empty registry in memory.
func memory(t testing.TB) *registry.Local {
	t.Helper()
	meta := mem.NewMeta()
	l, err := registry.NewLocal(context.Background(), mem.NewBlobs(), meta, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		if err := meta.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func newTheirs(t testing.TB) *theirs {
	t.Helper()
	u := &theirs{Local: memory(t), asked: map[string]int{}}
	served := registry.NewServer(u.Local, registry.ServerOptions{})
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.asked[r.Method+" "+r.URL.Path]++
		fault := u.fault
		u.mu.Unlock()
		counted := &counting{ResponseWriter: w, n: &u.sent}
		if fault == nil || !fault(counted, r) {
			served.ServeHTTP(counted, r)
		}
	}))
	t.Cleanup(u.Server.Close)
	return u
}

// counting counts what a response has of bytes.
type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// fail has fn answer from now on what it wants to; nil ends that.
func (u *theirs) fail(fn func(w http.ResponseWriter, r *http.Request) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fault = fn
}

// down has everything answered with a status.
func (u *theirs) down(status int) {
	u.fail(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(status)
		return true
	})
}

// times is how often something was asked for, such as "GET blobs", "* manifests" or
// "".
func (u *theirs) times(what string) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	method, part, _ := strings.Cut(what, " ")
	for asked, times := range u.asked {
		if (method == "" || method == "*" || strings.HasPrefix(asked, method+" ")) && strings.Contains(asked, part) {
			n += times
		}
	}
	return n
}

// onBlobs is a fault of the GETs of blobs.
func onBlobs(fn func(w http.ResponseWriter, r *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && fn(w, r)
	}
}

// noise returns n bytes that look random and are the same for the same seed.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b) // never fails
	return b
}

// image is what a test has pushed.
type image struct {
	manifest []byte
	desc     registry.Descriptor
	blobs    map[digest.Digest][]byte
}

func (i image) size() (n int64) {
	for _, b := range i.blobs {
		n += int64(len(b))
	}
	return n + int64(len(i.manifest))
}

// push pushes an image with layers of some sizes.
func push(t testing.TB, to registry.Registry, repo, tag string, seed uint64, sizes ...int) image {
	t.Helper()
	img := image{blobs: map[digest.Digest][]byte{}}
	blob := func(data []byte, mediaType string) registry.Descriptor {
		desc, err := to.PushBlob(context.Background(), repo, digest.FromBytes(data), bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		img.blobs[desc.Digest] = data
		desc.MediaType = mediaType
		return desc
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Config = blob(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","created":"%d"}`, seed), ocispec.MediaTypeImageConfig)
	for i, n := range sizes {
		m.Layers = append(m.Layers, blob(noise(n, seed<<4+uint64(i)), ocispec.MediaTypeImageLayerGzip))
	}
	return pushed(t, to, repo, tag, img, m, m.MediaType)
}

func pushed(t testing.TB, to registry.Registry, repo, tag string, img image, m any, mediaType string) image {
	t.Helper()
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	p := registry.ManifestPush{Data: data, MediaType: mediaType, Digest: digest.FromBytes(data)}
	if tag != "" {
		p.Tags = []string{tag}
	}
	done, err := to.PushManifest(context.Background(), repo, p)
	if err != nil {
		t.Fatal(err)
	}
	img.manifest, img.desc = data, done.Descriptor
	return img
}

// layer is the digest of the largest blob of an image.
func (i image) layer() (d digest.Digest) {
	most := -1
	for b, data := range i.blobs {
		if len(data) > most {
			d, most = b, len(data)
		}
	}
	return d
}

// clock is a clock that a test sets.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Now().UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

// onDisk is the embedded default in a directory, and what closes it.
func onDisk(t testing.TB, dir string) (*registry.Local, func()) {
	t.Helper()
	blobs, err := fs.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := bolt.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := registry.NewLocal(context.Background(), blobs, meta, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	shut := sync.OnceFunc(func() {
		l.Close()
		if err := errors.Join(meta.Close(), blobs.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(shut)
	return l, shut
}

// ours is a mirror of theirs below "hub", on disk.
type ours struct {
	*mirror.Registry
	cache *registry.Local
	shut  func() // closes the cache
	dir   string // of transfers, beside the data of the cache
	clock *clock
}

func newOurs(t testing.TB, u *theirs, change ...func(*mirror.Upstream, *mirror.Options)) *ours {
	t.Helper()
	dir := t.TempDir()
	o := &ours{dir: filepath.Join(dir, "data", "transfers"), clock: newClock()}
	o.cache, o.shut = onDisk(t, filepath.Dir(o.dir))
	o.open(t, u, change...)
	return o
}

// restart closes all of it and opens it again.
func (o *ours) restart(t testing.TB, u *theirs, change ...func(*mirror.Upstream, *mirror.Options)) {
	t.Helper()
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	o.shut()
	o.cache, o.shut = onDisk(t, filepath.Dir(o.dir))
	o.open(t, u, change...)
}

// open makes the mirror, which goes away with t.
func (o *ours) open(t testing.TB, u *theirs, change ...func(*mirror.Upstream, *mirror.Options)) {
	t.Helper()
	c, err := remote.New(u.URL, u.Client())
	if err != nil {
		t.Fatal(err)
	}
	up := mirror.Upstream{Name: "hub", Prefix: "hub", Remote: c}
	opts := mirror.Options{Dir: o.dir, Now: o.clock.now, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, fn := range change {
		fn(&up, &opts)
	}
	if o.Registry, err = mirror.New(o.cache, []mirror.Upstream{up}, opts); err != nil {
		t.Fatal(err)
	}
	r := o.Registry
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(opts.Dir); err != nil || len(left) > 0 {
			t.Errorf("transfers left %v, %v", left, err)
		}
	})
}

func tagged(tag string) registry.Reference        { return registry.Reference{Tag: tag} }
func digested(d digest.Digest) registry.Reference { return registry.Reference{Digest: d} }
func (o *ours) stats() mirror.Stats               { return o.Stats()[0] }

// is fails the test unless err wraps want.
func is(t testing.TB, what string, err error, want *registry.Error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %s (%s)", what, err, want.Code, want.Message)
	}
}

// has checks that a manifest can be had, and is that of an image.
func has(t testing.TB, r registry.Reader, repo string, ref registry.Reference, want image) {
	t.Helper()
	data, desc, err := r.Manifest(context.Background(), repo, ref)
	if err != nil {
		t.Errorf("manifest %s: %v", ref, err)
		return
	}
	if !bytes.Equal(data, want.manifest) || desc.Digest != want.desc.Digest || desc.MediaType != want.desc.MediaType || desc.Size != want.desc.Size {
		t.Errorf("manifest %s is %s of type %s, want %s of type %s", ref, desc.Digest, desc.MediaType, want.desc.Digest, want.desc.MediaType)
	}
}

// read reads a blob to its end.
func read(r registry.Reader, repo string, d digest.Digest) ([]byte, error) {
	b, desc, err := r.Blob(context.Background(), repo, d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	data, err := io.ReadAll(b)
	if err == nil && int64(len(data)) != desc.Size {
		err = fmt.Errorf("blob %s has %d bytes, and was said to have %d", d, len(data), desc.Size)
	}
	return data, err
}

// hasBlobs checks that all blobs of an image can be had.
func hasBlobs(t testing.TB, r registry.Reader, repo string, want image) {
	t.Helper()
	for d, data := range want.blobs {
		if got, err := read(r, repo, d); err != nil || !bytes.Equal(got, data) {
			t.Errorf("blob %s: %d bytes of %d, %v", d, len(got), len(data), err)
		}
	}
}

// settled waits until no blob is coming any more.
func (o *ours) settled(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(patience); o.stats().Fills > 0; {
		if time.Now().After(end) {
			t.Fatal("a transfer does not end")
		}
		time.Sleep(time.Millisecond)
	}
}

var specsVersion = specs.Versioned{SchemaVersion: 2}

// descOf pushes a config.
func descOf(t testing.TB, to registry.Registry, repo string, data []byte) registry.Descriptor {
	t.Helper()
	desc, err := to.PushBlob(context.Background(), repo, digest.FromBytes(data), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	desc.MediaType = ocispec.MediaTypeImageConfig
	return desc
}

func write(t testing.TB, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// blobPath is the file of a blob of the cache, which lies beside the transfers.
func blobPath(t testing.TB, transfers string, d digest.Digest) string {
	t.Helper()
	var found string
	err := filepath.WalkDir(filepath.Dir(transfers), func(path string, _ iofs.DirEntry, err error) error {
		if strings.Contains(path, d.Encoded()) {
			found = path
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("no file of %s: %v", d, err)
	}
	return found
}

// absent is content that the upstream does not have.
func (u *theirs) absent() digest.Digest { return digest.FromString("absent") }
