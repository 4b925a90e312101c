package tokens_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/tokens"
)

func b64(v any) string {
	b, ok := v.([]byte)
	if !ok {
		b, _ = json.Marshal(v)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// object is a JSON object.
type object = map[string]any

func with(o, more object) object {
	o = maps.Clone(o)
	for k, v := range more {
		if o[k] = v; v == nil {
			delete(o, k)
		}
	}
	return o
}

// forge signs claims with a key under a header of the forger's choice.
func forge(t testing.TB, private *ecdsa.PrivateKey, header, claims object) string {
	t.Helper()
	text := b64(header) + "." + b64(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, private, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func hs256(secret []byte, header, claims object) string {
	text := b64(header) + "." + b64(claims)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return text + "." + b64(mac.Sum(nil))
}

// good returns claims that are valid at a time.
func good(now time.Time) object {
	return object{
		"iss": service, "aud": service, "sub": "alice", "iat": now.Unix(), "nbf": now.Unix(),
		"exp": now.Add(5 * time.Minute).Unix(), "jti": "x",
		"access": []object{{"type": "repository", "name": "a", "actions": []string{"pull"}}},
	}
}

// TestForged has each way to make a token without the key fail, beside the one
// that shows that the forger's tools work.
func TestForged(t *testing.T) {
	c, meta := newClock(), newMem(t)
	s := newService(t, meta, c)
	kid, private := stolen(t, meta)
	header, claims := object{"alg": "ES256", "kid": kid, "typ": "JWT"}, good(c.Now())
	if id, _, err := s.Verify(forge(t, private, header, claims)); err != nil || !auth.Covers(id.Grants, "a", auth.Pull) {
		t.Fatalf("with the key itself: %v, %v", id, err)
	}

	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	point, err := private.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := (&jose.JSONWebKey{Key: &private.PublicKey, KeyID: kid}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(s.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	mine, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	myJWK, err := (&jose.JSONWebKey{Key: &mine.PublicKey, KeyID: kid}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	genuine := issue(t, s).Text
	parts := strings.Split(genuine, ".")

	forged := map[string]string{
		"empty": "", "dots": "..", "one part": "a", "two parts": "a.b", "four parts": genuine + ".x",
		"no signature": parts[0] + "." + parts[1] + ".",
		"space":        " " + genuine, "line end within": genuine[:20] + "\n" + genuine[20:], "zero": genuine + "\x00",
		"another header":  b64(with(header, object{"x": 1})) + "." + parts[1] + "." + parts[2],
		"another payload": parts[0] + "." + b64(claims) + "." + parts[2],
		"half signature":  genuine[:len(genuine)-43],
		"key of mine":     forge(t, mine, header, claims),
		"jwk of mine":     forge(t, mine, with(header, object{"jwk": json.RawMessage(myJWK)}), claims),
		"jwk, no kid":     forge(t, mine, with(header, object{"jwk": json.RawMessage(myJWK), "kid": nil}), claims),
		"jku of mine":     forge(t, mine, with(header, object{"jku": "https://evil.example/jwks"}), claims),
		"x5c of mine":     forge(t, mine, with(header, object{"x5c": []string{selfSigned(t, mine)}}), claims),
		"x5u of mine":     forge(t, mine, with(header, object{"x5u": "https://evil.example/cert"}), claims),
		"no kid":          forge(t, private, with(header, object{"kid": nil}), claims),
		"kid as path":     forge(t, mine, with(header, object{"kid": "../../../dev/null"}), claims),
		"kid as number":   forge(t, mine, with(header, object{"kid": 1}), claims),
		"crit":            forge(t, private, with(header, object{"crit": []string{"b64"}, "b64": false}), claims),
		"unknown crit":    forge(t, private, with(header, object{"crit": []string{"x"}, "x": 1}), claims),
		"array payload":   strings.Join([]string{b64(header), b64([]int{1}), parts[2]}, "."),
		"flattened JSON":  `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`,
		"two signatures": `{"payload":"` + parts[1] + `","signatures":[{"protected":"` + parts[0] + `","signature":"` + parts[2] +
			`"},{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"}]}`,
		"long":   forge(t, private, header, with(claims, object{"jti": strings.Repeat("x", 12<<10)})),
		"huge":   parts[0] + "." + strings.Repeat("A", 64<<20) + "." + parts[2],
		"nested": b64([]byte(strings.Repeat("[", 9000))) + "." + parts[1] + "." + parts[2],
	}
	for name, secret := range map[string][]byte{
		"DER": der, "PEM": block, "PEM without its end": []byte(strings.TrimSpace(string(block))), "JWK": jwk, "JWKS": set,
		"point": point, "empty": {}, "kid": []byte(kid),
	} {
		for _, alg := range []string{"HS256", "HS384", "HS512", "ES256"} {
			forged[alg+" with the public key as "+name] = hs256(secret, with(header, object{"alg": alg}), claims)
		}
	}
	for _, alg := range []any{"none", "None", "NONE", "nOnE", "", nil, 1, "es256", "RS256", "ES384", "EdDSA", "ES256K"} {
		h := with(header, object{"alg": alg})
		text := b64(h) + "." + b64(claims) + "."
		forged["unsigned, alg "+b64(h)] = text
		forged["signed, alg "+b64(h)] = forge(t, private, h, claims)
	}
	for name, raw := range forged {
		id, _, err := s.Verify(raw)
		refused(t, name, raw, id, err, tokens.ErrInvalid)
	}
}

// selfSigned returns a certificate of a key as in the header "x5c".
func selfSigned(t testing.TB, private *ecdsa.PrivateKey) string {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: newSerial(t), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// TestTampered changes each character of a token.
func TestTampered(t *testing.T) {
	s := newService(t, newMem(t), newClock())
	raw := issue(t, s).Text
	last := len(raw) - 1 // of its bits some mean nothing
	for i := range last {
		b := []byte(raw)
		if b[i] = 'A'; raw[i] == 'A' {
			b[i] = 'B'
		}
		if id, _, err := s.Verify(string(b)); err == nil || id != nil || !errors.Is(err, tokens.ErrInvalid) {
			t.Fatalf("character %d changed: %v, %v", i, id, err)
		}
	}
}

// TestClaims signs with the registry's own key what the registry would not say.
func TestClaims(t *testing.T) {
	c, meta := newClock(), newMem(t)
	s := newService(t, meta, c)
	kid, private := stolen(t, meta)
	header, now := object{"alg": "ES256", "kid": kid, "typ": "JWT"}, c.Now()
	for name, tt := range map[string]struct {
		claims object
		want   error
	}{
		"as issued":         {nil, nil},
		"list of audience":  {object{"aud": []string{"x", service}}, nil},
		"clock of replica":  {object{"nbf": now.Add(4 * time.Second).Unix(), "iat": now.Add(4 * time.Second).Unix()}, nil},
		"expired":           {object{"exp": now.Add(-time.Second).Unix()}, tokens.ErrExpired},
		"no exp":            {object{"exp": nil}, tokens.ErrInvalid},
		"exp as text":       {object{"exp": "2030"}, tokens.ErrInvalid},
		"exp beyond time":   {object{"exp": 1e300}, tokens.ErrInvalid},
		"valid for a year":  {object{"exp": now.Add(8760 * time.Hour).Unix()}, tokens.ErrInvalid},
		"no iat":            {object{"iat": nil}, tokens.ErrInvalid},
		"nbf in the future": {object{"nbf": now.Add(time.Minute).Unix()}, tokens.ErrInvalid},
		"iat in the future": {object{"iat": now.Add(time.Minute).Unix()}, tokens.ErrInvalid},
		"other audience":    {object{"aud": "other"}, tokens.ErrInvalid},
		"no audience":       {object{"aud": nil}, tokens.ErrInvalid},
		"audience in case":  {object{"aud": strings.ToUpper(service)}, tokens.ErrInvalid},
		"other issuer":      {object{"iss": "other"}, tokens.ErrInvalid},
		"no issuer":         {object{"iss": nil}, tokens.ErrInvalid},
		"access as text":    {object{"access": "*"}, tokens.ErrInvalid},
		"actions as text":   {object{"access": []object{{"type": "repository", "name": "a", "actions": "*"}}}, tokens.ErrInvalid},
		"subject as object": {object{"sub": object{}}, tokens.ErrInvalid},
		"identity as list":  {object{"berth": []int{}}, tokens.ErrInvalid},
	} {
		raw := forge(t, private, header, with(good(now), tt.claims))
		if _, _, err := s.Verify(raw); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	twice := b64(header) + "." + b64([]byte(`{"sub":"alice","sub":"root"}`))
	sum := sha256.Sum256([]byte(twice))
	r, ss, err := ecdsa.Sign(rand.Reader, private, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	twice += "." + b64(append(r.FillBytes(make([]byte, 32)), ss.FillBytes(make([]byte, 32))...))
	id, _, err := s.Verify(twice)
	refused(t, "a claim twice", twice, id, err, tokens.ErrInvalid)
}

// hostile are names that a careless reader would take for another repository, or
// for several.
func hostile() []string {
	return []string{
		"a/../b", "../b", "a/..", "a/.", "./a", "/a", "a/", "a//b", "A", "a/B", "a%2fb", "a%2Fb", "%61", "a b", "a\x00b", "a\n",
		"", "*", "**", "a/*", "a/**", "a:b", "a@b", "а", "a\\b", "a?b", "a#b", strings.Repeat("a", 256), "a..b", "a___b",
	}
}

// TestHostileAccess has such names grant nothing, to anybody.
func TestHostileAccess(t *testing.T) {
	c, meta := newClock(), newMem(t)
	s := newService(t, meta, c)
	kid, private := stolen(t, meta)
	header := object{"alg": "ES256", "kid": kid, "typ": "JWT"}
	for _, name := range hostile() {
		claims := with(good(c.Now()), object{"access": []object{
			{"type": "repository", "name": name, "actions": []string{"*"}},
			{"type": "registry", "name": name, "actions": []string{"*"}},
			{"type": "Repository", "name": "a", "actions": []string{"pull"}},
			{"type": "repository", "name": "a", "actions": []string{"PULL", "pull,push", "", "**"}},
			{},
		}})
		id, _, err := s.Verify(forge(t, private, header, claims))
		if err != nil {
			t.Fatal(err)
		}
		if id.Grants == nil || len(id.Grants) != 0 {
			t.Errorf("%q grants %v", name, id.Grants)
		}
	}
}

// TestSeal has what is sealed opened for its purpose and its time, and never taken
// for a registry token, nor one for it.
func TestSeal(t *testing.T) {
	c, meta := newClock(), newMem(t)
	s := newService(t, meta, c)
	type session struct {
		Account string
		Groups  []string
	}
	raw, err := s.Seal("session", session{"alice", []string{"dev"}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var got session
	if err := s.Open("session", raw, &got); err != nil || got.Account != "alice" || len(got.Groups) != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, purpose := range []string{"", "state", "sessio", "session2", "SESSION"} {
		if err := s.Open(purpose, raw, &got); !errors.Is(err, tokens.ErrInvalid) {
			t.Errorf("purpose %q: %v", purpose, err)
		}
	}
	var number int
	if err := s.Open("session", raw, &number); !errors.Is(err, tokens.ErrInvalid) {
		t.Errorf("opened as a number: %v", err)
	}
	id, _, err := s.Verify(raw)
	refused(t, "a cookie as a token", raw, id, err, tokens.ErrInvalid)

	token := issue(t, s).Text
	for _, purpose := range []string{"", "session", service} {
		if err := s.Open(purpose, token, &got); !errors.Is(err, tokens.ErrInvalid) {
			t.Errorf("a token as a cookie for %q: %v", purpose, err)
		}
	}
	kid, private := stolen(t, meta) // each of the two differences holds by itself
	claims := with(good(c.Now()), object{"data": object{"Account": "root"}})
	cookie := forge(t, private, object{"alg": "ES256", "kid": kid, "typ": "JWT"}, with(claims, object{"aud": service + "#session"}))
	if err := s.Open("session", cookie, &got); !errors.Is(err, tokens.ErrInvalid) {
		t.Errorf("a cookie of the type of a token: %v", err)
	}
	cookie = forge(t, private, object{"alg": "ES256", "kid": kid, "typ": "berth-seal+jwt"}, claims)
	if err := s.Open("session", cookie, &got); !errors.Is(err, tokens.ErrInvalid) {
		t.Errorf("a cookie for the audience of a token: %v", err)
	}
	id, _, err = s.Verify(cookie)
	refused(t, "a token of the type of a cookie", cookie, id, err, tokens.ErrInvalid)

	c.add(time.Hour)
	if err := s.Open("session", raw, &got); !errors.Is(err, tokens.ErrExpired) {
		t.Errorf("after its time: %v", err)
	}
}

func TestSealBad(t *testing.T) {
	s := newService(t, newMem(t), newClock())
	for name, seal := range map[string]func() (string, error){
		"no purpose": func() (string, error) { return s.Seal("", 1, time.Hour) },
		"too long":   func() (string, error) { return s.Seal("x", 1, tokens.MaxLife+1) },
		"no time":    func() (string, error) { return s.Seal("x", 1, 0) },
		"too much":   func() (string, error) { return s.Seal("x", strings.Repeat("x", tokens.MaxText), time.Hour) },
		"no JSON":    func() (string, error) { return s.Seal("x", func() {}, time.Hour) },
	} {
		if raw, err := seal(); err == nil || raw != "" {
			t.Errorf("%s: got %q", name, raw)
		}
	}
}

// TestOtherService has no registry accept what another signed, nor what it signed
// itself under another name.
func TestOtherService(t *testing.T) {
	c, meta := newClock(), newMem(t)
	raw := issue(t, newService(t, meta, c)).Text
	renamed, err := tokens.New(t.Context(), meta, tokens.Options{Service: "other", Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*tokens.Service{"another store": newService(t, newMem(t), c), "another name": renamed} {
		id, _, err := s.Verify(raw)
		refused(t, name, raw, id, err, tokens.ErrInvalid)
	}
}

func FuzzVerify(f *testing.F) {
	c := newClock()
	meta := newMem(f)
	s := newService(f, meta, c)
	kid, private := stolen(f, meta)
	token, err := s.Issue(alice(), []auth.Grant{{Repos: "a", Actions: auth.Pull}})
	if err != nil {
		f.Fatal(err)
	}
	header := object{"alg": "ES256", "kid": kid, "typ": "JWT"}
	external := newExternal(f, c, jose.JSONWebKey{Key: &private.PublicKey, KeyID: kid})
	f.Add(token.Text, []byte(`{}`))
	f.Add("a.b.c", []byte(`{"iss":"x","access":[{"type":"repository","name":"a/../b","actions":["*"]}]}`))
	f.Add(hs256([]byte("x"), with(header, object{"alg": "HS256"}), good(c.Now())), []byte(b64(good(c.Now()))))
	f.Add(`{"payload":"","signatures":[]}`, []byte(`{"aud":["a",1],"exp":1e999}`))
	f.Fuzz(func(t *testing.T, raw string, payload []byte) {
		if id, _, err := s.Verify(raw); err == nil && (len(raw) != len(token.Text) || raw[:len(raw)-1] != token.Text[:len(raw)-1]) {
			t.Fatalf("%q is accepted, of %q", raw, id.Account)
		}
		// What is signed well, and says whatever: who signs is trusted, but it must
		// not break anything, nor name what is no repository.
		text := b64(header) + "." + b64(payload)
		sum := sha256.Sum256([]byte(text))
		r, ss, err := ecdsa.Sign(rand.Reader, private, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		text += "." + b64(append(r.FillBytes(make([]byte, 32)), ss.FillBytes(make([]byte, 32))...))
		own, _, err := s.Verify(text)
		sane(t, own, err)
		other, _, err := external.Verify(t.Context(), text)
		sane(t, other, err)
	})
}

func sane(t *testing.T, id *auth.Identity, err error) {
	t.Helper()
	if err != nil {
		if id != nil || !errors.Is(err, tokens.ErrInvalid) && !errors.Is(err, tokens.ErrExpired) {
			t.Fatalf("got %v, %v", id, err)
		}
		return
	}
	if id.Grants == nil || !id.Scoped {
		t.Fatalf("no limits: %+v", id)
	}
	for _, g := range id.Grants {
		if g.Repos != "" && !auth.ValidPattern(g.Repos) || strings.Contains(g.Repos, "*") || g.Repos == "" && g.Actions != auth.Pull {
			t.Fatalf("grants %v", g)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	s := newService(b, newMem(b), newClock())
	raw := issue(b, s, auth.Grant{Repos: "team/web", Actions: auth.Pull}).Text
	for b.Loop() {
		if _, _, err := s.Verify(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	s := newService(b, newMem(b), newClock())
	access := []auth.Grant{{Repos: "team/web", Actions: auth.Pull}}
	for b.Loop() {
		if _, err := s.Issue(alice(), access); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSignatures is what one signature and its verification cost.
func BenchmarkSignatures(b *testing.B) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	sum := sha256.Sum256([]byte("x"))
	sig, err := ecdsa.SignASN1(rand.Reader, private, sum[:])
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sign", func(b *testing.B) {
		for b.Loop() {
			_, _ = ecdsa.SignASN1(rand.Reader, private, sum[:])
		}
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			_ = ecdsa.VerifyASN1(&private.PublicKey, sum[:], sig)
		}
	})
}
