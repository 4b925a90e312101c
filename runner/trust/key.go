package trust

import (
	"crypto"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// readKey reads a public key. It is returned once for each way of signing by it that
// cosign has had: keys do not say which one it was.
func readKey(path string) ([]root.TrustedMaterial, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s is no public key in PEM, as cosign generate-key-pair makes it: %w", path, err)
	}
	ways := [][]signature.LoadOption{{options.WithHash(crypto.SHA256)}}
	if _, ok := key.(ed25519.PublicKey); ok {
		ways = append(ways, []signature.LoadOption{options.WithED25519ph()})
	}
	var all []root.TrustedMaterial
	for _, way := range ways {
		v, err := signature.LoadVerifierWithOpts(key, way...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, material(v))
	}
	// The hash that belongs to the size of the key, where that is not SHA-256.
	if v, err := signature.LoadDefaultVerifier(key); err == nil {
		all = append(all, material(v))
	}
	return all, nil
}

// material is a key without an end, whatever hint a signature has for it.
func material(v signature.Verifier) root.TrustedMaterial {
	key := root.NewExpiringKey(v, time.Time{}, time.Time{})
	return root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil })
}
