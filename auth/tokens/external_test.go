package tokens_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/tokens"
)

const issuer = "https://auth.example.com"

func newSerial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// signerKey is a key of a token server.
type signerKey struct {
	private crypto.Signer
	kid     string
	alg     jose.SignatureAlgorithm
}

func (k signerKey) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.private.Public(), KeyID: k.kid}
}

// sign makes a token as a token server does.
func (k signerKey) sign(t testing.TB, claims object) string {
	t.Helper()
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: k.alg, Key: jose.JSONWebKey{Key: k.private, KeyID: k.kid}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func ecKey(t testing.TB, kid string) signerKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signerKey{private, kid, jose.ES256}
}

func rsaKey(t testing.TB, kid string, bits int) signerKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return signerKey{private, kid, jose.RS256}
}

func setOf(t testing.TB, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newExternal returns a verifier with a key set in a file.
func newExternal(t testing.TB, c *clock, keys ...jose.JSONWebKey) *tokens.External {
	t.Helper()
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, setOf(t, keys...), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := tokens.NewExternal(options(file, c))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func options(jwks string, c *clock) tokens.ExternalOptions {
	return tokens.ExternalOptions{Realm: issuer + "/token", Service: service, Issuer: issuer, JWKS: jwks, Now: c.Now}
}

// foreign returns claims of the token server that are valid at a time.
func foreign(now time.Time) object { return with(good(now), object{"iss": issuer}) }

// TestExternalAlgorithms accepts tokens of every kind of key, each by its own
// algorithms only.
func TestExternalAlgorithms(t *testing.T) {
	c := newClock()
	p256, r := ecKey(t, "p256"), rsaKey(t, "rsa", 2048)
	p384k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521k, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edk, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, p521, ed := signerKey{p384k, "p384", jose.ES384}, signerKey{p521k, "p521", jose.ES512}, signerKey{edk, "ed", jose.EdDSA}
	ps := r.public()
	ps.KeyID, ps.Algorithm = "rsa-ps256-only", "PS256"
	enc := p256.public()
	enc.KeyID, enc.Use = "for encryption", "enc"
	weak := rsaKey(t, "weak", 1024)
	e := newExternal(t, c, p256.public(), p384.public(), p521.public(), ed.public(), r.public(), ps, enc, weak.public())

	for _, k := range []signerKey{p256, p384, p521, ed} {
		for _, kid := range []string{k.kid, ""} {
			id, until, err := e.Verify(t.Context(), signerKey{k.private, kid, k.alg}.sign(t, foreign(c.Now())))
			want := &auth.Identity{
				Account: "alice", Source: "external", Scoped: true, Final: true,
				Grants: []auth.Grant{{Repos: "a", Actions: auth.Pull}},
			}
			if err != nil || !reflect.DeepEqual(id, want) {
				t.Errorf("%s, kid %q: %+v, %v", k.alg, kid, id, err)
			}
			if until.Before(c.Now().Add(5*time.Minute)) || until.After(c.Now().Add(6*time.Minute)) {
				t.Errorf("%s: until %v", k.alg, until)
			}
		}
	}
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512} {
		if _, _, err := e.Verify(t.Context(), signerKey{r.private, "rsa", alg}.sign(t, foreign(c.Now()))); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		_, _, err := e.Verify(t.Context(), signerKey{r.private, "rsa-ps256-only", alg}.sign(t, foreign(c.Now())))
		if ok := err == nil; ok != (alg == jose.PS256) {
			t.Errorf("%s with a key for PS256: %v", alg, err)
		}
	}
	for name, k := range map[string]signerKey{
		"key for encryption": {p256.private, "for encryption", jose.ES256},
		"weak key":           weak,
		"kid of another key": {p256.private, "p384", jose.ES256},
		"kid of RSA":         {p256.private, "rsa", jose.ES256},
		"kid of nobody":      {p256.private, "nobody", jose.ES256},
		"kid in case":        {p256.private, "P256", jose.ES256},
		"key of mine":        ecKey(t, "p256"),
		"mine, no kid":       ecKey(t, ""),
	} {
		raw := k.sign(t, foreign(c.Now()))
		id, _, err := e.Verify(t.Context(), raw)
		refused(t, name, raw, id, err, tokens.ErrInvalid)
	}
}

// TestExternalForged has the public keys of the set be no shared secrets, and what
// a token's header says of keys not count.
func TestExternalForged(t *testing.T) {
	c := newClock()
	k, r := ecKey(t, "k"), rsaKey(t, "rsa", 2048)
	e := newExternal(t, c, k.public(), r.public())
	mine := ecKey(t, "k")
	myJWK, err := json.Marshal(mine.public())
	if err != nil {
		t.Fatal(err)
	}
	header := object{"alg": "ES256", "kid": "k", "typ": "JWT"}
	forged := map[string]string{}
	for _, key := range []signerKey{k, r} {
		der, err := x509.MarshalPKIXPublicKey(key.private.Public())
		if err != nil {
			t.Fatal(err)
		}
		jwk, err := json.Marshal(key.public())
		if err != nil {
			t.Fatal(err)
		}
		for name, secret := range map[string][]byte{
			"DER": der, "PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "JWK": jwk,
			"JWKS": setOf(t, k.public(), r.public()), "empty": nil,
		} {
			for _, alg := range []string{"HS256", "HS384", "HS512", "ES256", "RS256"} {
				forged[alg+" by "+key.kid+" as "+name] = hs256(secret, with(header, object{"alg": alg, "kid": key.kid}), foreign(c.Now()))
			}
		}
	}
	for _, alg := range []any{"none", "None", "NONE", "", nil} {
		forged["unsigned"+b64(object{"alg": alg})] = b64(with(header, object{"alg": alg})) + "." + b64(foreign(c.Now())) + "."
	}
	private := mine.private.(*ecdsa.PrivateKey)
	for name, more := range map[string]object{
		"jwk": {"jwk": json.RawMessage(myJWK)}, "jwk, no kid": {"jwk": json.RawMessage(myJWK), "kid": nil},
		"jku": {"jku": "http://127.0.0.1:1/"}, "x5c": {"x5c": []string{selfSigned(t, private)}},
		"x5c, no kid": {"x5c": []string{selfSigned(t, private)}, "kid": nil}, "x5u": {"x5u": "http://127.0.0.1:1/"},
	} {
		forged["header "+name] = forge(t, private, with(header, more), foreign(c.Now()))
	}
	good := k.sign(t, foreign(c.Now()))
	forged["huge"] = good + strings.Repeat("A", 64<<20)
	p := strings.Split(good, ".")
	forged["two signatures"] = `{"payload":"` + p[1] + `","signatures":[{"protected":"` + p[0] + `","signature":"` + p[2] + `"},{"protected":"` + p[0] + `","signature":"` + p[2] + `"}]}`
	for name, raw := range forged {
		id, _, err := e.Verify(t.Context(), raw)
		refused(t, name, raw, id, err, tokens.ErrInvalid)
	}
	// A genuine token may carry such headers too: they change nothing.
	raw := forge(t, k.private.(*ecdsa.PrivateKey), with(header, object{"jwk": json.RawMessage(myJWK)}), foreign(c.Now()))
	if _, _, err := e.Verify(t.Context(), raw); err != nil {
		t.Errorf("signed by the server, with a jwk: %v", err)
	}
}

func TestExternalClaims(t *testing.T) {
	c := newClock()
	k := ecKey(t, "k")
	e := newExternal(t, c, k.public())
	now := c.Now()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for name, tt := range map[string]struct {
		claims object
		want   error
	}{
		"good":                {nil, nil},
		"list of audience":    {object{"aud": []string{"x", service}}, nil},
		"fractions":           {object{"exp": float64(at(time.Minute)) + 0.5}, nil},
		"no iat, nbf, access": {object{"iat": nil, "nbf": nil, "access": nil}, nil},
		"just expired":        {object{"exp": at(-25 * time.Second)}, nil},
		"clock ahead":         {object{"nbf": at(25 * time.Second), "iat": at(25 * time.Second)}, nil},
		"expired":             {object{"exp": at(-31 * time.Second)}, tokens.ErrExpired},
		"no exp":              {object{"exp": nil}, tokens.ErrInvalid},
		"nbf in the future":   {object{"nbf": at(32 * time.Second)}, tokens.ErrInvalid},
		"iat in the future":   {object{"iat": at(32 * time.Second)}, tokens.ErrInvalid},
		"nbf beyond time":     {object{"nbf": 9.3e18}, tokens.ErrInvalid},
		"other audience":      {object{"aud": []string{"other"}}, tokens.ErrInvalid},
		"audience as number":  {object{"aud": 1}, tokens.ErrInvalid},
		"no audience":         {object{"aud": nil}, tokens.ErrInvalid},
		"other issuer":        {object{"iss": issuer + "/"}, tokens.ErrInvalid},
		"no issuer":           {object{"iss": nil}, tokens.ErrInvalid},
		"hostile subject":     {object{"sub": "alice\nadmin"}, tokens.ErrInvalid},
		"long subject":        {object{"sub": strings.Repeat("a", 256)}, tokens.ErrInvalid},
	} {
		if _, _, err := e.Verify(t.Context(), k.sign(t, with(foreign(now), tt.claims))); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}

	entries := []object{{"type": "repository", "class": "image", "name": "b", "actions": []string{"*"}}, {"type": "registry", "name": "catalog", "actions": []string{"*"}}}
	for _, name := range hostile() {
		entries = append(entries, object{"type": "repository", "name": name, "actions": []string{"*"}})
	}
	id, _, err := e.Verify(t.Context(), k.sign(t, with(foreign(now), object{"sub": nil, "access": entries})))
	if err != nil {
		t.Fatal(err)
	}
	want := []auth.Grant{{Repos: "b", Actions: auth.Pull | auth.Push | auth.Delete | auth.Admin}, {Actions: auth.Pull}}
	if id.Account != "token" || !reflect.DeepEqual(id.Grants, want) {
		t.Errorf("got %+v", id)
	}
	if auth.Covers(id.Grants, "", auth.Pull) || auth.Covers(id.Grants, "", auth.Admin) || auth.Covers(id.Grants, "c", auth.Pull) {
		t.Error("the list of repositories is taken for the registry as a whole")
	}
}

func TestExternalOptions(t *testing.T) {
	c, dir := newClock(), t.TempDir()
	k := ecKey(t, "k")
	write := func(name string, b []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ok := write("ok", setOf(t, k.public()))
	for name, change := range map[string]func(*tokens.ExternalOptions){
		"no service":     func(o *tokens.ExternalOptions) { o.Service = "" },
		"no issuer":      func(o *tokens.ExternalOptions) { o.Issuer = "" },
		"no key set":     func(o *tokens.ExternalOptions) { o.JWKS = "" },
		"realm":          func(o *tokens.ExternalOptions) { o.Realm = "auth.example.com" },
		"missing file":   func(o *tokens.ExternalOptions) { o.JWKS = filepath.Join(dir, "none") },
		"plain HTTP":     func(o *tokens.ExternalOptions) { o.JWKS = "http://auth.example.com/jwks" },
		"looks like own": func(o *tokens.ExternalOptions) { o.JWKS = "http://localhost.example.com/jwks" },
		"missing CA":     func(o *tokens.ExternalOptions) { o.JWKS, o.CA = "https://a/jwks", filepath.Join(dir, "none") },
		"CA of nothing":  func(o *tokens.ExternalOptions) { o.JWKS, o.CA = "https://a/jwks", ok },
		"empty":          func(o *tokens.ExternalOptions) { o.JWKS = write("empty", nil) },
		"no keys":        func(o *tokens.ExternalOptions) { o.JWKS = write("nokeys", setOf(t)) },
		"half":           func(o *tokens.ExternalOptions) { o.JWKS = write("half", setOf(t, k.public())[:60]) },
		"private key": func(o *tokens.ExternalOptions) {
			o.JWKS = write("private", setOf(t, k.public(), jose.JSONWebKey{Key: k.private, KeyID: "p"}))
		},
		"shared secret": func(o *tokens.ExternalOptions) {
			o.JWKS = write("secret", setOf(t, k.public(), jose.JSONWebKey{Key: []byte("secret-secret-secret"), KeyID: "s"}))
		},
		"only unknown keys": func(o *tokens.ExternalOptions) {
			o.JWKS = write("unknown", []byte(`{"keys":[{"kty":"XYZ","kid":"a"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},null,1]}`))
		},
		"too many keys": func(o *tokens.ExternalOptions) {
			o.JWKS = write("many", []byte(`{"keys":[`+strings.Repeat("1,", 100)+`1]}`))
		},
		"too large": func(o *tokens.ExternalOptions) {
			o.JWKS = write("large", append(setOf(t, k.public()), bytes.Repeat([]byte(" "), 2<<20)...))
		},
	} {
		o := options(ok, c)
		change(&o)
		e, err := tokens.NewExternal(o)
		if err == nil || e != nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "secret-secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Keys that are not understood do not hinder those that are.
	mixed := write("mixed", []byte(`{"keys":[{"kty":"XYZ","kid":"a"},`+string(setOf(t, k.public()))[len(`{"keys":[`):]))
	e, err := tokens.NewExternal(options(mixed, c))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Verify(t.Context(), k.sign(t, foreign(c.Now()))); err != nil {
		t.Error(err)
	}
	if e.Realm() != issuer+"/token" || e.Service() != service {
		t.Errorf("realm %q, service %q", e.Realm(), e.Service())
	}
}

// lines collects a log and tells of each line.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	select {
	case l.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newLines() (*lines, *slog.Logger) {
	l := &lines{more: make(chan struct{}, 1)}
	return l, slog.New(slog.NewTextHandler(l, nil))
}

// run runs f until the test ends or the function returned is called.
func run(t testing.TB, f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// TestExternalFile replaces the key set in a file: by half of one, which leaves the
// last good one in force, and by another.
func TestExternalFile(t *testing.T) {
	c, file := newClock(), filepath.Join(t.TempDir(), "jwks.json")
	older, newer := ecKey(t, "older"), ecKey(t, "newer")
	write := func(b []byte) {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(setOf(t, older.public()))
	o := options(file, c)
	log, logger := newLines()
	o.Log = logger
	e, err := tokens.NewExternal(o)
	if err != nil {
		t.Fatal(err)
	}
	write(setOf(t, newer.public())[:50])
	run(t, e.Run) // sees what has changed since
	await(t, log.more)
	if _, _, err := e.Verify(t.Context(), older.sign(t, foreign(c.Now()))); err != nil {
		t.Errorf("half a key set: %v", err)
	}
	if !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("the log has %q", log)
	}
	write(setOf(t, newer.public()))
	eventually(t, "the new key set", func() bool {
		_, _, err := e.Verify(t.Context(), newer.sign(t, foreign(c.Now())))
		return err == nil
	})
	raw := older.sign(t, foreign(c.Now()))
	id, _, err := e.Verify(t.Context(), raw)
	refused(t, "a key that was removed", raw, id, err, tokens.ErrInvalid)
}

func await(t testing.TB, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing happens")
	}
}

// eventually looks until it is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not in time", what)
		}
	}
}

