package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// writeKey writes a public key, and returns its path.
func writeKey(tb testing.TB, public crypto.PublicKey) string {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), "key.pub")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// newKey is the path of a public key whose private one nobody has.
func newKey(tb testing.TB) string {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return writeKey(tb, key.Public())
}

// TestKindsOfKeys tries the keys that cosign can be given, and its ways to sign by them.
func TestKindsOfKeys(t *testing.T) {
	t.Parallel()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const repository = "r.example.com/app"
	d := digest.FromString("image")
	payload := simplePayload(repository, d)
	for what, tt := range map[string]struct {
		key  crypto.Signer
		opts []signature.LoadOption
	}{
		"P-256":               {p256, nil},
		"P-384":               {p384, []signature.LoadOption{options.WithHash(crypto.SHA384)}},
		"P-384 with SHA-256":  {p384, nil},
		"RSA":                 {rsaKey, nil},
		"Ed25519":             {ed, nil},
		"Ed25519, hash first": {ed, []signature.LoadOption{options.WithED25519ph()}},
	} {
		signer, err := signature.LoadSignerVerifierWithOpts(tt.key, tt.opts...)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := signer.SignMessage(strings.NewReader(string(payload)))
		if err != nil {
			t.Fatal(err)
		}
		s := newShelf(t)
		s.attach(d, payload, map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(sig)})
		rule := Rule{Images: []string{"**"}, Keys: []string{newKey(t), writeKey(t, tt.key.Public())}}
		if _, err := policy(t, rule).Decide(t.Context(), imageOf(repository, d), s.sources()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		rule.Keys = rule.Keys[:1]
		if _, err := policy(t, rule).Decide(t.Context(), imageOf(repository, d), s.sources()); err == nil {
			t.Errorf("%s: another key will do", what)
		}
	}
}
