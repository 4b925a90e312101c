package auth

import (
	"slices"
	"strings"
)

// entry is a rule for one subject and one pattern.
type entry struct {
	rule    int32
	actions Action
	may     bool
	who     subject
	pattern string
}

// query is what a policy is asked.
type query struct {
	id   *Identity
	repo string
	a    Action
}

func (e *entry) matches(q query) bool {
	if e.actions&q.a == 0 {
		return false
	}
	if q.repo == "" || e.pattern == everything {
		return e.pattern == everything
	}
	return match(e.pattern, q.repo)
}

// index finds the first entry that matches. Entries are found by what every name
// that their pattern matches starts with, or ends with if that is longer, and then
// by subject: of ten thousand rules for as many teams a question meets one or two.
type index struct {
	prefixes, suffixes nodes
}

// nodes are entries by a literal part of their patterns.
type nodes struct {
	by      map[string]*node
	lengths []int // of the keys of by, ascending
}

// node holds the entries with one literal part, in the order of their rules.
type node struct {
	entries []entry
	// by holds them by subject, and matchers those with claimMatch, if there are
	// many.
	by       map[subject][]entry
	matchers []entry
}

// few entries are quicker looked at than looked up.
const few = 8

func (x *index) add(e entry) {
	prefix, suffix := literals(e.pattern)
	if len(suffix) > len(prefix) {
		x.suffixes.add(suffix, e)
	} else {
		x.prefixes.add(prefix, e)
	}
}

func (n *nodes) add(key string, e entry) {
	if n.by == nil {
		n.by = map[string]*node{}
	}
	at := n.by[key]
	if at == nil {
		at = &node{}
		n.by[key] = at
	}
	at.entries = append(at.entries, e)
}

func (x *index) finish() {
	x.prefixes.finish()
	x.suffixes.finish()
}

func (n *nodes) finish() {
	for key, at := range n.by {
		n.lengths = append(n.lengths, len(key))
		if len(at.entries) > few {
			at.bySubject()
		}
	}
	slices.Sort(n.lengths)
	n.lengths = slices.Compact(n.lengths)
}

func (n *node) bySubject() {
	n.by = map[subject][]entry{}
	for _, e := range n.entries {
		if e.who.kind == claimMatch {
			n.matchers = append(n.matchers, e)
		} else {
			n.by[e.who] = append(n.by[e.who], e)
		}
	}
	n.entries = nil
}

// first returns the first entry that matches, or nil.
func (x *index) first(q query) (best *entry) {
	for _, n := range x.prefixes.lengths {
		if n > len(q.repo) {
			break
		}
		best = x.prefixes.by[q.repo[:n]].first(q, best)
	}
	for _, n := range x.suffixes.lengths {
		if n > len(q.repo) {
			break
		}
		best = x.suffixes.by[q.repo[len(q.repo)-n:]].first(q, best)
	}
	return best
}

// first returns the first entry that matches, if it comes before best, or else
// best.
func (n *node) first(q query, best *entry) *entry {
	if n == nil {
		return best
	}
	best = firstOf(n.entries, q, best)
	if n.by == nil {
		return best
	}
	for s := range q.id.subjects() {
		best = firstOf(n.by[s], q, best)
	}
	return firstOf(n.matchers, q, best)
}

func firstOf(entries []entry, q query, best *entry) *entry {
	for i := range entries {
		e := &entries[i]
		if best != nil && e.rule >= best.rule {
			break
		}
		if e.matches(q) && e.who.is(q.id) {
			return e
		}
	}
	return best
}

// hasPrefix says whether one of prefixes, which are in order and none of which is
// a prefix of another, is a prefix of s.
func hasPrefix(prefixes []string, s string) bool {
	i, found := slices.BinarySearch(prefixes, s)
	return found || i > 0 && strings.HasPrefix(s, prefixes[i-1])
}
