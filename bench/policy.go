package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/berth-registry/berth/auth"
)

const (
	policyRules = 10_000
	rulesOfTeam = 4 // for each
	policyTeams = (policyRules - 4) / rulesOfTeam
	questions   = 1000 // of each kind
)

// policyOf returns the rules of a registry of many teams.
func policyOf(teams int) []auth.Rule {
	const all = auth.Pull | auth.Push | auth.Delete | auth.Admin
	rules := []auth.Rule{
		{Who: []string{"user:mallory"}, Repos: []string{"**"}, MayNot: all},
		{Who: []string{"everyone"}, Repos: []string{"public/**"}, May: auth.Pull},
	}
	for i := range teams {
		name, repos := team(i), []string{team(i) + "/**"}
		rules = append(rules,
			auth.Rule{Who: []string{"group:" + name}, Repos: repos, May: auth.Pull | auth.Push},
			auth.Rule{Who: []string{"user:ci-" + name}, Repos: repos, May: auth.Pull | auth.Push | auth.Delete},
			auth.Rule{Who: []string{"claim:repository=" + name + "/*"}, Repos: repos, May: auth.Pull | auth.Push},
			auth.Rule{Who: []string{"authenticated"}, Repos: []string{name + "/shared/*"}, May: auth.Pull})
	}
	return append(rules,
		auth.Rule{Who: []string{"group:auditors"}, Repos: []string{"**"}, May: auth.Pull},
		auth.Rule{Who: []string{"user:root", "group:operators"}, Repos: []string{"**"}, May: all})
}

func team(i int) string { return fmt.Sprintf("team-%04d", i) }

// asker makes somebody who may push to the repositories of a team.
type asker struct {
	of  string
	who func(i int) *auth.Identity
}

// askers are the kinds of somebody. Of several groups half are teams with rules of
// their own, and half are only the directory's.
var askers = []asker{
	{"in no group", func(i int) *auth.Identity { return &auth.Identity{Account: "ci-" + team(i)} }},
	{"in 5 groups", func(i int) *auth.Identity { return member(i, 5) }},
	{"in 50 groups", func(i int) *auth.Identity { return member(i, 50) }},
	{"with 20 claims", job},
}

func member(i, groups int) *auth.Identity {
	id := &auth.Identity{Account: fmt.Sprintf("person-%d", i)}
	for n := 1; n < groups; n++ {
		name := fmt.Sprintf("department-%d", n)
		if n%2 == 0 {
			name = team((i + n) % policyTeams)
		}
		id.Groups = append(id.Groups, name)
	}
	id.Groups = append(id.Groups, team(i))
	return id
}

// job has the claims of a job of a forge.
func job(i int) *auth.Identity {
	id := &auth.Identity{Account: "forge/job", Claims: map[string]string{"repository": team(i) + "/app"}}
	for n := len(id.Claims); n < 20; n++ {
		id.Claims[fmt.Sprintf("claim_%d", n)] = fmt.Sprintf("value %d of job %d", n, i)
	}
	return id
}

// question is what a policy is asked: whether somebody may push.
type question struct {
	id   *auth.Identity
	repo string
}

// kind is a kind of questions, with one answer.
type kind struct {
	of      string
	allowed bool
	ask     []question
}

// kinds returns questions that one of the first rules decides, or one of the last
// ones, or none of them, by each kind of somebody.
func kinds() (all []kind) {
	const part, apart = policyTeams / 20, policyTeams / 2
	for _, a := range askers {
		for _, where := range []struct {
			of      string
			allowed bool
			from    int // the first of the teams
			ahead   int // of the team of who asks is the one whose repository it is
		}{{"an early rule", true, 0, 0}, {"a late rule", true, policyTeams - part, 0}, {"no rule", false, 0, apart}} {
			k := kind{of: a.of + ", " + where.of, allowed: where.allowed}
			for n := range questions {
				i := where.from + rand.IntN(part)
				k.ask = append(k.ask, question{a.who(i), fmt.Sprintf("%s/app-%d", team(i+where.ahead), n)})
			}
			all = append(all, k)
		}
	}
	return all
}

// decisions measures how long a policy of many rules takes to decide, here in this
// process, for somebody in few and in many groups, by rules that come early or
// late, or by none.
func decisions(ctx context.Context, b *bench) ([]*figure, error) {
	policy, err := auth.NewPolicy(policyOf(policyTeams))
	if err != nil {
		return nil, err
	}
	f := &figure{Name: fmt.Sprintf("a decision by %s rules", thousands(policyRules)), Unit: "µs"}
	var turns []turn
	kinds := kinds()
	for _, k := range kinds {
		measure := func() (float64, error) { return b.decide(policy, k) }
		if _, err := measure(); err != nil { // warms up
			return nil, err
		}
		turns = append(turns, turn{k.of, nil, measure})
	}
	if err := b.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	slices.SortFunc(f.Series, func(a, b series) int { return int(1e6 * (b.Median - a.Median)) })
	f.value(f.Series[0].Of, atMost(20)) // the slowest
	f.value(f.Series[len(f.Series)/2].Of, atMost(20))
	return []*figure{f}, nil
}

// decide has a policy answer the questions of a kind, and again, and returns how
// long one of them took, in µs.
func (b *bench) decide(policy *auth.Policy, k kind) (float64, error) {
	took := make([]time.Duration, b.repeats)
	for i := range took {
		start := time.Now()
		for _, q := range k.ask {
			if d := policy.Decide(q.id, q.repo, auth.Push); d.Allowed != k.allowed {
				return 0, fmt.Errorf("%s: rule %d answers %v", k.of, d.Rule+1, d.Allowed)
			}
		}
		took[i] = time.Since(start)
	}
	return microseconds(quantile(took, 0.5)) / float64(len(k.ask)), nil
}
