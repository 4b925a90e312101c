package tokens

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/storage"
)

// A refresh token is the prefix, the id of its row, "_" and a secret of 260 bits.
// The prefix lets scanners for leaked secrets find it.
const (
	refreshPrefix = "berthr_"
	refreshID     = 26 // of rand.Text
	refreshSecret = 52
	// refreshLives is how many times its RefreshTTL a refresh token can live.
	refreshLives = 12
)

// IssueRefresh returns a refresh token by which Refresh finds id again: opaque,
// and stored as the SHA-256 of its secret. Somebody who has not signed in gets
// none, nor does one who came with a registry token: it would outlive that.
func (s *Service) IssueRefresh(ctx context.Context, id *auth.Identity) (string, error) {
	if id.IsAnonymous() || id.Scoped || id.Final {
		return "", errors.New("a refresh token is for an account that has signed in by itself")
	}
	name, secret := rand.Text(), rand.Text()+rand.Text()
	now, hash := s.now(), sha256.Sum256([]byte(secret))
	row := storage.RefreshToken{
		Account: id.Account, Source: id.Source, Groups: id.Groups, Claims: id.Claims, Key: id.Key, Epoch: id.Epoch,
		Limited: id.Grants != nil, Hash: hash[:], Created: now, Expires: now.Add(s.o.RefreshTTL),
	}
	for _, g := range id.Grants {
		row.Grants = append(row.Grants, storage.KeyGrant{Repos: g.Repos, Actions: uint8(g.Actions)})
	}
	err := s.meta.Update(ctx, func(tx storage.Tx) error {
		return storage.RefreshTokens.Put(tx, storage.Key(name), row)
	})
	if err != nil {
		return "", fmt.Errorf("store a refresh token: %w", err)
	}
	return refreshPrefix + name + "_" + secret, nil
}

// Refresh returns the identity that a refresh token was issued to, as it was then;
// whether it still holds is for the caller to ask its source. The token stays the
// same and can be used again; its use extends it (Options.RefreshTTL). The error
// is ErrInvalid or ErrExpired, with the reason, or one of the store's.
func (s *Service) Refresh(ctx context.Context, raw string) (*auth.Identity, error) {
	name, hash, err := parseRefresh(raw)
	if err != nil {
		return nil, err
	}
	var row storage.RefreshToken
	err = s.meta.View(ctx, func(tx storage.Tx) (err error) {
		row, err = s.refreshRow(tx, name, hash)
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.extended(&row).Sub(row.Expires) >= min(24*time.Hour, s.o.RefreshTTL/8) { // not a write for each use
		if err := s.extend(ctx, name, hash); err != nil {
			return nil, err
		}
	}
	return identityOf(&row), nil
}

// RevokeRefresh removes all refresh tokens of an account and returns how many.
func (s *Service) RevokeRefresh(ctx context.Context, account string) (int, error) {
	n, err := s.forget(ctx, func(row *storage.RefreshToken) bool { return row.Account == account })
	if err != nil {
		return n, fmt.Errorf("revoke refresh tokens: %w", err)
	}
	return n, nil
}

func parseRefresh(raw string) (name string, hash [sha256.Size]byte, err error) {
	text, ok := strings.CutPrefix(raw, refreshPrefix)
	name, secret, cut := strings.Cut(text, "_")
	if !ok || !cut || len(name) != refreshID || len(secret) != refreshSecret {
		return "", hash, fmt.Errorf("%w: not a refresh token", ErrInvalid)
	}
	return name, sha256.Sum256([]byte(secret)), nil
}

// refreshRow returns the row of a refresh token that is valid.
func (s *Service) refreshRow(tx storage.Tx, name string, hash [sha256.Size]byte) (storage.RefreshToken, error) {
	row, err := storage.RefreshTokens.Get(tx, storage.Key(name))
	switch {
	case errors.Is(err, storage.ErrNotFound),
		err == nil && subtle.ConstantTimeCompare(row.Hash, hash[:]) != 1:
		return row, fmt.Errorf("%w: no such refresh token, or it was revoked", ErrInvalid)
	case err != nil:
		return row, fmt.Errorf("find a refresh token: %w", err)
	case !s.now().Before(row.Expires):
		return row, ErrExpired
	}
	return row, nil
}

// extended is when a refresh token that is used now expires.
func (s *Service) extended(row *storage.RefreshToken) time.Time {
	at, last := s.now().Add(s.o.RefreshTTL), row.Created.Add(refreshLives*s.o.RefreshTTL)
	if last.Before(at) {
		at = last
	}
	if at.Before(row.Expires) {
		at = row.Expires
	}
	return at
}

// extend records that a refresh token was used. One that was revoked meanwhile
// stays so.
func (s *Service) extend(ctx context.Context, name string, hash [sha256.Size]byte) error {
	return s.meta.Update(ctx, func(tx storage.Tx) error {
		row, err := s.refreshRow(tx, name, hash)
		if err != nil {
			return err
		}
		row.Expires = s.extended(&row)
		return storage.RefreshTokens.Put(tx, storage.Key(name), row)
	})
}

func identityOf(row *storage.RefreshToken) *auth.Identity {
	id := &auth.Identity{
		Account: row.Account, Source: row.Source, Groups: row.Groups, Claims: row.Claims, Key: row.Key, Epoch: row.Epoch,
	}
	if !row.Limited {
		return id
	}
	id.Grants = make([]auth.Grant, 0, len(row.Grants))
	for _, g := range row.Grants {
		id.Grants = append(id.Grants, auth.Grant{Repos: g.Repos, Actions: auth.Action(g.Actions)})
	}
	return id
}

// forget removes the refresh tokens that drop says, and returns how many. It reads
// and writes a part of the table at a time, so that others are not kept waiting.
func (s *Service) forget(ctx context.Context, drop func(*storage.RefreshToken) bool) (n int, err error) {
	const part = 1000
	for after, more := []byte(nil), true; more; {
		var found [][]byte
		var last []byte
		err := s.meta.View(ctx, func(tx storage.Tx) error {
			found, last = nil, nil
			seen := 0
			for row, err := range storage.RefreshTokens.Scan(tx, nil, after) {
				if err != nil {
					return err
				}
				if drop(&row.Value) {
					found = append(found, bytes.Clone(row.Key))
				}
				if seen++; seen == part {
					last = bytes.Clone(row.Key)
					break
				}
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		removed, err := s.remove(ctx, found, drop)
		n += removed
		if err != nil {
			return n, err
		}
		after, more = last, last != nil
	}
	return n, nil
}

// remove removes rows if drop still says so.
func (s *Service) remove(ctx context.Context, keys [][]byte, drop func(*storage.RefreshToken) bool) (n int, err error) {
	if len(keys) == 0 {
		return 0, nil
	}
	err = s.meta.Update(ctx, func(tx storage.Tx) error {
		n = 0
		for _, key := range keys {
			row, err := storage.RefreshTokens.Get(tx, key)
			if errors.Is(err, storage.ErrNotFound) || err == nil && !drop(&row) {
				continue
			}
			if err != nil {
				return err
			}
			if err := storage.RefreshTokens.Delete(tx, key); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}
