package retention_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/retention"
)

var start = time.Unix(1_700_000_000, 0).UTC()

const day = 24 * time.Hour

func everywhere(string) bool { return true }

func in(prefix string) func(string) bool {
	return func(repo string) bool { return strings.HasPrefix(repo, prefix) }
}

func rule(t testing.TB, s retention.Spec) retention.Rule {
	t.Helper()
	if s.Repos == nil {
		s.Repos = everywhere
	}
	r, err := retention.NewRule(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tag is a tag that was pushed, and pulled, so many days ago; pulled < 0 is never.
func tag(name string, pushed, pulled float64) retention.Tag {
	at := func(days float64) time.Time { return start.Add(-time.Duration(days * float64(day))) }
	t := retention.Tag{Repo: "r", Name: name, Digest: digest.FromString(name), Pushed: at(pushed)}
	if pulled >= 0 {
		t.Pulled = at(pulled)
	}
	return t
}

// kept writes what is kept, and by what.
func kept(verdicts []retention.Verdict) string {
	var out []string
	for _, v := range verdicts {
		if !v.Remove {
			out = append(out, fmt.Sprintf("%s:%s/%d", v.Name, v.By, v.Rule))
		}
	}
	return strings.Join(out, " ")
}

func TestPlan(t *testing.T) {
	old := []retention.Tag{tag("a", 40, -1), tag("b", 30, -1), tag("c", 20, 1), tag("d", 10, -1)}
	versions := []retention.Tag{
		tag("1.2", 100, -1), tag("20250101", 100, -1), tag("latest", 100, -1), tag("v1.0.0", 1, -1), tag("1.10.0", 90, -1),
		tag("1.9.0", 2, -1), tag("2.0.0-rc.1", 3, -1), tag("1.0.0_build.5", 4, -1), tag("01.0.0", 5, -1), tag("v1.0", 6, -1),
	}
	same := []retention.Tag{tag("x", 1, -1), tag("z", 1, -1), tag("y", 1, -1)}
	immutable, running := tag("im", 100, -1), tag("run", 100, -1)
	immutable.Immutable, running.Running = true, true
	for name, c := range map[string]struct {
		rules []retention.Spec
		tags  []retention.Tag
		want  string
	}{
		"no rules":            {nil, old, "a:no rule/0 b:no rule/0 c:no rule/0 d:no rule/0"},
		"other repository":    {[]retention.Spec{{Repos: in("other"), Last: 1}}, old, "a:no rule/0 b:no rule/0 c:no rule/0 d:no rule/0"},
		"last by push":        {[]retention.Spec{{Last: 2}}, old, "c:last/1 d:last/1"},
		"last by pull":        {[]retention.Spec{{Last: 1, Order: "pull"}}, old, "c:last/1"},
		"last two by pull":    {[]retention.Spec{{Last: 2, Order: "pull"}}, old, "c:last/1 d:last/1"},
		"more than there are": {[]retention.Spec{{Last: 9}}, old, "a:last/1 b:last/1 c:last/1 d:last/1"},
		"pushed":              {[]retention.Spec{{PushedWithin: 15 * day}}, old, "d:pushed_within/1"},
		"pushed, to the tick": {[]retention.Spec{{PushedWithin: 10 * day}}, old, ""},
		"pulled":              {[]retention.Spec{{PulledWithin: 2 * day}}, old, "c:pulled_within/1"},
		"pulled, an hour's grace": {
			[]retention.Spec{{PulledWithin: day}}, old, "c:pulled_within/1",
		},
		"pushed counts as pulled": {[]retention.Spec{{PulledWithin: 11 * day}}, old, "c:pulled_within/1 d:pulled_within/1"},
		"any criterion":           {[]retention.Spec{{Last: 1, Matching: "a|b.*"}}, old, "a:matching/1 b:matching/1 d:last/1"},
		"the whole tag":           {[]retention.Spec{{Matching: "l"}, {Matching: "x"}}, versions, ""},
		"the first rule decides":  {[]retention.Spec{{Tags: "a|b", Matching: "b"}, {Matching: "a|c"}}, old, "b:matching/1 c:matching/2"},
		"last counts only the rule's own": {
			[]retention.Spec{{Tags: "c|d", Last: 1}, {Last: 1}}, old, "b:last/2 d:last/1",
		},
		"range":              {[]retention.Spec{{Semver: ">=1.0.0"}}, versions, "v1.0.0:semver/1 1.10.0:semver/1 1.9.0:semver/1 1.0.0_build.5:semver/1"},
		"range, pre-release": {[]retention.Spec{{Semver: ">=1.10.0-0"}}, versions, "1.10.0:semver/1 2.0.0-rc.1:semver/1"},
		"last versions":      {[]retention.Spec{{Last: 2, Order: "semver"}}, versions, "1.10.0:last/1 2.0.0-rc.1:last/1"},
		"more versions than there are": {
			[]retention.Spec{{Last: 20, Order: "semver"}},
			versions,
			"v1.0.0:last/1 1.10.0:last/1 1.9.0:last/1 2.0.0-rc.1:last/1 1.0.0_build.5:last/1",
		},
		"same time": {[]retention.Spec{{Last: 2}}, same, "z:last/1 y:last/1"},
		"what is stronger": {
			[]retention.Spec{{Last: 1}},
			[]retention.Tag{immutable, running, tag("x", 1, -1)},
			"im:immutable/1 run:running/1 x:last/1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var rules []retention.Rule
			for _, s := range c.rules {
				rules = append(rules, rule(t, s))
			}
			now := retention.Now{Time: start, Watched: start.Add(-1000 * day)}
			if got := kept(retention.Plan(rules, now, c.tags)); got != c.want {
				t.Errorf("kept %s\nwant %s", got, c.want)
			}
		})
	}
}

// Nothing counts as not pulled for longer than anybody has watched.
func TestWatchedLately(t *testing.T) {
	rules := []retention.Rule{rule(t, retention.Spec{PulledWithin: 30 * day})}
	tags := []retention.Tag{tag("a", 400, -1), tag("b", 400, 31), tag("c", 400, 3)}
	for days, want := range map[int]string{
		1:  "a:pulled_within/1 b:pulled_within/1 c:pulled_within/1",
		29: "a:pulled_within/1 b:pulled_within/1 c:pulled_within/1",
		31: "c:pulled_within/1",
	} {
		now := retention.Now{Time: start, Watched: start.Add(-time.Duration(days) * day)}
		if got := kept(retention.Plan(rules, now, tags)); got != want {
			t.Errorf("watched for %d days: kept %s, want %s", days, got, want)
		}
	}
}

// Each repository is counted alone.
func TestPlanRepositories(t *testing.T) {
	rules := []retention.Rule{rule(t, retention.Spec{Repos: in("team/"), Last: 1})}
	var tags []retention.Tag
	for _, repo := range []string{"other", "team/a", "team/b"} {
		for i := range 3 {
			tg := tag(fmt.Sprint(i), float64(i), -1)
			tg.Repo = repo
			tags = append(tags, tg)
		}
	}
	var got []string
	for _, v := range retention.Plan(rules, retention.Now{Time: start}, tags) {
		if v.Remove {
			got = append(got, v.Repo+":"+v.Name)
		}
	}
	if want := []string{"team/a:1", "team/a:2", "team/b:1", "team/b:2"}; !slices.Equal(got, want) {
		t.Errorf("removed %v, want %v", got, want)
	}
}

func TestNewRule(t *testing.T) {
	for want, s := range map[string]retention.Spec{
		"it keeps nothing":              {Repos: everywhere, Tags: "a"},
		"no repositories":               {Last: 1},
		"order:":                        {Repos: everywhere, Last: 1, Order: "size"},
		"tags: error parsing":           {Repos: everywhere, Last: 1, Tags: "("},
		"matching: error parsing":       {Repos: everywhere, Matching: "a)(b"},
		`semver: "1.x.y.z" is no range`: {Repos: everywhere, Semver: "1.x.y.z"},
		`semver: "latest" is no range`:  {Repos: everywhere, Semver: "latest"},
		"the range is too long":         {Repos: everywhere, Semver: strings.Repeat(">=1.0.0 ", 1000)},
		"negative":                      {Repos: everywhere, Last: -1},
	} {
		if _, err := retention.NewRule(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", s, err, want)
		}
	}
}

// naive says whether a rule keeps a tag, read from its description word by word.
func naive(s retention.Spec, t retention.Tag, mine []retention.Tag, now time.Time) bool {
	used := func(t retention.Tag) time.Time {
		if t.Pulled.After(t.Pushed) {
			return t.Pulled
		}
		return t.Pushed
	}
	if s.PushedWithin > 0 && now.Sub(t.Pushed) < s.PushedWithin || s.PulledWithin > 0 && now.Sub(used(t)) < s.PulledWithin+time.Hour {
		return true
	}
	if s.Matching != "" && strings.HasPrefix(t.Name, strings.TrimSuffix(s.Matching, ".*")) {
		return true
	}
	later := 0
	for _, o := range mine {
		a, b := t.Pushed, o.Pushed
		if s.Order == "pull" {
			a, b = used(t), used(o)
		}
		if b.After(a) || b.Equal(a) && o.Name > t.Name {
			later++
		}
	}
	return later < s.Last
}

// Random rules over random tags: what is removed is what a reading of the rules
// word by word removes, the order of tags is of no account, and asking about what is
// left removes nothing more.
func TestPlanProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano()%1000)))
	now := retention.Now{Time: start, Watched: start.Add(-1000 * day)}
	for range 1000 {
		var specs []retention.Spec
		var rules []retention.Rule
		for range 1 + rng.IntN(3) {
			s := retention.Spec{
				Repos: everywhere, Tags: []string{"", "a.*", "b.*"}[rng.IntN(3)], Last: rng.IntN(4), Order: []string{"push", "pull"}[rng.IntN(2)],
				PushedWithin: time.Duration(rng.IntN(4)) * day, PulledWithin: time.Duration(rng.IntN(4)) * day,
				Matching: []string{"", "", "a1.*"}[rng.IntN(3)],
			}
			if s.Last == 0 && s.PushedWithin == 0 && s.PulledWithin == 0 {
				s.Last = 1
			}
			specs, rules = append(specs, s), append(rules, rule(t, s))
		}
		var tags []retention.Tag
		for i := range rng.IntN(12) {
			tags = append(tags, tag(fmt.Sprintf("%c%d", 'a'+rng.IntN(3), i), float64(rng.IntN(6)), float64(rng.IntN(8)-1)))
		}
		mine := make([][]retention.Tag, len(specs))
		decides := func(name string) int {
			return slices.IndexFunc(specs, func(s retention.Spec) bool {
				return s.Tags == "" || name[0] == s.Tags[0]
			})
		}
		for _, tg := range tags {
			if i := decides(tg.Name); i >= 0 {
				mine[i] = append(mine[i], tg)
			}
		}
		verdicts := retention.Plan(rules, now, tags)
		var left []retention.Tag
		for i, v := range verdicts {
			r := decides(v.Name)
			if v.Rule != r+1 || v.Tag != tags[i] {
				t.Fatalf("%+v: rule %d, want %d", v, v.Rule, r+1)
			}
			if want := r >= 0 && !naive(specs[r], v.Tag, mine[r], start); v.Remove != want {
				t.Fatalf("%+v by %+v of %+v: removed %v, want %v", v, specs[r], mine[r], v.Remove, want)
			}
			if v.Remove == (v.By != retention.ByNothing) {
				t.Fatalf("%+v: removed and kept", v)
			}
			if !v.Remove {
				left = append(left, v.Tag)
			}
		}
		for _, v := range retention.Plan(rules, now, left) {
			if v.Remove {
				t.Fatalf("a second plan removes %+v", v)
			}
		}
		rng.Shuffle(len(tags), func(i, j int) { tags[i], tags[j] = tags[j], tags[i] })
		again := retention.Plan(rules, now, tags)
		slices.SortFunc(verdicts, byName)
		slices.SortFunc(again, byName)
		if !slices.Equal(verdicts, again) {
			t.Fatalf("the order of tags counts: %+v, %+v", verdicts, again)
		}
	}
}

