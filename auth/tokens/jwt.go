package tokens

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Kinds of what a service signs, told apart by the header "typ" (RFC 8725, section
// 3.11) as well as by their audience.
const (
	typToken = "JWT" // as in the example of the token specification
	typSeal  = "berth-seal+jwt"
)

// message is the claims of a token.
type message interface{ registered() *jwt.Claims }

// text serializes what signer says of m.
func text(signer jose.Signer, m message) (string, error) {
	payload, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("encode a token: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("serialize a token: %w", err)
	}
	if len(raw) > MaxText {
		return "", fmt.Errorf("a token of %d bytes is too long for HTTP headers: the most is %d", len(raw), MaxText)
	}
	return raw, nil
}

// parse reads a token in compact serialization (RFC 7515, section 7.1), of which
// nothing is verified yet. Of its header only "alg", "kid" and "typ" count: what
// "jwk", "jku", "x5c" and "x5u" say comes from whoever wrote the token.
func parse(raw string, algs []jose.SignatureAlgorithm) (*jwt.JSONWebToken, jose.Header, error) {
	if len(raw) > MaxText {
		return nil, jose.Header{}, fmt.Errorf("%w: too long", ErrInvalid)
	}
	for i := range len(raw) { // the decoder of base64 skips line ends
		if c := raw[i]; !isAlnum(c) && c != '-' && c != '_' && c != '.' {
			return nil, jose.Header{}, fmt.Errorf("%w: not a signed JSON Web Token", ErrInvalid)
		}
	}
	token, err := jwt.ParseSigned(raw, algs)
	var alg *jose.ErrUnexpectedSignatureAlgorithm
	switch {
	case errors.As(err, &alg):
		return nil, jose.Header{}, fmt.Errorf("%w: signed with an algorithm that is not accepted", ErrInvalid)
	case err != nil || len(token.Headers) != 1:
		return nil, jose.Header{}, fmt.Errorf("%w: not a signed JSON Web Token", ErrInvalid)
	}
	return token, token.Headers[0], nil
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// expected is what the registered claims of a token must be.
type expected struct {
	issuer, audience string
	now              time.Time
	leeway           time.Duration // for other clocks, at either end of its time
	over             time.Duration // grace after its end
	longest          time.Duration // that it may be valid, if not zero
}

// check holds claims to what is expected of them (RFC 7519, section 4.1). A token
// without an end is invalid.
func (e *expected) check(c *jwt.Claims) error {
	switch {
	case c.Issuer != e.issuer:
		return fmt.Errorf("%w: issued by somebody else", ErrInvalid)
	case !c.Audience.Contains(e.audience):
		return fmt.Errorf("%w: meant for another service", ErrInvalid)
	case c.Expiry == nil:
		return fmt.Errorf("%w: it has no end", ErrInvalid)
	case c.NotBefore != nil && e.now.Add(e.leeway).Before(c.NotBefore.Time()),
		c.IssuedAt != nil && e.now.Add(e.leeway).Before(c.IssuedAt.Time()):
		return fmt.Errorf("%w: not valid yet", ErrInvalid)
	case e.longest != 0 && (c.IssuedAt == nil || c.Expiry.Time().Sub(c.IssuedAt.Time()) > e.longest):
		return fmt.Errorf("%w: valid for too long", ErrInvalid)
	case !e.now.Before(c.Expiry.Time().Add(e.over)):
		return ErrExpired
	}
	return nil
}

// sign has the key that signs now say m.
func (s *Service) sign(typ string, m message, now time.Time) (string, error) {
	k := s.ring.Load().signing(now)
	if k == nil {
		return "", errors.New("there is no key to sign tokens with")
	}
	return text(k.signers[typ], m)
}

// open reads a token that this service signed into m.
func (s *Service) open(typ, audience, raw string, m message) error {
	token, header, err := parse(raw, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return err
	}
	if t, _ := header.ExtraHeaders[jose.HeaderType].(string); t != typ {
		return fmt.Errorf("%w: of another kind", ErrInvalid)
	}
	now := s.now()
	k := s.ring.Load().verifying(header.KeyID, now)
	if k == nil && s.missing() {
		k = s.ring.Load().verifying(header.KeyID, now)
	}
	if k == nil {
		return fmt.Errorf("%w: signed with a key that is not, or no longer, this registry's", ErrInvalid)
	}
	if err := token.Claims(k.public, m); err != nil {
		return fmt.Errorf("%w: not signed by this registry", ErrInvalid)
	}
	e := expected{issuer: s.o.Service, audience: audience, now: now, leeway: skew, longest: MaxLife}
	return e.check(m.registered())
}
