package mirroring

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// job is a job of a Spec, with what it does not say.
func job(t testing.TB, s Spec) Job {
	t.Helper()
	if s.Name == "" {
		s.Name = "job"
	}
	if s.Mirror == "" {
		s.Mirror = "hub"
	}
	if s.Repos == nil {
		s.Repos = []string{"app"}
	}
	j, err := NewJob(s)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestNewJob(t *testing.T) {
	good := Spec{Name: "nightly", Mirror: "hub", Repos: []string{"library/nginx", "team/**"}, Tags: []string{"latest", "1.*"}}
	for what, change := range map[string]func(*Spec){
		`name: ""`:                      func(s *Spec) { s.Name = "" },
		`name: "a b"`:                   func(s *Spec) { s.Name = "a b" },
		`name: "a/b"`:                   func(s *Spec) { s.Name = "a/b" },
		`name: ".."`:                    func(s *Spec) { s.Name = ".." },
		"mirror: ":                      func(s *Spec) { s.Mirror = "" },
		`prefix: "UP"`:                  func(s *Spec) { s.Prefix = "UP" },
		"repos: say":                    func(s *Spec) { s.Repos = nil },
		`repos: "A"`:                    func(s *Spec) { s.Repos = []string{"A"} },
		`repos: "a/../b"`:               func(s *Spec) { s.Repos = []string{"a/../b"} },
		"too long":                      func(s *Spec) { s.Prefix, s.Repos = "hub", []string{strings.Repeat("a", 254)} },
		`tags: "a b"`:                   func(s *Spec) { s.Tags = []string{"a b"} },
		`tags: ""`:                      func(s *Spec) { s.Tags = []string{""} },
		`exclude: "a:b"`:                func(s *Spec) { s.Exclude = []string{"a:b"} },
		"match: ":                       func(s *Spec) { s.Match = "(" },
		"semver: ":                      func(s *Spec) { s.Semver = "newest" },
		"latest: ":                      func(s *Spec) { s.Latest = -1 },
		"selects no tags":               func(s *Spec) { s.Tags = nil },
		`platforms: "linux"`:            func(s *Spec) { s.Platforms = []string{"linux"} },
		`platforms: "linux/arm/v7/x"`:   func(s *Spec) { s.Platforms = []string{"linux/arm/v7/x"} },
		"jobs: ":                        func(s *Spec) { s.Jobs = 1000 },
		"rate: ":                        func(s *Spec) { s.Rate = -1 },
		"every: 1s is less than 1m0s":   func(s *Spec) { s.Every = time.Second },
		"cron: ":                        func(s *Spec) { s.Cron = "daily" },
		"repos: say which repositories": func(s *Spec) { s.Repos = []string{} },
	} {
		s := good
		change(&s)
		if _, err := NewJob(s); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("error %v, want one that says %q", err, what)
		}
	}
	if j, err := NewJob(good); err != nil || j.Jobs != defaultJobs {
		t.Errorf("a good job: %+v, %v", j, err)
	}
	bad := good
	bad.Name, bad.Semver, bad.Rate = "", "x y", -1
	if _, err := NewJob(bad); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("error %v, want all three that are wrong", err)
	}
}

func FuzzNewJob(f *testing.F) {
	f.Add("nightly", "hub", "team/**", "1.*", "v[0-9]+", ">=1.2 <2", "linux/arm64/v8", "30 3 * * mon-fri", "Europe/Paris")
	f.Add("a", "b", "c", "", "", "", "", "TZ=UTC 4 * * *", "")
	f.Add("a", "b", "c", "*", "(", "||", "linux", "*/9999999999 , ? 1-0/3 7", "Local")
	f.Fuzz(func(t *testing.T, name, prefix, repo, tag, match, semver, platform, cron, zone string) {
		s := Spec{Name: name, Mirror: "hub", Prefix: prefix, Repos: []string{repo}, Match: match, Semver: semver, Cron: cron, TimeZone: zone}
		if tag != "" {
			s.Tags = []string{tag}
		}
		if platform != "" {
			s.Platforms = []string{platform}
		}
		j, err := NewJob(s)
		if err != nil {
			return
		}
		j.Select([]string{"1.2.3", "v1", tag, "latest"})
		at := time.Date(2026, 3, 28, 23, 59, 0, 0, time.UTC)
		for range 3 {
			next := j.schedule.next(at)
			if cron != "" && !next.After(at) {
				t.Fatalf("%q %q: after %s comes %s", cron, zone, at, next)
			}
			at = next
		}
	})
}

