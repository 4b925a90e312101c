// Package admin is the administration of a registry over HTTP: accounts, API keys
// and the keys that sign tokens. It has the server's side, New, and the client's,
// Client.
//
// It promises that nothing is changed for somebody who may not change it: who has
// not signed in may do nothing; who administers the registry may do all; anybody
// else may change the own password, and make, see and revoke the own API keys. Who
// administers is said by policy, as the action admin on the whole registry. A
// registry token never administers. An API key does if its grants say so, too; one
// that does not may only revoke itself: it makes no keys. Where there is no policy,
// nobody administers over the network: an account that a passer-by made would be
// there when there is a policy.
//
// Who can use the socket that ListenSocket makes, beside the server's data,
// administers the registry without signing in: the system's permissions guard it.
//
// Each change, and each that was refused, is told to the audit's recorder. The
// package keeps nothing, and does not find out who somebody is: that is in a
// request's context when it comes here (auth.FromContext).
package admin

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
)

// People is where accounts are kept; an accounts.Store is one.
type People interface {
	// Name is the name by which the accounts' source is known.
	Name() string
	// Login checks a password.
	Login(ctx context.Context, account, password string) (*auth.Identity, error)
	Create(ctx context.Context, a accounts.Account, password string) error
	SetPassword(ctx context.Context, name, password string) error
	Update(ctx context.Context, name string, change func(*accounts.Account) error) (accounts.Account, error)
	// Remove removes an account with all of its keys.
	Remove(ctx context.Context, name string) error
	Get(ctx context.Context, name string) (accounts.Account, error)
	List(ctx context.Context) ([]accounts.Account, error)
}

// Keys is where API keys are kept; an accounts.Store is one.
type Keys interface {
	// CreateKey returns the key, and its secret.
	CreateKey(ctx context.Context, n accounts.NewKey) (accounts.Key, string, error)
	// Keys lists the keys of an account; of all, if it is empty.
	Keys(ctx context.Context, account string) ([]accounts.Key, error)
	RevokeKey(ctx context.Context, id string) (accounts.Key, error)
}

// Accounts is where accounts and their keys are kept.
type Accounts interface {
	People
	Keys
}

// Tokens is what makes registry tokens; a tokens.Service is one.
type Tokens interface {
	// Rotate makes a new key sign from now on.
	Rotate(ctx context.Context) error
	// RevokeRefresh makes the refresh tokens of an account useless, and says how
	// many there were.
	RevokeRefresh(ctx context.Context, account string) (int, error)
}

// Options are what a server of the API needs.
type Options struct {
	Accounts Accounts
	// Tokens may be nil: the registry makes no tokens.
	Tokens Tokens
	// Collector collects garbage; nil if this server does not.
	Collector Collector
	// Content is what is stored; nil if this server does not tell of it.
	Content Content
	// Usage tells how much is used; nil if this server does not.
	Usage Usage
	// Scrub checks what is stored; nil if this server does not.
	Scrub Scrubber
	// Retention removes tags; nil if this server does not.
	Retention Retention
	// Backups makes backups; nil if this server does not.
	Backups Backups
	// Migrator moves the registry to other stores; nil if this server does not.
	Migrator Migrator
	// Mirroring copies from other registries on a schedule; nil if this server does not.
	Mirroring Mirroring
	// Replicator pushes to other registries; nil if this server does not.
	Replicator Replicator
	// Rollouts says what nodes run; nil if this server does not.
	Rollouts Rollouts
	// Watches has clients wait for what is new; nil if this server does not.
	Watches Watches
	// Cached says that a repository is the cache of a mirror; nil: none is.
	Cached func(repo string) bool
	// Authority says who administers the registry. If it is nil there is no access
	// control, and only who comes by Local does.
	Authority auth.Authority
	// Lasts says whether somebody is vouched for beyond what they came with, and may
	// have API keys. Nil: everybody is.
	Lasts func(*auth.Identity) bool
	// Audit may be nil.
	Audit audit.Recorder
	// Log receives failures that are not the client's; nil is none.
	Log *slog.Logger
}

// New returns the server of the API. Its routes start with Prefix.
func New(o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &handler{Options: o, origin: http.NewCrossOriginProtection()}
}
