package auth

import (
	"slices"
	"strings"
)

// entry is a rule for one subject and one pattern.
type entry struct {
	rule    int32
	number  int32 // of who, in the index
	actions Action
	may     bool
	who     subject
	pattern string
	below   bool // it matches whatever starts as its pattern does: "team/**"
}

// query is what a policy is asked.
type query struct {
	id    *Identity
	known []int32 // numbers of the subjects that id is, without claimMatch
	repo  string
	a     Action
}

func (e *entry) matches(q *query) bool {
	switch {
	case e.actions&q.a == 0 || !e.is(q):
		return false
	case q.repo == "" || e.pattern == everything:
		return e.pattern == everything
	case e.below:
		return strings.HasPrefix(q.repo, e.pattern[:len(e.pattern)-len(everything)])
	}
	return match(e.pattern, q.repo)
}

func (e *entry) is(q *query) bool {
	if e.who.kind == claimMatch {
		return e.who.is(q.id)
	}
	return slices.Contains(q.known, e.number)
}

// index finds the first entry that matches. Entries are found by what every name
// that their pattern matches starts with, or ends with if that is longer, and then
// by subject: of ten thousand rules for as many teams a question meets one or two.
type index struct {
	// The numbers of subjects. Those that are words have that of their kind.
	users, groups      map[string]int32
	claims             map[string]map[string]int32 // by name and value
	numbers            int32                       // given so far
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
	by       map[int32][]entry
	matchers []entry
}

// few entries are quicker looked at than looked up.
const few = 8

func (x *index) add(e entry) {
	e.number = x.number(e.who)
	prefix, suffix := literals(e.pattern)
	e.below = e.pattern == prefix+everything
	if len(suffix) > len(prefix) {
		x.suffixes.add(suffix, e)
	} else {
		x.prefixes.add(prefix, e)
	}
}

// number returns that of a subject, a new one perhaps.
func (x *index) number(s subject) int32 {
	switch s.kind {
	case user:
		return x.named(&x.users, s.name)
	case group:
		return x.named(&x.groups, s.name)
	case claim:
		if x.claims == nil {
			x.claims = map[string]map[string]int32{}
		}
		values := x.claims[s.name]
		n := x.named(&values, s.text)
		x.claims[s.name] = values
		return n
	default:
		return int32(s.kind)
	}
}

func (x *index) named(numbers *map[string]int32, name string) int32 {
	n, ok := (*numbers)[name]
	if ok {
		return n
	}
	if *numbers == nil {
		*numbers = map[string]int32{}
	}
	x.numbers++
	n = int32(claimMatch) + x.numbers
	(*numbers)[name] = n
	return n
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
	n.by = map[int32][]entry{}
	for _, e := range n.entries {
		if e.who.kind == claimMatch {
			n.matchers = append(n.matchers, e)
		} else {
			n.by[e.number] = append(n.by[e.number], e)
		}
	}
	n.entries = nil
}

// known appends the numbers of what an identity is, without claimMatch. Of the many
// groups that somebody may be in, few are in rules.
func (x *index) known(id *Identity, known []int32) []int32 {
	known = append(known, int32(everyone))
	if id.IsAnonymous() {
		return append(known, int32(anonymous))
	}
	known = append(known, int32(authenticated))
	if n, ok := x.users[id.Account]; ok {
		known = append(known, n)
	}
	for _, name := range id.Groups {
		if n, ok := x.groups[name]; ok {
			known = append(known, n)
		}
	}
	if len(x.claims) == 0 {
		return known
	}
	for name, value := range id.Claims {
		if n, ok := x.claims[name][value]; ok {
			known = append(known, n)
		}
	}
	return known
}

// first returns the first entry that matches, or nil.
func (x *index) first(id *Identity, repo string, a Action) (best *entry) {
	var room [32]int32
	q := &query{id, x.known(id, room[:0]), repo, a}
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
func (n *node) first(q *query, best *entry) *entry {
	if n == nil {
		return best
	}
	best = firstOf(n.entries, q, best)
	if n.by == nil {
		return best
	}
	for _, number := range q.known {
		best = firstOf(n.by[number], q, best)
	}
	return firstOf(n.matchers, q, best)
}

func firstOf(entries []entry, q *query, best *entry) *entry {
	for i := range entries {
		e := &entries[i]
		if best != nil && e.rule >= best.rule {
			break
		}
		if e.matches(q) {
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
