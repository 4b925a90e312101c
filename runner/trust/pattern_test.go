package trust

import (
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		yes, no string // separated by spaces
	}{
		{"**", "local docker.io/library/a r:5000/a/b/c", ""},
		{"local", "local", "docker.io/library/local locals a/local"},
		{"r.example.com/prod/**", "r.example.com/prod r.example.com/prod/a r.example.com/prod/a/b", "r.example.com/product rxexample.com/prod/a evil/r.example.com/prod/a"},
		{"r.example.com/prod/*", "r.example.com/prod/a", "r.example.com/prod r.example.com/prod/a/b"},
		{"r.example.com/*/app", "r.example.com/x/app", "r.example.com/app r.example.com/x/y/app"},
		{"r.example.com/**/app", "r.example.com/app r.example.com/x/app r.example.com/x/y/app", "r.example.com/xapp"},
		{"**/app", "app r/app r/x/app", "r/xapp"},
		{"r/team-*/app", "r/team-a/app r/team-/app", "r/team-a/b/app"},
		{"https://github.com/acme/**", "https://github.com/acme/x/.github/workflows/a.yml@refs/heads/main", "https://github.com/acme-evil/x https://evil/https://github.com/acme/x"},
		{"a+b", "a+b", "aab"},
	} {
		re, err := glob(tt.pattern)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		for s := range strings.FieldsSeq(tt.yes) {
			if !re.MatchString(s) {
				t.Errorf("%s does not match %s", tt.pattern, s)
			}
		}
		for _, s := range append(strings.Fields(tt.no), "") {
			if re.MatchString(s) && tt.pattern != "**" {
				t.Errorf("%s matches %q", tt.pattern, s)
			}
		}
	}
	for _, bad := range []string{"", strings.Repeat("*", maxPattern+1)} {
		if _, err := glob(bad); err == nil {
			t.Errorf("a pattern of %d bytes is taken", len(bad))
		}
	}
}

// FuzzGlob looks for patterns that cannot be compiled, or do not match themselves.
func FuzzGlob(f *testing.F) {
	for _, seed := range []string{"**", "a/**", "**/a", "a/*/b", "a***b", "/**", "[", "a\n", "\x00\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		re, err := glob(pattern)
		if err != nil {
			return
		}
		if !re.MatchString(strings.ReplaceAll(pattern, "*", "x")) && !strings.Contains(pattern, "**") {
			t.Errorf("%q does not match what it looks like", pattern)
		}
	})
}
