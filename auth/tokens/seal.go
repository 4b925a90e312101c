package tokens

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
)

// sealed is the claims of what Seal returns.
type sealed struct {
	jwt.Claims
	Data json.RawMessage `json:"data"`
}

func (s *sealed) registered() *jwt.Claims { return &s.Claims }

// sealAudience differs from the audience of every registry token and of every
// other purpose.
func (s *Service) sealAudience(purpose string) string { return s.o.Service + "#" + purpose }

// Seal signs claims, anything that encoding/json can write, for a cookie of the web
// pages, say. They are not secret. Open accepts the result for ttl, MaxLife at most,
// and for the same purpose only; Verify never does.
func (s *Service) Seal(purpose string, claims any, ttl time.Duration) (string, error) {
	switch {
	case purpose == "":
		return "", errors.New("what is sealed needs a purpose")
	case ttl < time.Second || ttl > MaxLife:
		return "", fmt.Errorf("cannot seal for %v: want from 1s to %v", ttl, MaxLife)
	}
	data, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode what is sealed: %w", err)
	}
	now := s.now()
	return s.sign(typSeal, &sealed{
		Claims: jwt.Claims{
			Issuer:    s.o.Service,
			Audience:  jwt.Audience{s.sealAudience(purpose)},
			Expiry:    jwt.NewNumericDate(now.Truncate(time.Second).Add(ttl)),
			NotBefore: jwt.NewNumericDate(now),
			IssuedAt:  jwt.NewNumericDate(now),
		},
		Data: data,
	}, now)
}

// Open reads what Seal returned into claims, a pointer. The error is ErrInvalid,
// also if claims are of another shape, or ErrExpired.
func (s *Service) Open(purpose, raw string, claims any) error {
	var c sealed
	if err := s.open(typSeal, s.sealAudience(purpose), raw, &c); err != nil {
		return err
	}
	if err := json.Unmarshal(c.Data, claims); err != nil {
		return fmt.Errorf("%w: it says something else than expected", ErrInvalid)
	}
	return nil
}
