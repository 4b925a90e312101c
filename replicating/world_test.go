package replicating_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/gate"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/upstream"
	"github.com/berth-registry/berth/replicating"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

const password = "correct horse battery staple"

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// clock is a clock that stands still unless it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// site is a registry at a URL, and what it replicates.
type site struct {
	*registry.Local
	t     *testing.T
	meta  storage.Meta
	repl  *replicating.Replicator
	url   string
	clock *clock // nil for the real one

	mu       sync.Mutex
	fault    func(w http.ResponseWriter, r *http.Request) bool // answers instead of the registry
	requests []string                                          // METHOD PATH
	log      bytes.Buffer
	targets  map[string]*upstream.Upstream
}

// newSite makes a registry that demands tokens if secured.
func newSite(t *testing.T, meta storage.Meta, now func() time.Time, secured bool) *site {
	t.Helper()
	return newReplica(t, mem.NewBlobs(), meta, now, secured)
}

func newReplica(t *testing.T, blobs storage.Blobs, meta storage.Meta, now func() time.Time, secured bool) *site {
	t.Helper()
	s := &site{t: t, meta: meta, targets: map[string]*upstream.Upstream{}}
	s.repl = replicating.New(replicating.Options{
		Target: s.target, Unavailable: s.unavailable, Meta: meta, Now: now, Log: slog.New(slog.NewTextHandler(s, nil)),
		Mirrored: func(repo string) (string, bool) { return "hub", strings.HasPrefix(repo, "hub/") },
	}, nil)
	l, err := registry.NewLocal(t.Context(), blobs, meta, registry.Options{Journal: s.repl.Journal(nil)})
	ok(t, err)
	s.Local = l
	s.repl.SetSource(l)
	t.Cleanup(l.Close)
	handler := http.Handler(registry.NewServer(l, registry.ServerOptions{}))
	if secured {
		handler = guarded(t, meta, l)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, handler) }))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// guarded serves a registry to an account that signs in by the token flow.
func guarded(t *testing.T, meta storage.Meta, l *registry.Local) http.Handler {
	t.Helper()
	store, err := accounts.New(t.Context(), meta, accounts.Options{Cost: bcrypt.MinCost})
	ok(t, err)
	ok(t, store.Create(t.Context(), accounts.Account{Name: "copier"}, password))
	signer, err := tokens.New(t.Context(), meta, tokens.Options{Service: "test"})
	ok(t, err)
	policy, err := auth.NewPolicy([]auth.Rule{
		{Who: []string{"user:copier"}, Repos: []string{"backup/**", "fixed/**", "hub/**", "other/**", "own/**", "team/**", "x/**"}, May: auth.Pull | auth.Push | auth.Delete},
		{Who: []string{"user:copier"}, Repos: []string{"**"}, May: auth.Pull},
	})
	ok(t, err)
	g := gate.New(gate.Options{Sources: []auth.Source{store}, Keys: store, Tokens: signer, Authority: policy, Service: "test"})
	mux := http.NewServeMux()
	mux.Handle("/token", g.TokenHandler())
	mux.Handle("/", g.Handler(registry.NewServer(auth.Restrict(l, policy, nil), registry.ServerOptions{})))
	return mux
}

func (s *site) serve(w http.ResponseWriter, r *http.Request, h http.Handler) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	fault := s.fault
	s.mu.Unlock()
	if fault == nil || !fault(w, r) {
		h.ServeHTTP(w, r)
	}
}

// fails has requests answered by fault, if it says so; nil ends that.
func (s *site) fails(fault func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// asked returns the requests that came, and forgets them. Only those of a method, if
// it is not empty.
func (s *site) asked(method string) (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if strings.HasPrefix(r, method) {
			list = append(list, r)
		}
	}
	s.requests = nil
	return list
}

// Write implements io.Writer, for the log.
func (s *site) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func (s *site) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func (s *site) target(name string) registry.Registry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.targets[name]; u != nil {
		return u.Client()
	}
	return nil
}

func (s *site) unavailable(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.targets[name]; u != nil {
		return u.Unavailable()
	}
	return nil
}

// to makes a rule that replicates to another site.
func (s *site) to(spec replicating.Spec, url string, now func() time.Time) replicating.Rule {
	s.t.Helper()
	u, err := upstream.New(upstream.Options{
		Name: spec.Name, URL: url, Username: "copier", Password: password, Now: now, Retries: -1,
	})
	ok(s.t, err)
	s.mu.Lock()
	s.targets[spec.Name] = u
	s.mu.Unlock()
	spec.URL = url
	if spec.Repos == nil {
		spec.Repos = []string{"**"}
	}
	rule, err := replicating.NewRule(spec)
	ok(s.t, err)
	return rule
}

// run runs the replication until stop is called, or the test ends.
func (s *site) run() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.repl.Run(ctx) })
	stop = func() { cancel(); running.Wait() }
	s.t.Cleanup(stop)
	return stop
}

// until waits until the only replication is as is says.
func (s *site) until(what string, is func(replicating.Status) bool) replicating.Status {
	s.t.Helper()
	var last []replicating.Status
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		var err error
		last, err = s.repl.Status(s.t.Context())
		ok(s.t, err)
		if len(last) > 0 && is(last[0]) {
			return last[0]
		}
	}
	s.t.Fatalf("not %s: %+v\n%s", what, last, s.logged())
	return replicating.Status{}
}

