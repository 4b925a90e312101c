package auth

import (
	"math"
	"math/bits"
	"slices"
	"strings"
)

// reach knows how far rules go that name a subject.
type reach struct {
	by       map[subject]*extent
	matchers []*extent // of claimMatch
}

// extent is how far the rules go that name one subject, by action.
type extent struct {
	who     subject
	prefix  [actions][]string // of the names that it may do the action to, compact
	refused [actions]int32    // the first rule that says that it may not
}

func (r *reach) add(e entry) {
	x := r.by[e.who]
	if x == nil {
		if r.by == nil {
			r.by = map[subject]*extent{}
		}
		x = &extent{who: e.who, refused: [actions]int32{math.MaxInt32, math.MaxInt32, math.MaxInt32, math.MaxInt32, math.MaxInt32}}
		r.by[e.who] = x
		if e.who.kind == claimMatch {
			r.matchers = append(r.matchers, x)
		}
	}
	prefix, _ := literals(e.pattern)
	for a := range actions {
		switch {
		case e.actions&(1<<a) == 0:
		case e.may:
			x.prefix[a] = append(x.prefix[a], prefix)
		default:
			x.refused[a] = min(x.refused[a], e.rule)
		}
	}
}

func (r *reach) finish() {
	for _, x := range r.by {
		for a := range actions {
			x.prefix[a] = compact(x.prefix[a])
		}
	}
}

// extents lists those of the subjects that an identity is.
func (r *reach) extents(id *Identity) (all []*extent) {
	for s := range id.subjects() {
		if x := r.by[s]; x != nil {
			all = append(all, x)
		}
	}
	for _, x := range r.matchers {
		if x.who.is(id) {
			all = append(all, x)
		}
	}
	return all
}

func (r *reach) prefixes(id *Identity, a Action) (all []string) {
	n := bits.TrailingZeros8(uint8(a))
	lists := 0
	for _, x := range r.extents(id) {
		switch more := x.prefix[n]; {
		case len(more) == 0:
		case more[0] == "":
			return more
		case lists == 0:
			all, lists = more, 1
		default:
			all, lists = append(slices.Clip(all), more...), lists+1
		}
	}
	if lists > 1 {
		all = compact(all)
	}
	return all
}

// refused returns the first rule by which an identity may not do a somewhere.
func (r *reach) refused(id *Identity, a Action) int {
	first := int32(math.MaxInt32)
	for _, x := range r.extents(id) {
		first = min(first, x.refused[bits.TrailingZeros8(uint8(a))])
	}
	return int(first)
}

// compact sorts prefixes and drops those that others are a prefix of.
func compact(prefixes []string) []string {
	slices.Sort(prefixes)
	kept := prefixes[:0]
	for _, p := range prefixes {
		if len(kept) == 0 || !strings.HasPrefix(p, kept[len(kept)-1]) {
			kept = append(kept, p)
		}
	}
	return kept
}

// intersect returns the prefixes of what begins with one of a and one of b.
func intersect(a, b []string) (both []string) {
	for _, p := range a {
		if hasPrefix(b, p) {
			both = append(both, p)
		}
	}
	for _, p := range b {
		if hasPrefix(a, p) {
			both = append(both, p)
		}
	}
	return compact(both)
}
