package upstream_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/remote"
	"github.com/berth-registry/berth/registry/upstream"
	"github.com/berth-registry/berth/storage/mem"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// clock is a clock that a test moves.
type clock struct{ skew atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.skew.Load())) }

func (c *clock) pass(d time.Duration) { c.skew.Add(int64(d)) }

// front is a handler that stands before another and may answer in its place. It
// keeps what was asked.
type front struct {
	t    *testing.T
	next http.Handler

	mu     sync.Mutex
	answer func(http.ResponseWriter, *http.Request) bool // whether it did
	seen   []*http.Request
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.seen = append(f.seen, r)
	answer := f.answer
	f.mu.Unlock()
	if answer == nil || !answer(w, r) {
		f.next.ServeHTTP(w, r)
	}
}

// answers has f answer in place of what it stands before; nil: no more.
func (f *front) answers(answer func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// asked returns what was asked since it was called last.
func (f *front) asked() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.seen = nil }()
	return f.seen
}

// always answers every request alike.
func always(status int, header map[string]string, body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return true
	}
}

// local is a registry in memory.
func local(t *testing.T) *registry.Local {
	t.Helper()
	meta := mem.NewMeta()
	l, err := registry.NewLocal(t.Context(), mem.NewBlobs(), meta, registry.Options{})
	ok(t, err)
	t.Cleanup(func() {
		l.Close()
		ok(t, meta.Close())
	})
	return l
}

// image pushes a manifest without layers, but for its config, and returns both
// digests.
func image(t *testing.T, r registry.Registry, repo, tag string) (manifest, config digest.Digest) {
	t.Helper()
	data := []byte(`{"of":"` + repo + `"}`)
	desc, err := r.PushBlob(t.Context(), repo, digest.FromBytes(data), bytes.NewReader(data))
	ok(t, err)
	m := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + string(desc.Digest) + `","size":` + itoa(desc.Size) + `},"layers":[]}`)
	pushed, err := r.PushManifest(t.Context(), repo, registry.ManifestPush{
		Data: m, Digest: digest.FromBytes(m), MediaType: "application/vnd.oci.image.manifest.v1+json", Tags: []string{tag},
	})
	ok(t, err)
	return pushed.Descriptor.Digest, desc.Digest
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// world is a registry behind a front, with an image library/app:v1.
type world struct {
	*front

	url              string
	manifest, config digest.Digest
	local            *registry.Local
}

func newWorld(t *testing.T) *world {
	t.Helper()
	l := local(t)
	w := &world{front: &front{t: t, next: registry.NewServer(l, registry.ServerOptions{})}, local: l}
	w.manifest, w.config = image(t, l, "library/app", "v1")
	server := httptest.NewServer(w.front)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

// secure serves a handler with TLS by a certificate of ca for hosts.
func secure(t *testing.T, ca *berthtest.CA, h http.Handler, hosts ...string) *httptest.Server {
	t.Helper()
	cert, key := ca.Server(hosts...)
	pair, err := tls.LoadX509KeyPair(cert, key)
	ok(t, err)
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// dial returns the client of an upstream.
func dial(t *testing.T, o upstream.Options) *upstream.Upstream {
	t.Helper()
	if o.Name == "" {
		o.Name = "hub"
	}
	u, err := upstream.New(o)
	ok(t, err)
	t.Cleanup(u.Close)
	return u
}

var v1 = registry.Reference{Tag: "v1"}

// stat asks for library/app:v1.
func stat(t *testing.T, u *upstream.Upstream) error {
	t.Helper()
	return statOf(t.Context(), u.Client(), "library/app")
}

func statOf(ctx context.Context, c *remote.Client, repo string) error {
	_, err := c.StatManifest(ctx, repo, v1)
	return err
}

// fetch reads a blob to its end.
func fetch(t *testing.T, u *upstream.Upstream, repo string, d digest.Digest) ([]byte, error) {
	t.Helper()
	r, _, err := u.Client().Blob(t.Context(), repo, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// unavailable is the *Unavailable that err must be.
func unavailable(t *testing.T, err error) *upstream.Unavailable {
	t.Helper()
	e, is := errors.AsType[*upstream.Unavailable](err)
	if !is || !upstream.IsUnavailable(err) {
		t.Fatalf("got error %v, want *Unavailable", err)
	}
	return e
}

// fails checks that err is an *Unavailable.
func fails(t *testing.T, err error) { _ = unavailable(t, err) }

func paths(all []*http.Request) []string {
	out := []string{}
	for _, r := range all {
		out = append(out, r.Method+" "+r.URL.Path)
	}
	return out
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestMain(m *testing.M) { berthtest.Main(m) }
