package gate_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/crypto/bcrypt"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/gate"
	"github.com/berth-registry/berth/auth/htpasswd"
	"github.com/berth-registry/berth/auth/oidc"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
)

const (
	service   = "registry.test"
	alicePass = "alice's: pass\"word" // with what a header must not stumble over
	htPass    = "wonderland-secret"
)

// world is a gate with all that it asks, for real, before a server that says who
// somebody is.
type world struct {
	t       *testing.T
	skew    atomic.Int64 // of the clock, nanoseconds
	meta    storage.Meta
	store   *accounts.Store
	tokens  *tokens.Service
	policy  *auth.Live
	jobs    *platform
	ca      *authority
	gate    *gate.Gate
	server  *httptest.Server
	logs    lockedBuffer
	options gate.Options

	mu     sync.Mutex
	events []audit.Event
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }

func (w *world) pass(d time.Duration) { w.skew.Add(int64(d)) }

// newWorld makes a world; change may alter the gate's options.
func newWorld(t *testing.T, change func(*world, *gate.Options)) *world {
	t.Helper()
	w := &world{t: t, jobs: newPlatform(t), ca: newAuthority(t)}
	meta, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"))
	ok(t, err)
	t.Cleanup(func() { ok(t, meta.Close()) })
	w.meta = meta
	log := slog.New(slog.NewJSONHandler(&w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.store, err = accounts.New(t.Context(), meta, accounts.Options{Now: w.now, Log: log, Cost: bcrypt.MinCost})
	ok(t, err)
	ok(t, w.store.Create(t.Context(), accounts.Account{Name: "alice", Groups: []string{"devs"}}, alicePass))
	ok(t, w.store.Create(t.Context(), accounts.Account{Name: "robot", Robot: true}, ""))
	w.tokens, err = tokens.New(t.Context(), meta, tokens.Options{Service: service, Now: w.now, Log: log})
	ok(t, err)
	w.policy = auth.NewLive(policy(t))
	jobs, err := oidc.NewWorkload([]oidc.WorkloadOptions{{
		Name: "ci", Issuer: w.jobs.server.URL, Audience: service, Claims: map[string]string{"repository": "acme/*"},
		Account: "ci/{repository}", Groups: []string{"jobs"}, Log: log,
	}})
	ok(t, err)
	byName, err := gate.CertificateMapper("cn", "ou")
	ok(t, err)
	w.options = gate.Options{
		Sources: []auth.Source{w.htpasswd(log), w.store}, Keys: w.store, Tokens: w.tokens, Workload: jobs,
		Certificate: byName, Authority: w.policy, Service: service, Now: w.now, Log: log,
		Audit: audit.Func(func(_ context.Context, e audit.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		}),
	}
	if change != nil {
		change(w, &w.options)
	}
	w.gate = gate.New(w.options)
	mux := http.NewServeMux()
	mux.Handle("/token", w.gate.TokenHandler())
	mux.Handle("/api/", w.gate.Identify(http.HandlerFunc(w.tell)))
	mux.Handle("/", w.gate.Handler(http.HandlerFunc(w.tell)))
	w.serve(mux)
	return w
}

func (w *world) serve(h http.Handler) {
	w.server = httptest.NewUnstartedServer(h)
	w.server.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: w.ca.pool(), MinVersion: tls.VersionTLS12}
	w.server.StartTLS()
	w.t.Cleanup(w.server.Close)
}

func (w *world) htpasswd(log *slog.Logger) auth.Source {
	hash, err := bcrypt.GenerateFromPassword([]byte(htPass), bcrypt.MinCost)
	ok(w.t, err)
	path := filepath.Join(w.t.TempDir(), "htpasswd")
	ok(w.t, os.WriteFile(path, append([]byte("hatter:"), append(hash, '\n')...), 0o600))
	ctx, stop := context.WithCancel(context.Background())
	f, err := htpasswd.Open(ctx, path, htpasswd.Options{Log: log})
	ok(w.t, err)
	w.t.Cleanup(func() { stop(); f.Wait() })
	return f
}

func policy(t *testing.T) *auth.Policy {
	t.Helper()
	p, err := auth.NewPolicy([]auth.Rule{
		{Who: []string{"everyone"}, Repos: []string{"public/**"}, May: auth.Pull},
		{Who: []string{"group:devs"}, Repos: []string{"team/**"}, May: auth.Pull | auth.Push},
		{Who: []string{"hatter"}, Repos: []string{"tea"}, May: auth.Push},
		{Who: []string{"robot"}, Repos: []string{"team/**"}, May: auth.Pull | auth.Push | auth.Delete},
		{Who: []string{"group:jobs"}, Repos: []string{"ci/**"}, May: auth.Push},
		{Who: []string{"root"}, Repos: []string{"**"}, May: auth.Pull | auth.Push | auth.Delete | auth.Admin},
	})
	ok(t, err)
	return p
}

// told is what the server says of its caller.
type told struct {
	Account, Source, Key, Client, Request string
	Groups                                []string
	Grants                                []auth.Grant
	Scoped                                bool
	Challenge, Lacking                    string
}

func (w *world) tell(rw http.ResponseWriter, r *http.Request) {
	s, a := auth.FromContext(r.Context()), audit.FromContext(r.Context())
	if s == nil || a == nil || s.Identity == nil || s.Identity.Account != a.Account || s.Identity.Source != a.Source || s.Identity.Key != a.Key {
		w.t.Errorf("session %+v, actor %+v: want both, of the same account", s, a)
		return
	}
	id := s.Identity
	out := told{
		Account: id.Account, Source: id.Source, Key: id.Key, Groups: id.Groups, Grants: id.Grants, Scoped: id.Scoped,
		Client: a.Client, Request: a.Request,
	}
	if s.Challenge != nil {
		out.Challenge, out.Lacking = s.Challenge("repository:x:pull", false), s.Challenge("repository:x:pull", true)
	}
	_ = json.NewEncoder(rw).Encode(out)
}

// reply is an answer, read.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) told(t *testing.T) (who told) {
	t.Helper()
	if r.status != http.StatusOK {
		t.Fatalf("status %d, body %s: want 200", r.status, r.body)
	}
	ok(t, json.Unmarshal(r.body, &who))
	return who
}

