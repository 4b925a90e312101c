package auth

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/registry"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct{ pattern, yes, no string }{
		{"team/web", "team/web", "team team/web2 team/we team/web/x xteam/web"},
		{"team/**", "team/web team/web/api team/a/b/c", "team teams team2/web other/team/web"},
		{"team/*", "team/web team/a.b", "team team/web/api other/web"},
		{"**", "team team/web a/b/c/d", ""},
		{"*", "team", "team/web"},
		{"*/*", "team/web", "team team/web/api"},
		{"**/web", "web team/web a/b/web", "web/x teamweb team/xweb"},
		{"**/web/**", "web/x team/web/x a/b/web/c/d web/web", "web team/web x"},
		{"team/**/web", "team/web team/a/web team/a/b/web team/web/web", "team web team/web/x teamx/web"},
		{"**/**", "a a/b a/b/c", ""},
		{"team/**/**", "team/a team/a/b", "team"},
		{"team*", "team teams team-2", "tea team/web"},
		{"*team", "team ateam", "team/x a/team"},
		{"t*m", "tm team t-e-a-m", "t m tam1 team/m"},
		{"a*b*c", "abc aabbcc axbxc", "ab acb cba"},
		{"*-prod/**", "x-prod/web", "prod/web x-prod"},
		{"**/a/**/b", "a/b x/a/b a/x/b x/a/y/z/b a/a/b/b", "a b b/a a/b/c"},
		{"*/*/**", "a/b/c a/b/c/d", "a a/b"},
	} {
		for repo := range strings.FieldsSeq(tt.yes) {
			if !Match(tt.pattern, repo) {
				t.Errorf("%q does not match %q", tt.pattern, repo)
			}
		}
		for repo := range strings.FieldsSeq(tt.no + " team/../team/web TEAM/web Team team//web /team/web team/web/ .. team/%2e%2e/web team%2fweb") {
			if Match(tt.pattern, repo) {
				t.Errorf("%q matches %q", tt.pattern, repo)
			}
		}
		if got := Match(tt.pattern, ""); got != (tt.pattern == "**") {
			t.Errorf("%q and the registry as a whole: %v", tt.pattern, got)
		}
	}
}

func TestValidPattern(t *testing.T) {
	for _, s := range []string{"**", "*", "a", "a/**", "a/*/b", "**/a", "a*", "a.*", "a-*-b", "**/**", strings.Repeat("a", 255)} {
		if !ValidPattern(s) {
			t.Errorf("%q is said to be no pattern", s)
		}
	}
	for _, s := range []string{
		"", "/", "a/", "/a", "a//b", "A/**", "a**", "**a", "***", "a/***", "a/../b", "..", "a b", "a/?", "[a]", "a:b", "ä", "a\x00*",
		"{a,b}", `a\*`, "%2f", strings.Repeat("a", 256), "-a", "a_",
	} {
		if ValidPattern(s) {
			t.Errorf("%q is said to be a pattern", s)
		}
	}
}

// What a hostile pattern and name can cost is bounded.
func TestMatchIsQuick(t *testing.T) {
	for _, tt := range []struct{ pattern, repo string }{
		{strings.Repeat("*a", 127), strings.Repeat("a", 254) + "b"},
		{strings.Repeat("**/a/", 50) + "b", strings.Repeat("a/", 127) + "c"},
		{strings.Repeat("**/*a*a/", 31) + "b", strings.Repeat("aaaaaaa/", 31) + "c"},
		{strings.Repeat("*/", 127) + "*", strings.Repeat("a/", 5000) + "c"},
		{"**", strings.Repeat("a", 10<<10)},
	} {
		start := time.Now()
		if Match(tt.pattern, tt.repo) {
			t.Errorf("%q matches %q", tt.pattern, clip(tt.repo))
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%q took %v", tt.pattern, took)
		}
	}
}

// translate writes a pattern as an expression of the regexp package.
func translate(pattern string) *regexp.Regexp {
	const component = `[^/]+`
	parts := strings.Split(pattern, "/")
	var b strings.Builder
	for i, c := range parts {
		last := i == len(parts)-1
		switch {
		case c == "**" && last:
			b.WriteString(component + `(/` + component + `)*`)
		case c == "**":
			b.WriteString(`(` + component + `/)*`)
		default:
			b.WriteString(strings.ReplaceAll(regexp.QuoteMeta(c), `\*`, `[^/]*`))
			if !last {
				b.WriteByte('/')
			}
		}
	}
	return regexp.MustCompile(`^` + b.String() + `$`)
}

func FuzzMatch(f *testing.F) {
	for _, s := range [][2]string{
		{"team/**", "team/web"},
		{"**", "a/b"},
		{"**/a/**/b", "a/a/b/b"},
		{"a*b*c", "abbc"},
		{"**/*a/*b/**", "a/a/b/b/a/b"},
		{"team/**", "team/../other"},
		{"*", "A"},
		{"**/**", "a"},
		{"a/../b", "a/../b"},
		{"*/", "a/"},
		{"**", ""},
		{"a*/**/a", strings.Repeat("a/", 5<<10)},
		{strings.Repeat("*", 300), "a"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, repo string) {
		got := Match(pattern, repo)
		if !ValidPattern(pattern) || !registry.ValidRepository(repo) {
			if got != (pattern == "**" && repo == "") {
				t.Errorf("Match(%q, %q) = %v", pattern, repo, got)
			}
			return
		}
		if want := translate(pattern).MatchString(repo); got != want {
			t.Errorf("Match(%q, %q) = %v, its expression says %v", pattern, repo, got, want)
		}
		if !got {
			return
		}
		prefix, suffix := literals(pattern)
		if !strings.HasPrefix(repo, prefix) || !strings.HasSuffix(repo, suffix) {
			t.Errorf("%q matches %q, which lacks %q before or %q behind", pattern, repo, prefix, suffix)
		}
	})
}

func TestTagPatterns(t *testing.T) {
	p, err := NewTagPatterns([]string{"**:v*", "team/**:*-rc.*", "lib/a:latest", "x:*"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ repo, tag, want string }{
		{"a", "v1", "**:v*"},
		{"team/a", "v1-rc.1", "**:v*"},
		{"team/a", "1-rc.1", "team/**:*-rc.*"},
		{"team", "1-rc.1", ""},
		{"lib/a", "latest", "lib/a:latest"},
		{"lib/a", "latest2", ""},
		{"lib/b", "latest", ""},
		{"x", "anything", "x:*"},
		{"a", "V1", ""},
	} {
		got, ok := p.Match(tt.repo, tt.tag)
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s:%s matches %q, %v; want %q", tt.repo, tt.tag, got, ok, tt.want)
		}
	}
	for _, s := range []string{"", "**", ":", "**:", ":v*", "A:v*", "**:v 1", "a:b:c", "**:-v", "**:é*", "**:" + strings.Repeat("v", 129)} {
		if _, err := NewTagPatterns([]string{"**:v*", s}); err == nil || !strings.Contains(err.Error(), "pattern 2: ") {
			t.Errorf("%q: got error %v, want one that names pattern 2", s, err)
		}
	}
	if _, ok := (*TagPatterns)(nil).Match("a", "v1"); ok {
		t.Error("no patterns match")
	}
}
