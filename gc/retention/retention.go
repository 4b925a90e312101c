// Package retention removes tags that rules do not keep, and records when tags were
// pulled, which rules can ask for.
//
// It promises that a tag is removed only if, in the transaction that removes it, it
// names what it named when the rules were asked, and was neither pushed nor pulled
// since; that a tag is kept which no rule is about, which is immutable, or whose
// manifest a node runs; and that what it does is what Plan says. Removing a tag is
// all that it does: what the tag named is garbage then, unless something else needs
// it, and goes by the queue of package registry; the tag's history is kept as that
// of any other, so that it can be moved back.
//
// A repository's tags are read in chunks, each in a snapshot of its own, so that a
// million of them neither fill the memory nor keep the store from reclaiming space.
package retention

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Tag is what rules know of a tag.
type Tag struct {
	Repo   string
	Name   string
	Digest digest.Digest
	Pushed time.Time // last, even if that did not move it
	Pulled time.Time // last, to within an hour; zero for never, or if no rule asks

	Immutable bool // it cannot be removed
	Running   bool // a node runs what it names
}

// used is when a tag was last pulled or pushed.
func (t *Tag) used() time.Time {
	if t.Pulled.After(t.Pushed) {
		return t.Pulled
	}
	return t.Pushed
}

// Verdict is what is to become of a tag, and why.
type Verdict struct {
	Tag
	Remove bool
	Rule   int       // the number of the rule that decided, from 1; 0 if none is about the tag
	By     Criterion // what keeps it; ByNothing if it is removed
}

// Criterion is what keeps a tag.
type Criterion int

// The criteria. Where several keep a tag, a verdict names the first of them.
const (
	ByNothing      Criterion = iota // the rule does not keep it
	ByNoRule                        // no rule is about it
	ByLast                          // it is among the last ones
	ByPushed                        // it was pushed lately
	ByPulled                        // it was pulled lately
	BySemver                        // its version is in the range
	ByMatching                      // it matches the rule's regular expression
	ByImmutability                  // it is immutable
	ByNode                          // a node runs what it names
)

// String is the criterion's name, that of its key in the configuration if there is
// one.
func (c Criterion) String() string {
	switch c {
	case ByNothing:
		return "nothing"
	case ByNoRule:
		return "no rule"
	case ByLast:
		return "last"
	case ByPushed:
		return "pushed_within"
	case ByPulled:
		return "pulled_within"
	case BySemver:
		return "semver"
	case ByMatching:
		return "matching"
	case ByImmutability:
		return "immutable"
	case ByNode:
		return "running"
	}
	return "unknown"
}
