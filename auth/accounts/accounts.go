// Package accounts keeps the accounts that the registry knows itself, people with
// a password and robots without one, and the API keys of these and of any other
// account, in the metadata store.
//
// It promises that every rule holds whoever changes what at the same time, other
// replicas included, because each is checked in the transaction that makes the
// change; that a change is in force in this process when the call that made it
// returns, and in other replicas within a second, if Run runs and they reach the store;
// that no password and no key can be read out of the store; and that what one account
// was signed in by never serves another of the same name that comes after it.
//
// A replica that cannot reach the store goes on with what it knew, and says that (Stale)
// once something may have been revoked StaleAfter ago: its caller then vouches for nobody.
//
// It does not slow down who guesses, nor does it hide by time that an account
// does not exist: its caller does. Changes of an account's groups are not seen by
// who has signed in before, until it signs in again or is refreshed.
package accounts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/rounds"
	"github.com/berth-registry/berth/storage"
)

// Source is the name of the Store as an auth.Source.
const Source = "accounts"

// Account is somebody whom the registry knows itself.
type Account struct {
	Name     string    `json:"name"`
	Robot    bool      `json:"robot,omitempty"` // has no password, only API keys
	Groups   []string  `json:"groups,omitempty"`
	Created  time.Time `json:"created"`
	Disabled bool      `json:"disabled,omitempty"` // cannot sign in, nor do its keys work
}

// Key is an API key, without its secret.
type Key struct {
	ID      string       `json:"id"`
	Account string       `json:"account"`
	Source  string       `json:"source"`           // that vouched for the account
	Groups  []string     `json:"groups,omitempty"` // of the account; empty if Source is this package's
	Grants  []auth.Grant `json:"grants,omitempty"` // nil: all that the account may
	Created time.Time    `json:"created"`
	Expires time.Time    `json:"expires,omitzero"` // zero for never
	Used    time.Time    `json:"used,omitzero"`    // about when it was used last; zero for never
	Note    string       `json:"note,omitempty"`   // what it is for
}

// NewKey is an API key to be.
type NewKey struct {
	Account string
	Source  string       // that vouches for the account; empty for this package's
	Groups  []string     // of an account of another source; this package's have their own
	Grants  []auth.Grant // nil: all that the account may
	Expires time.Time    // zero for never
	Note    string       // what it is for
}

// The errors of this package. What a method returns wraps one of them, and says
// what is wrong. Where there is no such account or key, it is auth.ErrUnknown.
var (
	// ErrExists says that there is an account of that name.
	ErrExists = errors.New("there is an account of that name")
	// ErrName says that an account or a group cannot have that name.
	ErrName = errors.New("bad name: want 1 to 64 of a-z, 0-9, '.', '_', '-' and '@', the first a letter or a digit")
	// ErrPassword says that an account cannot have that password. bcrypt takes no
	// more than 72 bytes, and RFC 7617, section 2 no control characters.
	ErrPassword = errors.New("bad password: want 8 to 72 bytes of text without control characters")
	// ErrKey says that there cannot be such an API key.
	ErrKey = errors.New("bad API key")
)

// problem is an error of a kind, with a text of its own.
type problem struct {
	kind error
	text string
}

func (p *problem) Error() string { return p.text }
func (p *problem) Unwrap() error { return p.kind }

var errNoKey = &problem{auth.ErrUnknown, "no such API key"}

// Options change how a Store works. The zero value is usable.
type Options struct {
	Now func() time.Time // time.Now if nil
	// Log is told what Run cannot do. Nil for nobody.
	Log *slog.Logger
	// Cost is bcrypt's cost of new passwords, 4 to 15; 10 if it is 0.
	Cost int
}

const (
	defaultCost = 10
	// maxCost is some seconds of computing for each login.
	maxCost = 15
)

// Store is the accounts and API keys of a metadata store. Its methods may be
// called concurrently.
type Store struct {
	meta   storage.Meta
	shared bool // other processes may write to meta
	now    func() time.Time
	log    *slog.Logger
	cost   int
	dummy  []byte // hash that is compared with where there is no password
	looks  *rounds.Rounds

	// changing is held by who changes the store or reads known anew, so that
	// known follows the store in the order of its changes.
	changing sync.Mutex
	known    known
	asOf     atomic.Pointer[time.Time] // the store was then, or later, as it is known
	used     uses
}

var (
	_ auth.Source    = (*Store)(nil)
	_ auth.Refresher = (*Store)(nil)
)

// New returns the accounts and keys in meta.
func New(ctx context.Context, meta storage.Meta, o Options) (*Store, error) {
	_, alone := meta.(storage.Versioner)
	s := &Store{meta: meta, shared: !alone, now: o.Now, log: o.Log, cost: o.Cost}
	s.looks = rounds.New(s.reread, lookEvery, rereadTime)
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cost == 0 {
		s.cost = defaultCost
	}
	if s.cost < bcrypt.MinCost || s.cost > maxCost {
		return nil, fmt.Errorf("bcrypt's cost is %d, want %d to %d", s.cost, bcrypt.MinCost, maxCost)
	}
	var err error
	if s.dummy, err = bcrypt.GenerateFromPassword([]byte(newText(secretBytes)), s.cost); err != nil {
		return nil, fmt.Errorf("hash a password: %w", err)
	}
	if err := s.reread(ctx); err != nil {
		return nil, fmt.Errorf("read the accounts: %w", err)
	}
	return s, nil
}

// Name implements auth.Source.
func (*Store) Name() string { return Source }