// quiet waits until nothing waits. A clock that stands still is moved meanwhile: what
// changed while it was replicated waits a little.
func (s *site) quiet() replicating.Status {
	s.t.Helper()
	looks := 0
	return s.until("quiet", func(st replicating.Status) bool {
		if looks++; s.clock != nil && looks%20 == 0 {
			s.pass(s.clock, time.Second)
		}
		return st.Pending == 0
	})
}

// blob pushes a blob.
func (s *site) blob(repo string, data []byte, mediaType string) registry.Descriptor {
	s.t.Helper()
	d, err := s.PushBlob(s.t.Context(), repo, digest.FromBytes(data), bytes.NewReader(data))
	ok(s.t, err)
	d.MediaType = mediaType
	return d
}

// manifest pushes a manifest.
func (s *site) manifest(repo string, v any, mediaType string, tags ...string) registry.Descriptor {
	s.t.Helper()
	data, err := json.Marshal(v)
	ok(s.t, err)
	p, err := s.PushManifest(s.t.Context(), repo, registry.ManifestPush{
		Data: data, MediaType: mediaType, Digest: digest.FromBytes(data), Tags: tags,
	})
	ok(s.t, err)
	return p.Descriptor
}

// image pushes an image of two layers, one of which all images have.
func (s *site) image(repo, text string, tags ...string) registry.Descriptor {
	s.t.Helper()
	return s.artifact(repo, text, nil, tags...)
}

// artifact is an image that refers to another manifest.
func (s *site) artifact(repo, text string, subject *registry.Descriptor, tags ...string) registry.Descriptor {
	s.t.Helper()
	return s.manifest(repo, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Subject: subject,
		Config: s.blob(repo, fmt.Appendf(nil, `{"name":%q}`, text), ocispec.MediaTypeImageConfig),
		Layers: []registry.Descriptor{
			s.blob(repo, []byte("shared by all"), ocispec.MediaTypeImageLayerGzip),
			s.blob(repo, []byte(strings.Repeat(text, 1000)), ocispec.MediaTypeImageLayerGzip),
		},
	}, ocispec.MediaTypeImageManifest, tags...)
}

func (s *site) index(repo string, children []registry.Descriptor, tags ...string) registry.Descriptor {
	s.t.Helper()
	return s.manifest(repo, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children,
	}, ocispec.MediaTypeImageIndex, tags...)
}

// named is what a tag or digest names; empty for nothing.
func (s *site) named(repo, ref string) digest.Digest {
	s.t.Helper()
	r, err := registry.ParseReference(ref)
	ok(s.t, err)
	d, err := s.StatManifest(s.t.Context(), repo, r)
	if errors.Is(err, registry.ErrManifestUnknown) {
		return ""
	}
	ok(s.t, err)
	return d.Digest
}

// has checks what a tag or digest names.
func (s *site) has(repo, ref string, want digest.Digest) {
	s.t.Helper()
	if got := s.named(repo, ref); got != want {
		s.t.Errorf("%s:%s is %q, want %q", repo, ref, got, want)
	}
}

// whole checks that an image can be pulled.
func (s *site) whole(repo string, d digest.Digest) {
	s.t.Helper()
	data, _, err := s.Manifest(s.t.Context(), repo, registry.Reference{Digest: d})
	ok(s.t, err)
	var m ocispec.Manifest
	ok(s.t, json.Unmarshal(data, &m))
	for _, b := range append(m.Layers, m.Config) {
		r, _, err := s.Blob(s.t.Context(), repo, b.Digest)
		ok(s.t, err)
		all, err := io.ReadAll(r)
		ok(s.t, errors.Join(err, r.Close()))
		if digest.FromBytes(all) != b.Digest {
			s.t.Errorf("blob %s is damaged", b.Digest)
		}
	}
}

// pair is two sites, of which the first replicates to the second by a rule.
func pair(t *testing.T, spec replicating.Spec) (from, to *site, c *clock) {
	t.Helper()
	c = newClock()
	from, to = newSite(t, mem.NewMeta(), c.now, false), newSite(t, mem.NewMeta(), time.Now, true)
	spec.Name, from.clock = "b", c
	from.repl.SetRules([]replicating.Rule{from.to(spec, to.url, c.now)})
	return from, to, c
}

// pass moves the clock and has the replication look at it.
func (s *site) pass(c *clock, d time.Duration) {
	c.advance(d)
	s.repl.Wake()
}

// cutAt breaks a connection off after it has got n bytes of a request's body.
func cutAt(n int64) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut && r.Method != http.MethodPatch && r.Method != http.MethodPost {
			return false
		}
		_, _ = io.CopyN(io.Discard, r.Body, n)
		hangUp(w)
		return true
	}
}

// hangUp closes the connection of a request without an answer.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, is := conn.(*net.TCPConn); is {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// answers gives every request but those for tokens a status.
func answers(status int, header ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			return false
		}
		if len(header) == 2 {
			w.Header().Set(header[0], header[1])
		}
		w.WriteHeader(status)
		return true
	}
}