// setServer serves a key set over TLS and counts who asks.
type setServer struct {
	*httptest.Server
	ca   string // file
	set  atomic.Pointer[[]byte]
	hits atomic.Int64
	wait chan struct{} // if not nil, answers wait for it
}

func newSetServer(t testing.TB, keys ...jose.JSONWebKey) *setServer {
	s := &setServer{ca: filepath.Join(t.TempDir(), "ca.pem")}
	s.put(setOf(t, keys...))
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.hits.Add(1)
		if s.wait != nil {
			select {
			case <-s.wait:
			case <-r.Context().Done():
				return
			}
		}
		b := *s.set.Load()
		if b == nil {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(b)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	if err := os.WriteFile(s.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *setServer) put(b []byte) { s.set.Store(&b) }

func (s *setServer) external(t testing.TB, c *clock) *tokens.External {
	t.Helper()
	o := options(s.URL+"/jwks", c)
	o.CA = s.ca
	e, err := tokens.NewExternal(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestExternalURL fetches the key set when a token first comes, and again when one
// names a key that is not in it, but not for each such token.
func TestExternalURL(t *testing.T) {
	c := newClock()
	older, newer := ecKey(t, "older"), ecKey(t, "newer")
	server := newSetServer(t, older.public())
	e := server.external(t, c)
	verify := func(k signerKey) error {
		_, _, err := e.Verify(t.Context(), k.sign(t, foreign(c.Now())))
		return err
	}
	if err := verify(older); err != nil {
		t.Fatal(err)
	}
	server.put(setOf(t, older.public(), newer.public()))
	for range 50 {
		if err := verify(newer); !errors.Is(err, tokens.ErrInvalid) {
			t.Fatalf("a key that nobody has listed yet: %v", err)
		}
	}
	if n := server.hits.Load(); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
	c.add(31 * time.Second)
	if err := verify(newer); err != nil {
		t.Error(err)
	}
	if n := server.hits.Load(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
	for _, bad := range [][]byte{nil, []byte("{"), []byte(`{"keys":[]}`), bytes.Repeat([]byte(" "), 2<<20)} {
		server.put(bad)
		c.add(31 * time.Second)
		if err := verify(ecKey(t, "unknown")); !errors.Is(err, tokens.ErrInvalid) {
			t.Error(err)
		}
		if err := verify(newer); err != nil {
			t.Errorf("after a bad key set: %v", err)
		}
	}
	if n := server.hits.Load(); n != 6 {
		t.Errorf("%d fetches, want 6", n)
	}
}

// TestExternalSlow has requests give up on a server that does not answer, and share
// one fetch of it.
func TestExternalSlow(t *testing.T) {
	c := newClock()
	k := ecKey(t, "k")
	server := newSetServer(t, k.public())
	server.wait = make(chan struct{})
	e := server.external(t, c)
	raw := k.sign(t, foreign(c.Now()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	id, _, err := e.Verify(ctx, raw)
	if id != nil || err == nil || errors.Is(err, tokens.ErrInvalid) {
		t.Errorf("no key set yet: %v, %v", id, err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, _, err := e.Verify(t.Context(), raw); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "a fetch", func() bool { return server.hits.Load() > 0 })
	close(server.wait)
	wg.Wait()
	if n := server.hits.Load(); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
}

// TestExternalRun fetches the key set before any token comes.
func TestExternalRun(t *testing.T) {
	c := newClock()
	k := ecKey(t, "k")
	server := newSetServer(t, k.public())
	e := server.external(t, c)
	run(t, e.Run)
	eventually(t, "a fetch", func() bool {
		_, _, err := e.Verify(t.Context(), k.sign(t, foreign(c.Now())))
		return err == nil
	})
	if n := server.hits.Load(); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
}

// TestExternalUntrusted takes no keys from a server that the CA does not vouch for,
// nor over plain HTTP to another host by a redirect.
func TestExternalUntrusted(t *testing.T) {
	c := newClock()
	k := ecKey(t, "k")
	server := newSetServer(t, k.public())
	o := options(server.URL+"/jwks", c)
	e, err := tokens.NewExternal(o)
	if err != nil {
		t.Fatal(err)
	}
	raw := k.sign(t, foreign(c.Now()))
	if id, _, err := e.Verify(t.Context(), raw); err == nil || id != nil {
		t.Error("keys are taken from anybody")
	}
	var asked atomic.Bool
	redirect := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(true)
		http.Redirect(w, r, "http://keys.example.com/jwks", http.StatusFound)
	}))
	t.Cleanup(redirect.Close)
	log, logger := newLines()
	o = options(redirect.URL, c)
	o.Log = logger
	if e, err = tokens.NewExternal(o); err != nil {
		t.Fatal(err)
	}
	if id, _, err := e.Verify(t.Context(), raw); err == nil || id != nil {
		t.Error("keys are taken from a redirect")
	}
	if !asked.Load() || !strings.Contains(log.String(), "must come by https") {
		t.Errorf("the log has %q", log)
	}
}
