package auth

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/berth-registry/berth/registry"
)

// Authority decides who may do what. Policy and Live are authorities.
type Authority interface {
	// Decide says whether policy lets id do a, one action, to repo; an empty repo
	// stands for the registry as a whole. It does not look at id.Grants.
	Decide(id *Identity, repo string, a Action) Decision
	// Prefixes returns the beginnings of names, in byte order and none a beginning
	// of another, outside of which policy surely does not let id do a: none if it
	// may nowhere, "" if it may do so anywhere. It looks at names only, and not at
	// id.Grants. The caller must not change it.
	Prefixes(id *Identity, a Action) []string
	// Everywhere says that policy surely lets id do a to every repository and the
	// registry as a whole. It does not look at id.Grants.
	Everywhere(id *Identity, a Action) bool
}

// Decision is an answer of an Authority.
type Decision struct {
	Allowed bool
	Rule    int // that decided, from 0; -1 if none matches
}

// none is the decision when no rule matches.
var none = Decision{Rule: -1}

// Rule is a rule of a policy. It applies to an identity, a repository and an
// action if Who, Repos and May or MayNot name them; exactly one of May and MayNot
// is set.
type Rule struct {
	// Who are subjects: "everyone", "anonymous", "authenticated", "user:NAME" or
	// NAME, "group:NAME", "claim:NAME=PATTERN". In the pattern of a claim "*"
	// stands for any characters, "/" included.
	Who    []string
	Repos  []string // patterns, see ValidPattern
	May    Action   // set
	MayNot Action   // set
}

// Policy is a list of rules of which the first that matches decides; if none
// does, the answer is no. It is not changed once it was made. A nil Policy allows
// nothing.
type Policy struct {
	rules []Rule
	index index
	reach reach
}

// NewPolicy checks rules and makes a policy of them. Its error names the rule,
// counted from 1, and what it should be.
func NewPolicy(rules []Rule) (*Policy, error) {
	p := &Policy{rules: slices.Clone(rules)}
	b := builder{policy: p, decided: map[decided]Action{}}
	for i, r := range p.rules {
		who, err := r.check()
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		b.add(i, &r, who)
	}
	p.index.finish()
	p.reach.finish()
	return p, nil
}

// check returns the subjects of a rule that is as it should be.
func (r *Rule) check() ([]subject, error) {
	const all = Pull | Push | Delete | Admin | Fetch
	switch {
	case len(r.Who) == 0:
		return nil, fmt.Errorf("names nobody: want who, a list of %s", subjectForms)
	case len(r.Repos) == 0:
		return nil, fmt.Errorf(`names no repositories: want repos, a list of patterns such as "team/**", or "**" for all`)
	case (r.May == 0) == (r.MayNot == 0):
		return nil, fmt.Errorf("want either may or may_not, a list of pull, push, delete, admin, fetch")
	case (r.May|r.MayNot)&^all != 0:
		return nil, fmt.Errorf("unknown action: want pull, push, delete, admin, fetch")
	}
	for _, pattern := range r.Repos {
		if !ValidPattern(pattern) {
			return nil, fmt.Errorf(`%q is no pattern of repositories: want lower-case components such as "team/**", "team/*" or "**"`, clip(pattern))
		}
	}
	subjects := make([]subject, 0, len(r.Who))
	for _, who := range r.Who {
		s, err := parseSubject(who)
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, s)
	}
	return subjects, nil
}

// Rule returns a rule, counted from 0.
func (p *Policy) Rule(i int) Rule { return p.rules[i] }

// Decide implements Authority. What is no name of a repository, nobody may do
// anything to. It takes a few microseconds, whatever the number of rules.
func (p *Policy) Decide(id *Identity, repo string, a Action) Decision {
	if p == nil || id == nil || bits.OnesCount8(uint8(a)) != 1 {
		return none
	}
	if repo != "" && !registry.ValidRepository(repo) {
		return none
	}
	if e := p.index.first(id, repo, a); e != nil {
		return Decision{e.may, int(e.rule)}
	}
	return none
}

// Prefixes implements Authority.
func (p *Policy) Prefixes(id *Identity, a Action) []string {
	if p == nil || id == nil || bits.OnesCount8(uint8(a)) != 1 {
		return nil
	}
	return p.reach.prefixes(id, a)
}

// Everywhere implements Authority.
func (p *Policy) Everywhere(id *Identity, a Action) bool {
	d := p.Decide(id, "", a)
	return d.Allowed && d.Rule < p.reach.refused(id, a)
}

// builder makes a policy's index.
type builder struct {
	policy  *Policy
	decided map[decided]Action // by earlier rules
}

type decided struct {
	who     subject
	pattern string
}

func (b *builder) add(rule int, r *Rule, who []subject) {
	for _, who := range who {
		for _, pattern := range r.Repos {
			key := decided{who, pattern}
			actions := (r.May | r.MayNot) &^ b.decided[key]
			if actions == 0 {
				continue
			}
			b.decided[key] |= actions
			e := entry{rule: int32(rule), actions: actions, may: r.May != 0, who: who, pattern: pattern}
			b.policy.index.add(e)
			b.policy.reach.add(e)
		}
	}
}
