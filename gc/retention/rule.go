package retention

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/berth-registry/berth/internal/tagmatch"
)

// Order is how tags are put in order to find the last ones.
type Order int

// The orders.
const (
	ByPush Order = iota // when a tag was pushed last
	ByPull              // when it was last pulled, or pushed if that is later
	ByVersion
)

// Rule says which tags of some repositories are kept. The first rule whose Repos
// and Tags match a tag decides on it: it is kept if any of the others says so.
type Rule struct {
	Repos func(repo string) bool
	Tags  *regexp.Regexp // that a tag must match; nil for any tag

	// Last is how many are kept of the rule's tags in one repository. By ByVersion
	// only versions are in order.
	Last  int
	Order Order
	// PushedWithin keeps what was pushed so lately.
	PushedWithin time.Duration
	// PulledWithin keeps what was pulled so lately, and what was not there, or not
	// watched, for so long that it could be told that it was not.
	PulledWithin time.Duration
	Semver       *semver.Constraints // keeps the versions in it; may be nil
	Matching     *regexp.Regexp      // keeps what it matches; may be nil
}

// Spec is a rule as a configuration has it.
type Spec struct {
	Repos        func(repo string) bool
	Tags         string // regular expression that a tag must match as a whole; empty for any tag
	Last         int
	Order        string // push, pull or semver; empty is push
	PushedWithin time.Duration
	PulledWithin time.Duration
	Semver       string // range of versions, or empty
	Matching     string // regular expression that a tag must match as a whole, or empty
}

// NewRule reads a rule. One that could keep nothing is an error.
func NewRule(s Spec) (r Rule, err error) {
	r = Rule{Repos: s.Repos, Last: s.Last, PushedWithin: s.PushedWithin, PulledWithin: s.PulledWithin}
	switch s.Order {
	case "", "push":
	case "pull":
		r.Order = ByPull
	case "semver":
		r.Order = ByVersion
	default:
		return r, fmt.Errorf("order: %q is none of push, pull and semver", s.Order)
	}
	if r.Tags, err = tagmatch.Whole(s.Tags); err != nil {
		return r, fmt.Errorf("tags: %w", err)
	}
	if r.Matching, err = tagmatch.Whole(s.Matching); err != nil {
		return r, fmt.Errorf("matching: %w", err)
	}
	if r.Semver, err = tagmatch.Range(s.Semver); err != nil {
		return r, fmt.Errorf("semver: %w", err)
	}
	switch {
	case s.Repos == nil:
		return r, errors.New("no repositories")
	case s.Last < 0 || s.PushedWithin < 0 || s.PulledWithin < 0:
		return r, errors.New("a number is negative")
	case s.Last == 0 && s.PushedWithin == 0 && s.PulledWithin == 0 && r.Semver == nil && r.Matching == nil:
		return r, errors.New("it keeps nothing: say last, pushed_within, pulled_within, semver or matching")
	}
	return r, nil
}

// asksPulls says whether the rule has to know when tags were pulled.
func (r *Rule) asksPulls() bool { return r.PulledWithin > 0 || r.Last > 0 && r.Order == ByPull }

// asksVersion says whether the rule has to know the versions of tags.
func (r *Rule) asksVersion() bool { return r.Semver != nil || r.Last > 0 && r.Order == ByVersion }
