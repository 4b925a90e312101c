package tokens

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berth-registry/berth/internal/trust"
)

const (
	fetchTimeout = 10 * time.Second
	maxSet       = 1 << 20 // bytes of a key set
	maxSetKeys   = 100
	minRSA       = 2048 // bits (RFC 7518, section 3.3)
)

// externalAlgorithms are those that tokens of others may be signed with; with
// which of them a key verifies, fits says. None of them takes a shared secret.
func externalAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
		jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
}

// fits says whether a key may verify signatures of an algorithm: it is of that
// type and size, and, if the set says what it is for, for that.
func fits(k *jose.JSONWebKey, alg string) bool {
	if k.Algorithm != "" && k.Algorithm != alg {
		return false
	}
	var algs []jose.SignatureAlgorithm
	switch public := k.Key.(type) {
	case *rsa.PublicKey:
		algs = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	case *ecdsa.PublicKey:
		switch public.Curve.Params().BitSize {
		case 256:
			algs = []jose.SignatureAlgorithm{jose.ES256}
		case 384:
			algs = []jose.SignatureAlgorithm{jose.ES384}
		case 521:
			algs = []jose.SignatureAlgorithm{jose.ES512}
		}
	case ed25519.PublicKey:
		algs = []jose.SignatureAlgorithm{jose.EdDSA}
	}
	return slices.Contains(algs, jose.SignatureAlgorithm(alg))
}

// parseSet reads a key set. Keys that cannot verify tokens are left out (RFC 7517,
// section 5); it is an error if none is left, or if a private or secret key is
// among them, which whoever reads the set could sign with.
func parseSet(text []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("not a JSON Web Key Set")
	}
	if len(set.Keys) > maxSetKeys {
		return nil, fmt.Errorf("the key set has %d keys: the most is %d", len(set.Keys), maxSetKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) != nil {
			continue
		}
		if !k.IsPublic() {
			return nil, errors.New("the key set holds a private or secret key: it must hold public keys only")
		}
		if !usable(&k) {
			continue
		}
		if k.KeyID == "" {
			id, err := thumbprint(k.Key)
			if err != nil {
				continue
			}
			k.KeyID = id
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("the key set has no key that can verify tokens")
	}
	return keys, nil
}

// usable says whether tokens of some algorithm may be verified with k.
func usable(k *jose.JSONWebKey) bool {
	if r, ok := k.Key.(*rsa.PublicKey); ok && r.N.BitLen() < minRSA {
		return false
	}
	return k.Valid() && (k.Use == "" || k.Use == "sig") && slices.ContainsFunc(externalAlgorithms(), func(a jose.SignatureAlgorithm) bool {
		return fits(k, string(a))
	})
}

func (e *External) readFile() error {
	f, err := os.Open(e.o.JWKS)
	if err != nil {
		return fmt.Errorf("key set of the external token server: %w", err)
	}
	defer f.Close()
	return e.take(f)
}

func (e *External) readURL(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.o.JWKS, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask for the key set: %w", err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask for the key set: %w", err) // it names the URL, without a password
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the token server answered %s", resp.Status)
	}
	return e.take(resp.Body)
}

// take reads a key set and puts it in force.
func (e *External) take(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxSet+1))
	if err != nil {
		return fmt.Errorf("read the key set: %w", err)
	}
	if len(text) > maxSet {
		return fmt.Errorf("the key set is larger than %d bytes", maxSet)
	}
	keys, err := parseSet(text)
	if err != nil {
		return err
	}
	e.keys.Store(&keys)
	return nil
}

// newClient returns a client that fetches a key set, from where nobody on the way
// can put in keys of their own.
func newClient(from, ca string) (*http.Client, error) {
	u, err := url.Parse(from)
	if err != nil || u.Host == "" {
		return nil, errors.New("the URL of the key set is not valid")
	}
	if err := secure(u); err != nil {
		return nil, err
	}
	roots, err := trust.Authorities(ca)
	if err != nil {
		return nil, fmt.Errorf("certificates for the key set: %w", err)
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: fetchTimeout,
			IdleConnTimeout:     fetchTimeout,
			MaxIdleConns:        1,
			ForceAttemptHTTP2:   true,
		},
		Timeout: fetchTimeout,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) >= 5 {
				return errors.New("too many redirects")
			}
			return secure(req.URL)
		},
	}, nil
}

// secure says whether what comes from u can be trusted to come from there.
func secure(u *url.URL) error {
	if u.Scheme == "https" || u.Scheme == "http" && trust.IsLoopback(u.Hostname()) {
		return nil
	}
	return errors.New("a key set must come by https, or from this host: whoever can change it can sign tokens")
}