func byName(a, b retention.Verdict) int { return strings.Compare(a.Name, b.Name) }

// Whatever the range and the tags, a plan is made, and the same one each time.
func FuzzVersions(f *testing.F) {
	for _, s := range []string{">=1.0.0", "^1.2 || ~2", "1.x", "", "*", ">=1.0.0-0 <2", "=>1", "!=1.2.3, <3", "1 - 2", "\x00", "v1.2.3", ">99999999999999999999"} {
		f.Add(s, "v1.2.3", "1.2.3_x")
	}
	f.Fuzz(func(t *testing.T, versions, a, b string) {
		s := retention.Spec{Repos: everywhere, Last: 1, Order: "semver", Semver: versions}
		r, err := retention.NewRule(s)
		if err != nil {
			return
		}
		tags := []retention.Tag{tag(a, 1, -1), tag(b, 1, -1)}
		if a == b {
			tags = tags[:1]
		}
		first := retention.Plan([]retention.Rule{r}, retention.Now{Time: start}, tags)
		slices.Reverse(tags)
		second := retention.Plan([]retention.Rule{r}, retention.Now{Time: start}, tags)
		slices.Reverse(second)
		if !slices.Equal(first, second) {
			t.Errorf("%+v, then %+v", first, second)
		}
	})
}
