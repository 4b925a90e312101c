package oidc_test

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/oidc"
	"github.com/berth-registry/berth/e2e/berthtest"
)

const audience = "registry.example.com"

// githubRule lets jobs of acme's main branches in.
func githubRule(idp *berthtest.IDP) oidc.WorkloadOptions {
	return oidc.WorkloadOptions{
		Name: "github-main", Issuer: idp.Issuer, Audience: audience, CA: idp.CA, Account: "ci/{repository}", Groups: []string{"ci"},
		Claims: map[string]string{"repository": "acme/*", "ref": "refs/heads/main"},
	}
}

func TestWorkload(t *testing.T) {
	idp := berthtest.StartTLSIDP(t)
	gitlab := oidc.WorkloadOptions{
		Name: "gitlab", Issuer: idp.Issuer, Audience: audience, CA: idp.CA, Account: "gitlab/{project_path}:{ref}",
		Claims: map[string]string{"project_path": "group/*", "ref_protected": "true"},
	}
	nested := oidc.WorkloadOptions{
		Name: "nested", Issuer: idp.Issuer, Audience: audience, CA: idp.CA,
		Claims: map[string]string{"realm.roles": "push*", "https://acme.example/org": "acme", "n": "12345678901234567"},
	}
	w := newWorkload(t, githubRule(idp), gitlab, nested)
	for _, tt := range []struct {
		name    string
		claims  map[string]any
		account string
		refused string
	}{
		{name: "GitHub", claims: berthtest.GitHubClaims(audience, "acme/web", "refs/heads/main"), account: "ci/acme/web"},
		{name: "another's repository", claims: berthtest.GitHubClaims(audience, "evil/acme", "refs/heads/main"), refused: "claims"},
		{name: "a prefix is no match", claims: berthtest.GitHubClaims(audience, "acmes/web", "refs/heads/main"), refused: "claims"},
		{name: "another branch", claims: berthtest.GitHubClaims(audience, "acme/web", "refs/heads/main2"), refused: "claims"},
		{name: "case", claims: berthtest.GitHubClaims(audience, "ACME/web", "refs/heads/main"), refused: "claims"},
		{name: "another audience", claims: berthtest.GitHubClaims("another", "acme/web", "refs/heads/main"), refused: "audience"},
		{name: "several audiences", claims: with(berthtest.GitHubClaims("", "acme/web", "refs/heads/main"), "aud", []string{"a", audience}), account: "ci/acme/web"},
		{name: "no audience", claims: with(berthtest.GitHubClaims("", "acme/web", "refs/heads/main"), "aud", nil), refused: "audience"},
		{name: "GitLab", claims: berthtest.GitLabClaims(audience, "group/app", "main", true), account: "gitlab/group/app:main"},
		{name: "branch that is not protected", claims: berthtest.GitLabClaims(audience, "group/app", "x", false), refused: "claims"},
		{name: "a name that is none", claims: berthtest.GitLabClaims(audience, "group/app", "a b", true), refused: "ref cannot be part"},
		{name: "a name with a line break", claims: berthtest.GitLabClaims(audience, "group/app\nx", "a", true), refused: "project_path cannot be part"},
		{name: "a name like another", claims: berthtest.GitLabClaims(audience, "group/аpp", "main", true), refused: "project_path cannot be part"},
		{name: "an endless name", claims: berthtest.GitLabClaims(audience, "group/"+strings.Repeat("a", 300), "main", true), refused: "255"},
		{name: "claims in objects and lists", account: "nested/7", claims: map[string]any{
			"aud": audience, "sub": "7", "n": 12345678901234567,
			"realm": map[string]any{"roles": []string{"pull", "pusher"}}, "https://acme.example/org": "acme",
		}},
		{name: "object where text is wanted", refused: "claims", claims: map[string]any{
			"aud": audience, "sub": "7", "n": 12345678901234567, "realm": map[string]any{"roles": map[string]any{"push": true}}, "https://acme.example/org": "acme",
		}},
		{name: "a number that is about the same", refused: "claims", claims: map[string]any{
			"aud": audience, "sub": "7", "n": 12345678901234568, "realm": map[string]any{"roles": "push"}, "https://acme.example/org": "acme",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			token := idp.Token(tt.claims)
			id, until, err := w.Login(t.Context(), token)
			if tt.refused != "" {
				wantError(t, err, auth.ErrWrong, tt.refused, token)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if id.Account != tt.account || id.Source != "workload" || !w.Current(id) {
				t.Errorf("got %+v", id)
			}
			if left := time.Until(until); left < 8*time.Minute || left > 11*time.Minute {
				t.Errorf("holds for %v, want about 10 minutes", left)
			}
		})
	}
	id, err := login(w, idp.Token(berthtest.GitHubClaims(audience, "acme/web", "refs/heads/main")))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(id.Groups, []string{"ci"}) || id.Claims["ref"] != "refs/heads/main" || id.Claims["run_id"] != "12345678901234567" || id.Claims["aud"] != "" {
		t.Errorf("got %+v", id)
	}
}

func with(claims map[string]any, name string, value any) map[string]any {
	claims = maps.Clone(claims)
	claims[name] = value
	return claims
}

// Tokens that are not what they seem to be.
func TestWorkloadAttacks(t *testing.T) {
	idp := berthtest.StartIDP(t)
	w := newWorkload(t, githubRule(idp))
	good := berthtest.GitHubClaims(audience, "acme/web", "refs/heads/main")
	token := idp.Token(good)
	if _, err := login(w, token); err != nil {
		t.Fatal(err)
	}
	header, payload, signature := split(token)
	full := claimsOf(t, payload)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&idp.SigningKey().PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	kid := claimsOf(t, header)["kid"].(string)
	forged := encode(t, with(full, "repository", "acme/other"))
	embedded, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: other}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string, d time.Duration) string {
		return idp.Token(with(good, name, time.Now().Add(d).Unix()))
	}
	for name, bad := range map[string]string{
		"expired":              at("exp", -time.Second),
		"expired long ago":     idp.Token(with(good, "exp", 1)),
		"never expires":        idp.Token(with(good, "exp", nil)),
		"not yet valid":        at("nbf", time.Hour),
		"another payload":      header + "." + forged + "." + signature,
		"another header":       encode(t, map[string]any{"alg": "RS512", "kid": kid}) + "." + payload + "." + signature,
		"none":                 encode(t, map[string]any{"alg": "none"}) + "." + payload + ".",
		"none with signature":  encode(t, map[string]any{"alg": "none", "kid": kid}) + "." + payload + "." + signature,
		"None":                 encode(t, map[string]any{"alg": "None", "kid": kid}) + "." + forged + "." + signature,
		"HMAC with public key": hs256(t, kid, forged, publicPEM),
		"HMAC with DER":        hs256(t, kid, forged, public),
		"another key":          sign(t, other, kid, full),
		"another key, no kid":  sign(t, other, "", full),
		"key in the header":    signWith(t, embedded, full),
		"no signature":         header + "." + payload + ".",
		"cut signature":        token[:len(token)-4],
		"critical extension":   encode(t, map[string]any{"alg": "RS256", "kid": kid, "crit": []string{"x"}, "x": 1}) + "." + payload + "." + signature,
		"list of claims":       header + "." + encode(t, []any{full}) + "." + signature,
		"no JSON":              header + "." + base64.RawURLEncoding.EncodeToString([]byte("{")) + "." + signature,
		"empty":                "",
		"dots":                 "..",
		"huge":                 token + strings.Repeat("A", 20<<10),
		"too many claims":      idp.Token(manyClaims(good, 100)),
	} {
		t.Run(name, func(t *testing.T) {
			id, err := login(w, bad)
			if err == nil {
				t.Fatalf("taken as %+v", id)
			}
			wantError(t, err, auth.ErrWrong, "token refused", token, signature)
		})
	}
	// The same key, used for what the provider would sign, still does.
	if _, err := login(w, sign(t, idp.SigningKey(), kid, full)); err != nil {
		t.Error(err)
	}
}