func TestSelect(t *testing.T) {
	tags := []string{
		"1.9.0", "1.10.0", "1.10.1", "v1.10.1", "1.11.0-rc.1", "1.11.0", "2.0.0", "2.1.0_b1", "2.1.0-alpine", "1.2", "latest", "edge",
		"20250101", "bad tag", "..", "sha256-" + strings.Repeat("a", 64) + ".sig", "sha256-" + strings.Repeat("a", 64),
	}
	for _, tt := range []struct {
		spec Spec
		want string
	}{
		{Spec{Tags: []string{"latest", "nope"}}, "latest"},
		{Spec{Tags: []string{"1.1*"}}, "1.10.0 1.10.1 1.11.0-rc.1 1.11.0"},
		{Spec{Match: `\d+`}, "20250101"},
		{Spec{Match: `v.*|edge`}, "v1.10.1 edge"},
		{Spec{Semver: ">=1.10, <2"}, "1.10.0 1.10.1 v1.10.1 1.11.0"},
		{Spec{Semver: "~1.11.0-0"}, "1.11.0-rc.1 1.11.0"},
		{Spec{Latest: 2}, "2.0.0 2.1.0_b1"},
		{Spec{Latest: 2, Semver: "^1"}, "1.10.1 v1.10.1 1.11.0"},
		{Spec{Latest: 1, Exclude: []string{"2.*"}}, "1.11.0"},
		{Spec{Latest: 1, Tags: []string{"edge"}}, "2.1.0_b1 edge"},
		{Spec{Latest: 1000, Tags: []string{"*"}, Exclude: []string{"*.*"}}, "latest edge 20250101"},
	} {
		j := job(t, tt.spec)
		if got := strings.Join(j.Select(tags), " "); got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.spec, got, tt.want)
		}
	}
}

func TestPlan(t *testing.T) {
	a, b, c := digest.FromString("a"), digest.FromString("b"), digest.FromString("c")
	seen := Seen{
		Repo: "hub/app", From: "app",
		Upstream: map[string]digest.Digest{"new": a, "also": a, "same": b, "moved": b, "half": c},
		Listed:   []string{"new", "also", "same", "moved", "half", "other"},
		Here: map[string]Local{
			"same": {Digest: b, Whole: true}, "moved": {Digest: a}, "half": {Digest: c},
			"gone": {Digest: a, Copied: true}, "other": {Digest: a, Copied: true}, "pushed": {Digest: a},
			"keep-gone": {Digest: a, Copied: true}, "sha256-" + strings.Repeat("a", 64) + ".sig": {Digest: c, Copied: true},
		},
	}
	step := func(action Action, d digest.Digest, tags ...string) Step {
		return Step{Action: action, Repo: "hub/app", From: "app", Digest: d, Tags: tags}
	}
	copies := []Step{step(Copy, a, "also", "new"), step(Copy, c, "half"), step(Copy, b, "moved"), step(Keep, b, "same")}
	signature := step(Remove, c, "sha256-"+strings.Repeat("a", 64)+".sig")
	for _, tt := range []struct {
		what   string
		spec   Spec
		listed []string
		want   []Step
	}{
		{"without prune", Spec{}, seen.Listed, copies},
		{"prune", Spec{Prune: true}, seen.Listed, append(slices.Clone(copies), step(Remove, a, "gone"))},
		{"prune with signatures", Spec{Prune: true, Referrers: true}, seen.Listed, append(slices.Clone(copies), step(Remove, a, "gone"), signature)},
		{"prune of nothing", Spec{Prune: true}, nil, copies},
	} {
		tt.spec.Tags, tt.spec.Exclude = []string{"*"}, []string{"keep-*"}
		j := job(t, tt.spec)
		s := seen
		s.Listed = tt.listed
		if got := Plan(&j, s); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got\n%+v, want\n%+v", tt.what, got, tt.want)
		}
	}
}

// What falls out of the latest was not removed upstream.
func TestPruneLatest(t *testing.T) {
	d := digest.FromString("a")
	j := job(t, Spec{Latest: 1, Prune: true})
	got := Plan(&j, Seen{
		Upstream: map[string]digest.Digest{"1.2.0": d}, Listed: []string{"1.1.0", "1.2.0"},
		Here: map[string]Local{"1.0.0": {d, true, true}, "1.1.0": {d, true, true}, "1.2.0": {d, true, true}, "edge": {d, true, true}},
	})
	if len(got) != 2 || got[0].Action != Keep || got[1].Action != Remove || !slices.Equal(got[1].Tags, []string{"1.0.0"}) {
		t.Errorf("got %+v, want 1.2.0 to stay and 1.0.0 to go", got)
	}
}

func TestAttached(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	tagOf := func(d digest.Digest) string { return "sha256-" + d.Encoded() }
	tags := []string{"latest", tagOf(a) + ".sig", tagOf(a) + ".att", tagOf(b) + ".sig", tagOf(a), tagOf(a) + "x", "sha256-abc.sig"}
	got := Attached(tags, map[digest.Digest]bool{a: true})
	if want := []string{tagOf(a) + ".sig", tagOf(a) + ".att", tagOf(a)}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A thousand tags are planned in no time.
func TestPlanMany(t *testing.T) {
	seen := Seen{Upstream: map[string]digest.Digest{}, Here: map[string]Local{}}
	for i := range 100_000 {
		tag := fmt.Sprintf("1.%d.%d", i/100, i%100)
		d := digest.FromString(tag)
		seen.Listed = append(seen.Listed, tag)
		seen.Upstream[tag], seen.Here[tag] = d, Local{d, true, true}
	}
	j := job(t, Spec{Latest: 1000, Semver: ">=1.0.0", Prune: true})
	begin := time.Now()
	if selected := j.Select(seen.Listed); len(selected) != 1000 || selected[999] != "1.999.99" {
		t.Errorf("selected %d tags", len(selected))
	}
	if plan := Plan(&j, seen); len(plan) != 100_000 {
		t.Errorf("got %d steps", len(plan))
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}
