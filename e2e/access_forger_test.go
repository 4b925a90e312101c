package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
)

// forger makes tokens that the registry would never make. It has taken the
// registry's own key from its data.
type forger struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	kid string
}

// newForger restarts the server: nobody else can read its data meanwhile.
func newForger(t *testing.T, g *guarded) *forger {
	t.Helper()
	g.Stop()
	meta, err := bolt.Open(filepath.Join(g.Data, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	f := &forger{t: t}
	err = meta.View(t.Context(), func(tx storage.Tx) error {
		for row, err := range storage.Signers.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			key, err := x509.ParsePKCS8PrivateKey(row.Value.Private)
			if err != nil {
				return err
			}
			if row.Value.Retired.IsZero() {
				f.kid, f.key = strings.TrimRight(string(row.Key), "\x00"), key.(*ecdsa.PrivateKey)
			}
		}
		return nil
	})
	if err != nil || f.key == nil {
		t.Fatalf("find the key that signs tokens: %v", err)
	}
	if err := meta.Close(); err != nil {
		t.Fatal(err)
	}
	g.Restart()
	return f
}

// sign signs claims as a token of a type.
func (f *forger) sign(alg jose.SignatureAlgorithm, key any, header map[string]any, claims map[string]any) string {
	f.t.Helper()
	o := &jose.SignerOptions{}
	for name, value := range header {
		o.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		f.t.Fatal(err)
	}
	signed, err := signer.Sign(mustJSON(claims))
	if err != nil {
		f.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// claimsOf reads the claims of a token.
func claimsOf(t *testing.T, token string) (claims map[string]any) {
	t.Helper()
	part := strings.Split(token, ".")[1]
	data, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// with is claims with some of them changed; nil takes one away.
func with(claims map[string]any, changes ...any) map[string]any {
	claims = maps.Clone(claims)
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == nil {
			delete(claims, changes[i].(string))
			continue
		}
		claims[changes[i].(string)] = changes[i+1]
	}
	return claims
}

// good signs claims as the registry does.
func (f *forger) good(claims map[string]any) string {
	f.t.Helper()
	return f.sign(jose.ES256, f.key, map[string]any{"typ": "JWT", "kid": f.kid}, claims)
}

// tokens are made of a token that is good, and none of them is.
func (f *forger) tokens(token string) map[string]string {
	f.t.Helper()
	claims, now := claimsOf(f.t, token), time.Now().Unix()
	own := map[string]any{"typ": "JWT", "kid": f.kid}
	public, err := x509.MarshalPKIXPublicKey(&f.key.PublicKey)
	if err != nil {
		f.t.Fatal(err)
	}
	point, err := f.key.PublicKey.Bytes()
	if err != nil {
		f.t.Fatal(err)
	}
	other := newSigningKey(f.t)
	jwk := jose.JSONWebKey{Key: &other.PublicKey, KeyID: f.kid, Algorithm: "ES256"}
	encode := base64.RawURLEncoding.EncodeToString
	parts := strings.Split(token, ".")
	altered := encode(mustJSON(with(claims, "sub", "somebody-else")))
	return map[string]string{
		"expired token":              f.good(with(claims, "iat", now-7200, "nbf", now-7200, "exp", now-3600)),
		"token of tomorrow":          f.good(with(claims, "iat", now+3600, "nbf", now+3600, "exp", now+7200)),
		"token of another service":   f.good(with(claims, "aud", "other")),
		"token of another issuer":    f.good(with(claims, "iss", "other")),
		"token without an audience":  f.good(with(claims, "aud", nil)),
		"token without an issuer":    f.good(with(claims, "iss", nil)),
		"token without an end":       f.good(with(claims, "exp", nil)),
		"token for ever":             f.good(with(claims, "exp", now+1e9)),
		"token of another kind":      f.sign(jose.ES256, f.key, map[string]any{"typ": "berth-seal+jwt", "kid": f.kid}, claims),
		"token of no source":         f.good(with(claims, "berth", nil)),
		"token of another account":   f.good(with(claims, "sub", "nobody-there")),
		"token of an old password":   f.good(with(claims, "berth", with(claims["berth"].(map[string]any), "epoch", "old"))),
		"token of a source unheard":  f.good(with(claims, "berth", with(claims["berth"].(map[string]any), "source", "ldap"))),
		"token of a key unheard":     f.good(with(claims, "berth", with(claims["berth"].(map[string]any), "key", "unheard"))),
		"token by another key":       f.sign(jose.ES256, other, own, claims),
		"token by a key in it":       f.sign(jose.ES256, other, map[string]any{"typ": "JWT", "kid": f.kid, "jwk": jwk}, claims),
		"token by a key elsewhere":   f.sign(jose.ES256, other, map[string]any{"typ": "JWT", "kid": f.kid, "jku": "http://127.0.0.1:1/keys"}, claims),
		"token by a key without id":  f.sign(jose.ES256, f.key, map[string]any{"typ": "JWT"}, claims),
		"token by a path for a key":  f.sign(jose.HS256, make([]byte, 32), map[string]any{"typ": "JWT", "kid": "../../../../dev/null"}, claims),
		"HS256 by the public key":    f.sign(jose.HS256, public, own, claims),
		"HS256 by the public point":  f.sign(jose.HS256, point, own, claims),
		"HS256 by the key's id":      f.sign(jose.HS256, []byte(strings.Repeat(f.kid, 2)), own, claims),
		"alg none":                   encode([]byte(`{"alg":"none","typ":"JWT","kid":"`+f.kid+`"}`)) + "." + parts[1] + ".",
		"alg None":                   encode([]byte(`{"alg":"None","typ":"JWT","kid":"`+f.kid+`"}`)) + "." + parts[1] + ".",
		"alg none with a signature":  encode([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + "." + parts[2],
		"no signature":               parts[0] + "." + parts[1] + ".",
		"tampered token":             parts[0] + "." + altered + "." + parts[2],
		"signature of zeros":         parts[0] + "." + parts[1] + "." + encode(make([]byte, 64)),
		"signature of another token": parts[0] + "." + parts[1] + "." + strings.Split(f.good(with(claims, "sub", "x")), ".")[2],
		"signature cut short":        token[:len(token)-4],
		"token in another token":     f.good(with(claims, "sub", token)),
		"two parts":                  parts[0] + "." + parts[1],
		"five parts":                 token + ".aGVsbG8." + rand.Text(),
		"text for a token":           "a-text-that-is-no-token",
		"refresh token":              "berthr_" + rand.Text() + "_" + rand.Text() + rand.Text(),
	}
}

func newSigningKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
