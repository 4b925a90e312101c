package retention

import (
	"container/heap"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/berth-registry/berth/internal/tagmatch"
)

// pullSlack is how much later than its row says a tag may have been pulled: pulls
// are written down once an hour.
const pullSlack = time.Hour

// Now is what rules are asked at.
type Now struct {
	Time time.Time
	// Watched is since when pulls are recorded: that a tag was not pulled before is
	// not known.
	Watched time.Time
}

// Plan says what becomes of each of tags by rules, in their order. The tags of a
// repository stand together. It is a function of what it is given.
func Plan(rules []Rule, now Now, tags []Tag) []Verdict {
	verdicts := make([]Verdict, 0, len(tags))
	for len(tags) > 0 {
		n := 1
		for n < len(tags) && tags[n].Repo == tags[0].Repo {
			n++
		}
		p := newPlanner(rules, now, tags[0].Repo)
		for i := range tags[:n] {
			p.count(&tags[i])
		}
		for _, t := range tags[:n] {
			v := p.judge(t)
			if v.Remove {
				v.hold(t.Immutable, t.Running)
			}
			verdicts = append(verdicts, v)
		}
		tags = tags[n:]
	}
	return verdicts
}

// hold keeps a tag that the rules do not, for what is stronger than they are.
func (v *Verdict) hold(immutable, running bool) {
	switch {
	case immutable:
		v.Remove, v.Immutable, v.By = false, true, ByImmutability
	case running:
		v.Remove, v.Running, v.By = false, true, ByNode
	}
}

// planner applies rules to the tags of a repository: all of them are counted
// first, and then judged one by one. It holds no more of them than the rules count.
type planner struct {
	now   Now
	rules []numbered
}

// numbered is a rule that is about the repository.
type numbered struct {
	*Rule
	number int // from 1
	last   lasts
}

func newPlanner(rules []Rule, now Now, repo string) *planner {
	p := &planner{now: now}
	for i := range rules {
		if rules[i].Repos(repo) {
			p.rules = append(p.rules, numbered{Rule: &rules[i], number: i + 1})
		}
	}
	return p
}

// counts says whether tags have to be counted before they are judged.
func (p *planner) counts() bool {
	for i := range p.rules {
		if p.rules[i].Last > 0 {
			return true
		}
	}
	return false
}

// asksPulls says whether it has to be known when tags were pulled.
func (p *planner) asksPulls() bool {
	for i := range p.rules {
		if p.rules[i].asksPulls() {
			return true
		}
	}
	return false
}

// rule is the rule that decides on a tag, or nil.
func (p *planner) rule(tag string) *numbered {
	for i := range p.rules {
		if r := &p.rules[i]; r.Tags == nil || r.Tags.MatchString(tag) {
			return r
		}
	}
	return nil
}

// count takes a tag into account of which the rules keep the last ones.
func (p *planner) count(t *Tag) {
	r := p.rule(t.Name)
	if r == nil || r.Last == 0 {
		return
	}
	var version *semver.Version
	if r.Order == ByVersion {
		version = tagmatch.Version(t.Name)
	}
	if place, ok := r.place(t, version); ok {
		r.last.add(place, r.Last)
	}
}

// judge says what becomes of a tag by the rules alone.
func (p *planner) judge(t Tag) Verdict {
	r := p.rule(t.Name)
	if r == nil {
		return Verdict{Tag: t, By: ByNoRule}
	}
	by := r.keeps(&t, p.now)
	return Verdict{Tag: t, Remove: by == ByNothing, Rule: r.number, By: by}
}

func (r *numbered) keeps(t *Tag, now Now) Criterion {
	var version *semver.Version
	if r.asksVersion() {
		version = tagmatch.Version(t.Name)
	}
	within := func(at time.Time, d time.Duration) bool { return d > 0 && now.Time.Sub(at) < d }
	place, counted := r.place(t, version)
	switch {
	case r.Last > 0 && counted && r.last.has(place, r.Last):
		return ByLast
	case within(t.Pushed, r.PushedWithin):
		return ByPushed
	case within(t.used(), plus(r.PulledWithin, pullSlack)), within(now.Watched, r.PulledWithin):
		return ByPulled
	case r.Semver != nil && version != nil && r.Semver.Check(version):
		return BySemver
	case r.Matching != nil && r.Matching.MatchString(t.Name):
		return ByMatching
	}
	return ByNothing
}

// plus is a longer time, or 0 if d is.
func plus(d, more time.Duration) time.Duration {
	if d == 0 || d+more < d {
		return d
	}
	return d + more
}

// place is where a tag stands in the rule's order, if it does.
func (r *Rule) place(t *Tag, version *semver.Version) (place, bool) {
	switch r.Order {
	case ByVersion:
		return place{version: version, tag: t.Name}, version != nil
	case ByPull:
		return place{at: t.used(), tag: t.Name}, true
	default:
		return place{at: t.Pushed, tag: t.Name}, true
	}
}

// place is where a tag stands among others. No two of a repository stand at one.
type place struct {
	at      time.Time
	version *semver.Version // in place of at
	tag     string
}

func (a place) compare(b place) int {
	var c int
	if a.version != nil {
		c = a.version.Compare(b.version)
	} else {
		c = a.at.Compare(b.at)
	}
	if c == 0 {
		c = strings.Compare(a.tag, b.tag)
	}
	return c
}

// lasts are the last places of those that were added, the first of them on top.
type lasts []place

// add adds a place, and drops the first if there are more than most then.
func (l *lasts) add(p place, most int) {
	switch {
	case len(*l) < most:
		heap.Push(l, p)
	case p.compare((*l)[0]) > 0:
		(*l)[0] = p
		heap.Fix(l, 0)
	}
}

// has says whether a place is among the last ones, or behind them: that of a tag
// that was pushed since they were counted.
func (l lasts) has(p place, most int) bool { return len(l) < most || p.compare(l[0]) >= 0 }

func (l lasts) Len() int           { return len(l) }
func (l lasts) Less(i, j int) bool { return l[i].compare(l[j]) < 0 }
func (l lasts) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *lasts) Push(x any)        { *l = append(*l, x.(place)) }

// Pop is of heap.Interface; places are replaced, never taken.
func (l *lasts) Pop() any {
	last := len(*l) - 1
	p := (*l)[last]
	*l = (*l)[:last]
	return p
}