func (r reply) field(t *testing.T, name string) string {
	t.Helper()
	var all map[string]any
	if err := json.Unmarshal(r.body, &all); err != nil {
		t.Fatalf("status %d: body %q: %v", r.status, r.body, err)
	}
	s, _ := all[name].(string)
	return s
}

func (w *world) do(req *http.Request) reply {
	w.t.Helper()
	return w.doWith(w.server.Client(), req)
}

func (w *world) doWith(c *http.Client, req *http.Request) reply {
	w.t.Helper()
	resp, err := c.Do(req)
	ok(w.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ok(w.t, err)
	return reply{resp.StatusCode, resp.Header, body}
}

// clientAt returns a client at an address of this host.
func (w *world) clientAt(addr string) *http.Client {
	transport := w.server.Client().Transport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}).DialContext
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (w *world) request(method, path string, body io.Reader) *http.Request {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.server.URL+path, body)
	ok(w.t, err)
	return req
}

func (w *world) get(path, authorization string) reply {
	w.t.Helper()
	req := w.request(http.MethodGet, path, nil)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	return w.do(req)
}

func (w *world) post(form url.Values) reply {
	w.t.Helper()
	req := w.request(http.MethodPost, "/token", strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return w.do(req)
}

// token gets a registry token.
func (w *world) token(authorization string, scopes ...string) string {
	w.t.Helper()
	q := url.Values{"service": {service}, "scope": scopes}
	r := w.get("/token?"+q.Encode(), authorization)
	if r.status != http.StatusOK {
		w.t.Fatalf("token: status %d, body %s", r.status, r.body)
	}
	return r.field(w.t, "token")
}

func (w *world) key(k accounts.NewKey) (id, secret string) {
	w.t.Helper()
	key, text, err := w.store.CreateKey(w.t.Context(), k)
	ok(w.t, err)
	return key.ID, text
}

// recorded returns the events so far, and forgets them.
func (w *world) recorded() []audit.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.events
	w.events = nil
	return events
}

func basic(account, password string) string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(account, password)
	return r.Header.Get("Authorization")
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// platform runs jobs, and signs ID tokens for them.
type platform struct {
	server *httptest.Server
	key    *ecdsa.PrivateKey
	down   atomic.Bool
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	p := &platform{key: key}
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case p.down.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]any{
				"issuer": p.server.URL, "jwks_uri": p.server.URL + "/keys", "authorization_endpoint": p.server.URL + "/auth",
				"token_endpoint": p.server.URL + "/token", "id_token_signing_alg_values_supported": []string{"ES256"},
			})
		case r.URL.Path == "/keys":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(p.server.Close)
	return p
}

// idToken returns the ID token of a job of a repository.
func (p *platform) idToken(t *testing.T, repository string, expires time.Time) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: "1"}}, nil)
	ok(t, err)
	text, err := jwt.Signed(signer).Claims(map[string]any{
		"iss": p.server.URL, "aud": service, "sub": "repo:" + repository, "repository": repository,
		"iat": time.Now().Add(-time.Minute).Unix(), "exp": expires.Unix(),
	}).Serialize()
	ok(t, err)
	return text
}

// authority signs client certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ok(t, err)
	cert, err := x509.ParseCertificate(der)
	ok(t, err)
	return &authority{cert, key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// client returns a client with a certificate of a name.
func (a *authority) client(t *testing.T, w *world, name pkix.Name) *http.Client {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: name, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	ok(t, err)
	transport := w.server.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
