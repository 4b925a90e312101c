package gate

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/berth-registry/berth/auth"
)

// Knower is a Source that can say at once whether it knows an account. One that it
// knows is its own: no source after it vouches for somebody of that name. A
// directory may find them by another one, "Alice" or an address, or they may have
// come before the account was made here.
type Knower interface{ Knows(account string) bool }

// source is an auth.Source that checks only so many passwords at a time.
type source struct {
	auth.Source
	slots  chan struct{}
	before []Knower // the sources that come first
}

// limited bounds how many passwords are checked at a time: hashing them takes a
// processor each, and a flood of logins must not starve those who pull.
func limited(s auth.Source) *source {
	return &source{Source: s, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
}

// Current says whether the source still vouches for an identity, and may.
func (s *source) Current(id *auth.Identity) bool {
	for _, other := range s.before {
		if other.Knows(id.Account) {
			return false
		}
	}
	return s.Source.Current(id)
}

// login also says how long the source took, once it was its turn.
func (s *source) login(ctx context.Context, account, password string) (*auth.Identity, time.Duration, error) {
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	start := time.Now()
	id, err := s.Login(ctx, account, password)
	took := time.Since(start)
	if err != nil && !errors.Is(err, auth.ErrUnknown) && !errors.Is(err, auth.ErrWrong) {
		err = fmt.Errorf("source %s: %w", s.Name(), err)
	}
	return id, took, err
}

func (s *source) enter(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *source) leave() { <-s.slots }

// nobody is the source of accounts that there are not. It takes as long as others
// take to compare a password.
type nobody struct{}

// nobodysHash is of a random password, at the cost that is usual (bcrypt's
// default), which is what is left to compare with.
const nobodysHash = "$2a$10$Dgm1Nbh7xSjIu.mV3RtdJewT7hF0PavE2eczCRb8L8G9ezYzos2fW"

func (nobody) Name() string                { return "" }
func (nobody) Current(*auth.Identity) bool { return false }

func (nobody) Login(_ context.Context, _, password string) (*auth.Identity, error) {
	_ = bcrypt.CompareHashAndPassword([]byte(nobodysHash), []byte(password)) // only the time it takes counts
	return nil, auth.ErrUnknown
}

// quantum is what the time of a refusal is a multiple of.
const quantum = 250 * time.Millisecond

// maxPace is the longest that a refusal waits for what others took.
const maxPace = time.Second

// pace is how long it took lately to find out that a password is wrong. Where that
// is long, for a directory or a costly hash, it must be so for accounts that there
// are not, too.
type pace struct{ longest atomic.Int64 } // nanoseconds

// rest returns how long a refusal has to wait that took so long to find.
func (p *pace) rest(took time.Duration) time.Duration {
	longest := time.Duration(p.longest.Load())
	now := max(min(took, maxPace), longest-longest/64) // what was long once is forgotten
	p.longest.Store(int64(now))
	until := max(took, now)
	return until - took + quantum - until%quantum
}
