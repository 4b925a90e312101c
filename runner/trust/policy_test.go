package trust

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
)

// TestPlaces tries rules that look at no signature.
func TestPlaces(t *testing.T) {
	d := digest.FromString("image")
	from := func(repositories ...string) runner.Provenance {
		var p runner.Provenance
		for _, r := range repositories {
			p.Origins = append(p.Origins, runner.Origin{Repository: r, Root: d, Manifest: d})
		}
		return p
	}
	both := from("r.example.com/dev/app")
	both.Local = true
	p := policy(t,
		Rule{Images: []string{"r.example.com/prod/bad"}, Deny: true},
		Rule{Images: []string{"r.example.com/prod/**", "docker.io/library/*"}, Allow: true},
		Rule{Images: []string{"r.example.com/dev/**"}, Deny: true},
		Rule{Images: []string{Local}, Allow: true},
	)
	for _, tt := range []struct {
		what  string
		from  runner.Provenance
		place string // by which it may run; empty: it may not
		rule  int
		says  string
	}{
		{"allowed", from("r.example.com/prod/app"), "r.example.com/prod/app", 2, ""},
		{"denied before it is allowed", from("r.example.com/prod/bad"), "", 0, "rule 1 of the policy denies r.example.com/prod/bad"},
		{"no rule", from("evil.example.com/app"), "", 0, "no rule of the policy is for evil.example.com/app"},
		{"one of two places", from("r.example.com/dev/app", "docker.io/library/app", "evil.example.com/app"), "docker.io/library/app", 2, ""},
		{"none of two places", from("r.example.com/dev/app", "evil.example.com/app"), "", 0, "no rule of the policy is for evil.example.com/app; rule 3 of the policy denies r.example.com/dev/app"},
		{"made here", runner.Provenance{Local: true}, Local, 4, ""},
		{"from nowhere", runner.Provenance{}, Local, 4, ""},
		{"made here and pushed", both, Local, 4, ""},
	} {
		got, err := p.Decide(t.Context(), Image{Name: "app", Provenance: tt.from}, newShelf(t).sources())
		switch {
		case tt.place == "" && (!errors.Is(err, runner.ErrForbidden) || err.Error() != "image app may not run on this host: "+tt.says):
			t.Errorf("%s: %+v, error %v", tt.what, got, err)
		case tt.place != "" && (err != nil || got.Place != tt.place || got.Rule != tt.rule):
			t.Errorf("%s: %+v, error %v", tt.what, got, err)
		}
	}
	if err := p.Set([]Rule{{Images: []string{"**"}, Deny: true}}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Decide(t.Context(), imageOf("r.example.com/prod/app", d), newShelf(t).sources()); !errors.Is(err, runner.ErrForbidden) {
		t.Errorf("other rules: %v", err)
	}
	if err := p.Set(nil); err != nil || p.Restricted() {
		t.Errorf("no rules: %v", err)
	}
	if _, err := p.Decide(t.Context(), imageOf("evil.example.com/app", d), newShelf(t).sources()); err != nil {
		t.Errorf("no rules: %v", err)
	}
}

// TestRules tries rules that are wrong: the ones before stay in force.
func TestRules(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	all := []string{"**"}
	p := policy(t, Rule{Images: all, Deny: true})
	for what, tt := range map[string]struct {
		rule Rule
		says string
	}{
		"no images":         {Rule{Allow: true}, "needs images"},
		"a bad pattern":     {Rule{Images: []string{""}, Allow: true}, "pattern"},
		"nothing":           {Rule{Images: all}, "one of keys"},
		"two things":        {Rule{Images: all, Allow: true, Deny: true}, "one of keys"},
		"no key":            {Rule{Images: all, Keys: []string{filepath.Join(dir, "none")}}, "no such file"},
		"a key in a mess":   {Rule{Images: all, Keys: []string{file("mess", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")}}, "no public key in PEM"},
		"a huge key":        {Rule{Images: all, Keys: []string{file("huge", strings.Repeat("x", maxFile+1))}}, "larger than"},
		"no issuer":         {Rule{Images: all, Subjects: all}, "both issuer and subjects"},
		"no root":           {Rule{Images: all, Issuer: "https://i", Subjects: all}, "needs a root"},
		"a root in a mess":  {Rule{Images: all, Issuer: "https://i", Subjects: all, Root: file("root", "{")}, "no trusted root"},
		"a root of nothing": {Rule{Images: all, Issuer: "https://i", Subjects: all, Root: file("empty", `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`)}, "neither a transparency log"},
	} {
		err := p.Set([]Rule{{Images: all, Allow: true}, tt.rule})
		if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.HasPrefix(err.Error(), "trust, rule 2: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := p.Decide(t.Context(), imageOf("a.example.com/app", digest.FromString("")), nil); !errors.Is(err, runner.ErrForbidden) {
		t.Errorf("after rules that are wrong: %v", err)
	}
}
