package auth

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func policy(tb testing.TB, rules ...Rule) *Policy {
	tb.Helper()
	p, err := NewPolicy(rules)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func who(s ...string) []string { return s }

// allow is a rule in few words.
func allow(who, repos string, a Action) Rule {
	return Rule{Who: strings.Fields(who), Repos: strings.Fields(repos), May: a}
}

func forbid(who, repos string, a Action) Rule {
	return Rule{Who: strings.Fields(who), Repos: strings.Fields(repos), MayNot: a}
}

var (
	alice = &Identity{Account: "alice", Groups: []string{"dev", "ops"}}
	bob   = &Identity{Account: "bob"}
	job   = &Identity{Account: "ci/team/web", Claims: map[string]string{"repository": "team/web", "ref": "refs/heads/main"}}
)

func TestDecide(t *testing.T) {
	p := policy(t,
		forbid("bob", "team/secret/**", Pull|Push),
		allow("anonymous", "public/**", Pull),
		allow("authenticated", "public/** shared/*", Pull),
		allow("group:dev", "team/**", Pull|Push),
		allow("claim:repository=team/*", "team/web", Push),
		allow("claim:ref=refs/heads/main", "main/**", Push),
		allow("user:root@example.com", "**", Pull|Push|Delete|Admin),
		allow("bob", "**", Pull),
		forbid("everyone", "attic/**", Pull),
		allow("everyone", "attic/** open", Pull),
	)
	root := &Identity{Account: "root@example.com"}
	for _, tt := range []struct {
		id   *Identity
		repo string
		a    Action
		rule int
		want bool
	}{
		{Anonymous, "public/a", Pull, 1, true},
		{Anonymous, "public/a", Push, -1, false},
		{Anonymous, "shared/a", Pull, -1, false},
		{Anonymous, "open", Pull, 9, true},
		{Anonymous, "", Pull, -1, false},
		{alice, "public/a", Pull, 2, true},
		{alice, "team/web", Push, 3, true},
		{alice, "team/secret/a", Push, 3, true},
		{alice, "team", Push, -1, false},
		{alice, "team/web", Delete, -1, false},
		{alice, "attic/a", Pull, 8, false},
		{bob, "team/secret/a", Pull, 0, false},
		{bob, "team/secret/a", Delete, -1, false},
		{bob, "team/web", Pull, 7, true},
		{bob, "", Pull, 7, true},
		{bob, "attic/a", Pull, 7, true},
		{job, "team/web", Push, 4, true},
		{job, "team/api", Push, -1, false},
		{job, "main/x", Push, 5, true},
		{root, "", Admin, 6, true},
		{root, "any/thing", Delete, 6, true},
		{root, "team/../x", Delete, -1, false},
		{root, "UPPER", Delete, -1, false},
		{root, strings.Repeat("a", 10<<10), Delete, -1, false},
		{root, "a", Pull | Push, -1, false},
		{root, "a", 0, -1, false},
		{nil, "open", Pull, -1, false},
		// Groups and claims of somebody who has not signed in vouch for nothing.
		{&Identity{Groups: []string{"dev"}, Claims: job.Claims}, "team/web", Push, -1, false},
	} {
		if got := p.Decide(tt.id, tt.repo, tt.a); got != (Decision{tt.want, tt.rule}) {
			t.Errorf("%+v %s %q: got %+v, want %v by rule %d", tt.id, tt.a, tt.repo, got, tt.want, tt.rule)
		}
	}
	if got := p.Rule(7); got.May != Pull || got.Who[0] != "bob" {
		t.Errorf("rule 7 is %v", got)
	}
	if d := (*Policy)(nil).Decide(root, "a", Pull); d.Allowed || d.Rule != -1 {
		t.Errorf("no policy: %+v", d)
	}
}

func TestEverywhere(t *testing.T) {
	p := policy(t,
		forbid("bob", "team/secret/**", Pull),
		allow("user:bob user:carol", "**", Pull),
		forbid("carol", "x/**", Pull),
		allow("group:dev", "team/**", Pull),
	)
	for id, want := range map[*Identity]bool{
		bob: false, {Account: "carol"}: true, alice: false, Anonymous: false,
		{Account: "carol", Groups: []string{"dev"}}: true,
	} {
		if got := p.Everywhere(id, Pull); got != want {
			t.Errorf("%+v: %v, want %v", id, got, want)
		}
	}
	if p.Everywhere(&Identity{Account: "carol"}, Push) || p.Everywhere(nil, Pull) || (*Policy)(nil).Everywhere(bob, Pull) {
		t.Error("allowed everywhere what is allowed nowhere")
	}
}

func TestInvalidRules(t *testing.T) {
	for _, tt := range []struct {
		rule Rule
		want string
	}{
		{Rule{}, "names nobody"},
		{Rule{Who: who("bob"), May: Pull}, "names no repositories"},
		{allow("bob", "a", 0), "either may or may_not"},
		{Rule{Who: who("bob"), Repos: who("a"), May: Pull, MayNot: Push}, "either may or may_not"},
		{allow("bob", "a", 1<<6), "unknown action"},
		{allow("bob", "Team/**", Pull), `"Team/**" is no pattern`},
		{allow("bob", "a/***", Pull), "is no pattern"},
		{allow("bob", "a "+strings.Repeat("a", 10<<10), Pull), "is no pattern"},
		{allow("groups:dev", "a", Pull), "want one of everyone"},
		{allow("Everyone", "a", Pull), `want "everyone", or "user:Everyone"`},
		{allow("user:", "a", Pull), "want a name"},
		{allow("user:*", "a", Pull), "authenticated"},
		{allow("*", "a", Pull), "authenticated"},
		{allow("group:", "a", Pull), "want a name"},
		{Rule{Who: who(""), Repos: who("a"), May: Pull}, "want a name"},
		{Rule{Who: who("bob "), Repos: who("a"), May: Pull}, "want a name"},
		{Rule{Who: who("bob\x00"), Repos: who("a"), May: Pull}, "want a name"},
		{Rule{Who: who("b\xffb"), Repos: who("a"), May: Pull}, "want a name"},
		{allow("claim:sub", "a", Pull), "claim:NAME=PATTERN"},
		{allow("claim:=x", "a", Pull), "claim:NAME=PATTERN"},
		{allow("claim:sub=", "a", Pull), "claim:NAME=PATTERN"},
	} {
		_, err := NewPolicy([]Rule{allow("bob", "a", Pull), tt.rule})
		if err == nil || !strings.HasPrefix(err.Error(), "rule 2: ") || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 400 {
			t.Errorf("%v: got error %v, want rule 2 and %q", tt.rule, err, tt.want)
		}
	}
}

// What a rule is printed as, YAML reads back.
func TestRuleString(t *testing.T) {
	r := allow("anonymous group:dev user:a@b.c", "public/** a", Pull|Push)
	if got, want := r.String(), `{who: [anonymous, group:dev, user:a@b.c], repos: ["public/**", a], may: [pull, push]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	odd := Rule{
		Who:    []string{"no", "12", "claim:sub=repo:org/x:ref", "group:a b, c", "user:x: y", `group:"q"\`, "group:ünï#1", "null", "user:Ā\u200b"},
		Repos:  []string{"**", "*", "1e3", "0x1"},
		MayNot: Delete,
	}
	var read struct {
		Who, Repos []string
		MayNot     []string `yaml:"may_not"`
	}
	if err := yaml.Unmarshal([]byte(odd.String()), &read); err != nil {
		t.Fatalf("%s: %v", odd, err)
	}
	if !slices.Equal(read.Who, odd.Who) || !slices.Equal(read.Repos, odd.Repos) || !slices.Equal(read.MayNot, who("delete")) {
		t.Errorf("%s is read as %+v", odd, read)
	}
}

func TestGrants(t *testing.T) {
	p := policy(t, allow("authenticated", "team/**", Pull|Push))
	grants := []Grant{{"team/web", Pull}, {"team/*", Push}, {"BAD", Pull}}
	for _, tt := range []struct {
		id   Identity
		repo string
		a    Action
		want bool
	}{
		{Identity{Account: "a"}, "team/web", Pull, true},
		{Identity{Account: "a", Grants: grants}, "team/web", Pull, true},
		{Identity{Account: "a", Grants: grants}, "team/web", Push, true},
		{Identity{Account: "a", Grants: grants}, "team/api", Pull, false},
		{Identity{Account: "a", Grants: grants}, "other", Pull, false},
		{Identity{Account: "a", Grants: []Grant{}}, "team/web", Pull, false},
		{Identity{Account: "a", Grants: []Grant{{"**", Pull}}}, "other", Pull, false},
		{Identity{Account: "a", Grants: []Grant{{"**", Pull}}, Final: true}, "other", Pull, true},
		{Identity{Account: "a", Grants: grants, Final: true}, "team/api", Pull, false},
		{Identity{Account: "a", Final: true}, "team/web", Pull, false},
		{Identity{Account: "a", Grants: []Grant{{"**", Admin}}, Final: true}, "", Admin, true},
		{Identity{Account: "a", Grants: []Grant{{"*", Admin}}, Final: true}, "", Admin, false},
	} {
		if got := Allowed(p, &tt.id, tt.repo, tt.a); got != tt.want {
			t.Errorf("%+v %s %q: %v, want %v", tt.id, tt.a, tt.repo, got, tt.want)
		}
	}
	if Allowed(p, nil, "team/web", Pull) {
		t.Error("nobody may pull")
	}
	if !Covers(grants, "team/web", Pull|Push) || Covers(grants, "team/api", Pull|Push) || Covers(grants, "team/web", 0) {
		t.Error("sets of actions are not covered one by one")
	}
}

func TestLive(t *testing.T) {
	var none Live
	if none.Decide(alice, "a", Pull).Allowed || none.Everywhere(alice, Pull) || len(none.Prefixes(alice, Pull)) > 0 {
		t.Error("without a policy something is allowed")
	}
	l := NewLive(policy(t, allow("alice", "a", Pull)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 {
			l.Set(policy(t, allow("alice", "b", Pull)))
		}
	}()
	for range 1000 {
		l.Decide(alice, "a", Pull)
		l.Prefixes(alice, Pull)
	}
	<-done
	if l.Decide(alice, "a", Pull).Allowed || !l.Decide(alice, "b", Pull).Allowed || l.Prefixes(alice, Pull)[0] != "b" {
		t.Error("the policy that was set last is not in force")
	}
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }

// random makes rules and questions that have a good chance to meet.
type random struct{ *rand.Rand }

func (r random) of(s ...string) string { return s[r.IntN(len(s))] }

func (r random) pattern() string {
	for {
		n := 1 + r.IntN(4)
		parts := make([]string, n)
		for i := range parts {
			parts[i] = r.of("a", "b", "ab", "ba", "aab", "**", "*", "a*", "*b", "a*b", "*a*")
		}
		if p := strings.Join(parts, "/"); ValidPattern(p) {
			return p
		}
	}
}

func (r random) repo() string {
	parts := make([]string, 1+r.IntN(4))
	for i := range parts {
		parts[i] = r.of("a", "b", "ab", "ba", "aab", "abab")
	}
	return strings.Join(parts, "/")
}

func (r random) rule() Rule {
	rule := Rule{}
	for range 1 + r.IntN(3) {
		rule.Who = append(rule.Who, r.of("everyone", "anonymous", "authenticated", "user:u", "v", "group:g", "group:h", "claim:c=xy", "claim:c=x*", "claim:d=*", "claim:d=y"))
		rule.Repos = append(rule.Repos, r.pattern())
	}
	if a := Action(1 + r.IntN(15)); r.IntN(3) > 0 {
		rule.May = a
	} else {
		rule.MayNot = a
	}
	return rule
}

func (r random) identity() *Identity {
	if r.IntN(5) == 0 {
		return Anonymous
	}
	id := &Identity{Account: r.of("u", "v", "w")}
	for _, g := range []string{"g", "h", "i"} {
		if r.IntN(2) == 0 {
			id.Groups = append(id.Groups, g)
		}
	}
	if r.IntN(2) == 0 {
		id.Claims = map[string]string{"c": r.of("x", "xy", "y"), r.of("d", "e"): r.of("", "y", "yz")}
	}
	return id
}

// naive decides as the documentation says, rule by rule.
func naive(rules []Rule, id *Identity, repo string, a Action) Decision {
	for i, r := range rules {
		if (r.May|r.MayNot)&a == 0 || !slices.ContainsFunc(r.Repos, func(p string) bool { return Match(p, repo) }) {
			continue
		}
		if slices.ContainsFunc(r.Who, func(w string) bool { s, _ := parseSubject(w); return s.is(id) }) {
			return Decision{r.May&a != 0, i}
		}
	}
	return Decision{Rule: -1}
}

// The index decides as rule by rule does, and what it says of the reach of rules
// holds.
func TestDecideAsRuleByRule(t *testing.T) {
	for seed := range uint64(400) {
		r := random{newRand(seed)}
		rules := make([]Rule, 1+r.IntN(80))
		for i := range rules {
			rules[i] = r.rule()
		}
		p := policy(t, rules...)
		for range 100 {
			id, repo, a := r.identity(), r.repo(), Action(1<<r.IntN(4))
			if r.IntN(10) == 0 {
				repo = ""
			}
			got, want := p.Decide(id, repo, a), naive(rules, id, repo, a)
			if got != want {
				t.Fatalf("seed %d: %+v %s %q: got %+v, rule by rule %+v", seed, id, a, repo, got, want)
			}
			prefixes := p.Prefixes(id, a)
			if !slices.IsSorted(prefixes) || len(slices.Compact(slices.Clone(prefixes))) != len(prefixes) {
				t.Fatalf("seed %d: prefixes %q", seed, prefixes)
			}
			if want.Allowed && !hasPrefix(prefixes, repo) {
				t.Fatalf("seed %d: %+v may %s %q, which has none of the prefixes %q", seed, id, a, repo, prefixes)
			}
			if !want.Allowed && p.Everywhere(id, a) {
				t.Fatalf("seed %d: %+v may not %s %q, but everywhere", seed, id, a, repo)
			}
		}
	}
}

// teams is a policy of n rules of a large installation.
func teams(tb testing.TB, n int) *Policy {
	rules := []Rule{
		forbid("everyone", "**/attic/**", Push),
		allow("group:auditors", "**", Pull),
		allow("claim:sub=repo:org/*", "ci/**", Push),
	}
	for i := len(rules); i < n; i++ {
		team := fmt.Sprintf("team-%d", i)
		switch i % 5 {
		case 0:
			rules = append(rules, allow("group:"+team, team+"/**", Pull|Push|Delete))
		case 1:
			rules = append(rules, allow("user:"+team+" group:"+team, team+"/web "+team+"/*-test", Pull|Push))
		case 2:
			rules = append(rules, allow("claim:repo="+team+"/*", team+"/ci/**", Push))
		case 3:
			rules = append(rules, allow("user:"+team, "**", Pull))
		default:
			rules = append(rules, allow("authenticated", "**/"+team, Pull))
		}
	}
	return policy(tb, rules...)
}

func BenchmarkDecide(b *testing.B) {
	p := teams(b, 10000)
	groups := make([]string, 200)
	for i := range groups {
		groups[i] = fmt.Sprintf("group-%d", i)
	}
	id := &Identity{Account: "someone", Groups: append(groups, "team-9995"), Claims: map[string]string{"repo": "team-7/x", "sub": "repo:org/x", "ref": "main"}}
	for _, tt := range []struct {
		name, repo string
		want       bool
	}{{"Allowed", "team-9995/web/api", true}, {"Refused", "team-42/some/where", false}, {"Long", strings.Repeat("team/", 50) + "x", false}} {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if p.Decide(id, tt.repo, Pull).Allowed != tt.want {
					b.Fatal("wrong")
				}
			}
		})
	}
}

func BenchmarkPrefixes(b *testing.B) {
	p := teams(b, 10000)
	id := &Identity{Account: "team-6", Groups: []string{"team-9995", "team-5", "team-10"}}
	for b.Loop() {
		p.Prefixes(id, Pull)
	}
}

// A decision allocates nothing: it is made for each request.
func TestDecideDoesNotAllocate(t *testing.T) {
	p := teams(t, 1000)
	if n := testing.AllocsPerRun(100, func() { p.Decide(alice, "team-5/web/api", Pull) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