func manyClaims(claims map[string]any, n int) map[string]any {
	claims = maps.Clone(claims)
	for i := range n {
		claims["x"+strings.Repeat("y", i)] = "z"
	}
	return claims
}

// No host is asked because of a token that names it.
func TestWorkloadOtherIssuer(t *testing.T) {
	idp := berthtest.StartIDP(t)
	server, asked := countRequests(t)
	w := newWorkload(t, githubRule(idp))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, issuer := range []any{server, server + "/", idp.Issuer + "/", idp.Issuer + "/.", strings.ToUpper(idp.Issuer), "", nil} {
		claims := with(berthtest.GitHubClaims(audience, "acme/web", "refs/heads/main"), "iss", issuer)
		_, err := login(w, sign(t, key, "k", claims))
		wantError(t, err, auth.ErrUnknown, "no workload rule")
	}
	if n := asked(); n > 0 {
		t.Errorf("a token made the registry ask its issuer %d times", n)
	}
}

// Keys change: a token of the new key is good at once, one of the old no more once
// the keys are looked up. Tokens of unknown keys do not make it ask without end.
func TestWorkloadKeys(t *testing.T) {
	idp := berthtest.StartIDP(t)
	var c clock
	rule := githubRule(idp)
	rule.Now = c.now
	w := newWorkload(t, rule)
	claims := with(berthtest.GitHubClaims(audience, "acme/web", "refs/heads/main"), "exp", time.Now().Add(24*time.Hour).Unix())
	old := idp.Token(claims)
	if _, err := login(w, old); err != nil {
		t.Fatal(err)
	}
	idp.Stop()
	if _, err := login(w, old); err != nil {
		t.Errorf("the key is known, and the provider need not be there: %v", err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	unknown := sign(t, key, "made-up", with(claims, "iss", idp.Issuer))
	_, err = login(w, unknown)
	wantError(t, err, oidc.ErrUnavailable, "refused", unknown)

	idp.Start()
	idp.Rotate()
	fresh := idp.Token(claims)
	if _, err := login(w, fresh); err != nil {
		t.Fatalf("token of the new key: %v", err)
	}
	_, err = login(w, old)
	wantError(t, err, auth.ErrWrong, "signature")

	for range 20 {
		_, err := login(w, unknown)
		wantError(t, err, auth.ErrWrong, "", unknown)
	}
	idp.Stop()
	_, err = login(w, unknown) // or it would have noticed
	wantError(t, err, auth.ErrWrong, "that often")
	if _, err := login(w, fresh); err != nil {
		t.Error(err)
	}
	idp.Start()
	c.pass(time.Minute)
	idp.Rotate()
	if _, err := login(w, idp.Token(claims)); err != nil {
		t.Errorf("token of the third key: %v", err)
	}
}

// A key that was withdrawn is trusted for an hour at most, even if no other is seen.
func TestWorkloadKeyWithdrawn(t *testing.T) {
	idp := berthtest.StartIDP(t)
	var c clock
	rule := githubRule(idp)
	rule.Now = c.now
	w := newWorkload(t, rule)
	claims := with(berthtest.GitHubClaims(audience, "acme/web", "refs/heads/main"), "exp", time.Now().Add(24*time.Hour).Unix())
	old := idp.Token(claims)
	if _, err := login(w, old); err != nil {
		t.Fatal(err)
	}
	idp.Rotate()
	if _, err := login(w, old); err != nil {
		t.Fatal(err)
	}
	c.pass(61 * time.Minute)
	for deadline := time.Now().Add(10 * time.Second); ; { // the look-up goes on behind the first
		_, err := login(w, old)
		if err != nil {
			wantError(t, err, auth.ErrWrong, "signature")
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a withdrawn key goes on being trusted")
		}
	}
}

func TestWorkloadRules(t *testing.T) {
	good := oidc.WorkloadOptions{Name: "a", Issuer: "https://a.example", Audience: "b", Claims: map[string]string{"c": "d"}}
	for name, change := range map[string]func(*oidc.WorkloadOptions){
		"name":               func(o *oidc.WorkloadOptions) { o.Name = "A" },
		"issuer":             func(o *oidc.WorkloadOptions) { o.Issuer = "http://a.example" },
		"audience":           func(o *oidc.WorkloadOptions) { o.Audience = "" },
		"claims":             func(o *oidc.WorkloadOptions) { o.Claims = nil },
		"claim's name":       func(o *oidc.WorkloadOptions) { o.Claims = map[string]string{"": "x"} },
		"claim's value":      func(o *oidc.WorkloadOptions) { o.Claims = map[string]string{"x": ""} },
		"account of another": func(o *oidc.WorkloadOptions) { o.Account = "{sub}" },
		"no slash":           func(o *oidc.WorkloadOptions) { o.Account = "ci-{sub}" },
		"slash behind":       func(o *oidc.WorkloadOptions) { o.Account = "ci{sub}/x" },
		"slash first":        func(o *oidc.WorkloadOptions) { o.Account = "/{sub}" },
		"local account":      func(o *oidc.WorkloadOptions) { o.Account = "alice" },
		"open brace":         func(o *oidc.WorkloadOptions) { o.Account = "ci/{sub" },
		"close brace":        func(o *oidc.WorkloadOptions) { o.Account = "ci/sub}" },
		"empty braces":       func(o *oidc.WorkloadOptions) { o.Account = "ci/{}" },
		"braces in braces":   func(o *oidc.WorkloadOptions) { o.Account = "ci/{{sub}}" },
		"strange letters":    func(o *oidc.WorkloadOptions) { o.Account = "ci /{sub}" },
		"CA":                 func(o *oidc.WorkloadOptions) { o.CA = "/nowhere" },
	} {
		o := good
		change(&o)
		if _, err := oidc.NewWorkload([]oidc.WorkloadOptions{o}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	two := good
	two.CA = "/dev/null"
	if _, err := oidc.NewWorkload([]oidc.WorkloadOptions{good, two}); err == nil {
		t.Error("two CAs of one issuer: taken")
	}

	// Who was let in by a rule is gone with it.
	idp := berthtest.StartIDP(t)
	rule := githubRule(idp)
	id, err := login(newWorkload(t, rule), idp.Token(berthtest.GitHubClaims(audience, "acme/web", "refs/heads/main")))
	if err != nil {
		t.Fatal(err)
	}
	if !newWorkload(t, good, rule).Current(id) {
		t.Error("not current, though its rule is there")
	}
	for name, change := range map[string]func(*oidc.WorkloadOptions){
		"claims": func(o *oidc.WorkloadOptions) {
			o.Claims = map[string]string{"repository": "acme/*", "ref": "refs/heads/main*"}
		},
		"groups": func(o *oidc.WorkloadOptions) { o.Groups = nil },
		"name":   func(o *oidc.WorkloadOptions) { o.Name = "x" },
	} {
		changed := rule
		change(&changed)
		if newWorkload(t, changed).Current(id) {
			t.Errorf("current, though the %s of its rule are others", name)
		}
	}
	stranger := *id
	stranger.Source = "accounts"
	if newWorkload(t, rule).Current(&stranger) {
		t.Error("vouches for an identity of another source")
	}
}

func split(token string) (header, payload, signature string) {
	parts := strings.Split(token, ".")
	return parts[0], parts[1], parts[2]
}

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func claimsOf(t *testing.T, part string) map[string]any {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func sign(t *testing.T, key *rsa.PrivateKey, kid string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return signWith(t, signer, claims)
}

func signWith(t *testing.T, signer jose.Signer, claims map[string]any) string {
	t.Helper()
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// hs256 signs with a key that everybody has.
func hs256(t *testing.T, kid, payload string, key []byte) string {
	t.Helper()
	text := encode(t, map[string]any{"alg": "HS256", "kid": kid}) + "." + payload
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
