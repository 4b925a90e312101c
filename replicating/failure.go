package replicating

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/copying"
)

// How long something is left alone that has failed: longer each time.
const (
	shortest       = time.Second
	longest        = 10 * time.Minute
	shortestBroken = time.Hour
	longestBroken  = 24 * time.Hour
	longestLeave   = 2 * time.Minute // for a target that does not say how long
	longestTold    = 24 * time.Hour  // however long a target says
)

// kind is what a failure says of when to try again.
type kind int

const (
	passing kind = iota // soon: it may be the target or the network
	absent              // the target could not be asked
	broken              // seldom: another try would end the same
)

// lasting are errors of a registry that another try would get again.
func lasting() []error {
	return []error{
		registry.ErrDenied, registry.ErrUnauthorized, registry.ErrQuota, registry.ErrTagImmutable,
		registry.ErrManifestInvalid, registry.ErrManifestTooLarge, registry.ErrTooLarge, registry.ErrDigestInvalid,
		registry.ErrNameInvalid, registry.ErrNameUnknown, registry.ErrTagInvalid, registry.ErrMethod, registry.ErrRouteUnknown,
	}
}

// missingTries is how often something is looked for again that was here a moment ago:
// it is mostly gone, and then nothing is to be replicated.
const missingTries = 2

// judge says what kind of failure an error is, after so many tries that failed before.
func judge(err error, tries int) kind {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" || errors.Is(err, registry.ErrTooMany) || errors.Is(err, errNoTarget) {
		return absent
	}
	var source *copying.SourceError
	if errors.As(err, &source) && (errors.Is(err, registry.ErrManifestUnknown) || errors.Is(err, registry.ErrBlobUnknown)) {
		if tries < missingTries {
			return passing
		}
		return broken
	}
	for _, e := range lasting() {
		if errors.Is(err, e) {
			return broken
		}
	}
	return passing
}

// delay is how long to leave alone what has failed now, and tries times before. Those
// that failed together do not all come back together.
func delay(tries int, k kind) time.Duration {
	d := min(shortest<<min(tries, 20), longest)
	if k == broken {
		d = min(shortestBroken<<min(tries, 8), longestBroken)
	}
	return d + rand.N(d/4) //nolint:gosec // nothing is gained by guessing it
}

// toldWait is how long a target says that it wants to be left alone; 0 if it does not
// say.
func toldWait(err error) time.Duration {
	var told interface{ Header() http.Header }
	if !errors.As(err, &told) {
		return 0
	}
	s, err := strconv.ParseInt(told.Header().Get("Retry-After"), 10, 64)
	if err != nil || s < 0 {
		return 0
	}
	return min(time.Duration(min(s, int64(longestTold/time.Second)))*time.Second, longestTold)
}

// leave is until when a target is left alone by this process.
type leave struct {
	mu     sync.Mutex
	until  time.Time
	why    string
	failed int // in a row, whatever was tried
}

// get returns until when; zero if it is not left alone.
func (l *leave) get(now time.Time) (until time.Time, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.until.After(now) {
		return time.Time{}, ""
	}
	return l.until, l.why
}

// set leaves the target alone until a time at least.
func (l *leave) set(until time.Time, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until.After(l.until) {
		l.until, l.why = until, why
	}
}

// fail counts a failure in a row, and leaves the target alone for it.
func (l *leave) fail(now time.Time, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until.After(now) {
		return // of those that were tried at once only the first counts
	}
	l.until, l.why = now.Add(min(delay(l.failed, passing), longestLeave)), why
	l.failed++
}

// succeed says that the target takes something, and returns how often in a row it had
// failed.
func (l *leave) succeed() (failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed = l.failed
	l.failed, l.until, l.why = 0, time.Time{}, ""
	return failed
}

// text is what people are told of an error: no credentials that a URL may have, and
// nothing that would command a terminal.
func text(err error) string {
	s := err.Error()
	if u, ok := errors.AsType[*url.Error](err); ok {
		if parsed, perr := url.Parse(u.URL); perr == nil && parsed.Host != "" {
			s = strings.ReplaceAll(s, u.URL, parsed.Scheme+"://"+parsed.Host+parsed.EscapedPath())
		}
	}
	const most = 1000
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
