package tokens

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berth-registry/berth/storage"
)

// keep is how long a key verifies after it has been replaced: MaxLife, and the
// time in which a replica that has not heard of it may go on signing with it.
const keep = MaxLife + 5*time.Minute

// key signs from created on, until retired, and verifies from when it is known.
type key struct {
	id      string // thumbprint of the public key (RFC 7638)
	public  *ecdsa.PublicKey
	signers map[string]jose.Signer // by kind
	created time.Time
	retired time.Time // zero: nobody has replaced it
}

// signs says whether k is one that signs at a time.
func (k *key) signs(now time.Time) bool {
	return !k.created.After(now) && (k.retired.IsZero() || k.retired.After(now))
}

// outlived says that nothing that k signed is valid any more.
func (k *key) outlived(now time.Time) bool {
	return !k.retired.IsZero() && !now.Before(k.retired.Add(keep))
}

// ring is the keys of the store. It is not changed once it was made.
type ring struct {
	keys    []*key // by when they were created
	byID    map[string]*key
	damaged map[string]bool // ids of rows that hold no key
}

func newRing(keys []*key, damaged map[string]bool) *ring {
	r := &ring{keys: keys, byID: make(map[string]*key, len(keys)), damaged: damaged}
	slices.SortFunc(keys, func(a, b *key) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.id, b.id))
	})
	for _, k := range keys {
		r.byID[k.id] = k
	}
	return r
}

// signing returns the key that signs at a time: the newest of those that do. If a
// clock was turned back so that none does yet, the newest that is not replaced.
func (r *ring) signing(now time.Time) *key {
	for _, k := range slices.Backward(r.keys) {
		if k.signs(now) {
			return k
		}
	}
	return r.last()
}

// last returns the newest key that is not replaced, or nil.
func (r *ring) last() *key {
	for _, k := range slices.Backward(r.keys) {
		if k.retired.IsZero() {
			return k
		}
	}
	return nil
}

// verifying returns the key of that id, or nil if nothing that it signed can be
// valid.
func (r *ring) verifying(id string, now time.Time) *key {
	k := r.byID[id]
	if k == nil || k.outlived(now) {
		return nil
	}
	return k
}

// JWKS returns the public keys that verify the registry's tokens (RFC 7517), also
// those that will sign soon.
func (s *Service) JWKS() jose.JSONWebKeySet {
	now, set := s.now(), jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range s.ring.Load().keys {
		if !k.outlived(now) {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.public, KeyID: k.id, Algorithm: string(jose.ES256), Use: "sig"})
		}
	}
	return set
}

// Rotate makes a new key, which signs from now on. Tokens that older keys signed
// stay valid until they expire. Other replicas are told of the new key; one that has not
// heard of it reads the keys when it sees a token that it signed.
func (s *Service) Rotate(ctx context.Context) error {
	return s.turn(ctx, func(*ring) (time.Time, bool) { return s.now(), true })
}

// turn replaces the key that signs by a new one from a time on, if when says so of
// the keys that there are, and reads all keys. Of several callers at once, one
// after the other finds what those before it did.
func (s *Service) turn(ctx context.Context, when func(*ring) (time.Time, bool)) error {
	id, private, err := newKey()
	if err != nil {
		return err
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	var keys *ring
	var made bool
	err = s.meta.Update(ctx, func(tx storage.Tx) (err error) {
		if keys, err = s.read(tx); err != nil {
			return err
		}
		at, due := when(keys)
		if made = due; !due {
			return nil
		}
		at = at.Truncate(time.Second) // rows hold no less than microseconds, and round
		for _, k := range keys.keys {
			if !k.retired.IsZero() && !k.retired.After(at) {
				continue
			}
			if err := retire(tx, k.id, at); err != nil {
				return err
			}
		}
		if err := storage.Signers.Put(tx, storage.Key(id), storage.Signer{Private: private, Created: at}); err != nil {
			return err
		}
		keys, err = s.read(tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("make a new key: %w", err)
	}
	s.ring.Store(keys)
	if made {
		s.o.Log.InfoContext(ctx, "A new key to sign tokens with", "key", id, "from", keys.byID[id].created)
		s.tell(ctx)
	}
	return nil
}

func retire(tx storage.Tx, id string, at time.Time) error {
	row, err := storage.Signers.Get(tx, storage.Key(id))
	if err != nil {
		return err
	}
	row.Retired = at
	return storage.Signers.Put(tx, storage.Key(id), row)
}

// read returns the keys of the store. One that is damaged is left out, and logged:
// the others do.
func (s *Service) read(tx storage.Tx) (*ring, error) {
	known := s.ring.Load()
	var keys []*key
	damaged := make(map[string]bool)
	for row, err := range storage.Signers.Scan(tx, nil, nil) {
		if err != nil {
			return nil, err
		}
		k, id := new(key), string(row.Key)
		if old := known.byID[id]; old != nil {
			*k = *old
		} else if k, err = parseKey(id, row.Value.Private); err != nil {
			if damaged[id] = true; !known.damaged[id] {
				s.o.Log.Error("A key that signs tokens is damaged: its tokens are not valid", "key", id, "error", err)
			}
			continue
		}
		k.created, k.retired = row.Value.Created, row.Value.Retired
		keys = append(keys, k)
	}
	return newRing(keys, damaged), nil
}

// newKey returns a new private key as PKCS #8, and its id.
func newKey() (id string, pkcs8 []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", nil, fmt.Errorf("make a key: %w", err)
	}
	if pkcs8, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		return "", nil, fmt.Errorf("encode a key: %w", err)
	}
	id, err = thumbprint(&private.PublicKey)
	return id, pkcs8, err
}

func parseKey(id string, pkcs8 []byte) (*key, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, errors.New("not a private key in PKCS #8") // the parser's own error could tell of the key
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, errors.New("not a key for ECDSA with P-256")
	}
	if is, err := thumbprint(&private.PublicKey); err != nil || is != id {
		return nil, errors.New("not the key that its id says")
	}
	k := &key{id: id, public: &private.PublicKey, signers: make(map[string]jose.Signer)}
	for _, typ := range []string{typToken, typSeal} {
		k.signers[typ], err = jose.NewSigner(
			jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: id}},
			(&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
		if err != nil {
			return nil, fmt.Errorf("prepare a key: %w", err)
		}
	}
	return k, nil
}

// thumbprint names a key by what it is (RFC 7638).
func thumbprint(public crypto.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("name a key: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}
