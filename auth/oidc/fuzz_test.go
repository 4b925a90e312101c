package oidc

import (
	"encoding/base64"
	"path"
	"strings"
	"testing"

	"github.com/berth-registry/berth/auth"
)

func FuzzIsJWT(f *testing.F) {
	for _, s := range []string{"", "..", "eyJhIjoxfQ.e30.c2ln", "eyJ.e30.", "eyJhIjoxfQ.eyJpc3MiOiJodHRwczovL2EifQ.c2ln", "eyJ.a.b.c", "eyJ\n.a.b", "berth_a_b", "eyJ=.a.b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if IsJWT(s) {
			if strings.Count(s, ".") != 2 || strings.ContainsAny(s, " \r\n=:") {
				t.Errorf("%q looks like a token", s)
			}
		}
		issuer, err := peekIssuer(s) // must not panic
		if err != nil && issuer != "" {
			t.Errorf("issuer %q, and error %v", issuer, err)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"ci/{repository}", "{sub}", "a/{b}{c}", "a/{b", "a/}", "/{a}", "a/{{b}}", "a/b", "ci/{a.b}:{https://x}"} {
		f.Add(s, "value")
	}
	f.Add("ci/{repository}", "../admin")
	f.Add("ci/{repository}", "a\x00b")
	f.Fuzz(func(t *testing.T, s, value string) {
		tpl, err := parseTemplate(s)
		if err != nil {
			return
		}
		c := claims{}
		for i := 1; i < len(tpl); i += 2 {
			c[tpl[i]] = value
		}
		account, err := tpl.fill(c)
		if err != nil {
			return
		}
		// What a job says changes nothing up to the first slash.
		first, _, ok := strings.Cut(s, "/")
		if !ok || first == "" || strings.Contains(first, "{") || !strings.HasPrefix(account, first+"/") {
			t.Errorf("template %q with %q is %q", s, value, account)
		}
		if strings.ContainsAny(account, " \t\r\n{}*\x00") || len(account) > maxAccount {
			t.Errorf("template %q with %q is %q", s, value, account)
		}
	})
}

func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{{"*", ""}, {"a*", "ab"}, {"*a*b*", "xaxbx"}, {"a*a", "a"}, {"**", "x"}, {"", ""}, {"ab*ba", "aba"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := auth.Glob(pattern, s)
		if strings.ContainsAny(pattern, `?[]\/`) || strings.Contains(s, "/") || !isBase64(strings.ReplaceAll(pattern, "*", "")) || !isBase64(s) {
			return // path.Match has more to say
		}
		want, err := path.Match(pattern, s)
		if err != nil || got != want {
			t.Errorf("glob(%q, %q) is %v, want %v, %v", pattern, s, got, want, err)
		}
	})
}

func TestClaims(t *testing.T) {
	c := claims{
		"a": "1", "b": map[string]any{"c": "2", "d": map[string]any{"e": true}}, "b.c": "3", "x.y": map[string]any{"z": "4"},
		"list": []any{"5", map[string]any{}, nil, false}, "nonce": "n", "long": strings.Repeat("x", maxClaim+1), "ctl": "a\nb",
		"ref": strings.Repeat("x", maxClaim),
	}
	for name, want := range map[string]string{"a": "1", "b.c": "3", "b.d.e": "true", "x.y.z": "4", "b": "", "b.x": "", "": "", ".": "", "b.": "", "a.b": ""} {
		v, _ := c.lookup(name)
		if got, _ := text(v); got != want {
			t.Errorf("claim %q is %q, want %q", name, got, want)
		}
	}
	if got := texts(c["list"]); len(got) != 2 || got[0] != "5" || got[1] != "false" {
		t.Errorf("list is %q", got)
	}
	if flat, err := c.flat(); err == nil {
		t.Errorf("two claims of one name: %v", flat)
	}
	delete(c, "b.c")
	flat, err := c.flat()
	if err != nil || len(flat) != 5 || len(flat["ref"]) != maxClaim || flat["b.d.e"] != "true" || flat["b.c"] != "2" {
		t.Errorf("flat is %v, %v", flat, err)
	}
	if _, err := (claims{"groups": []any{"a", ""}}).groups("groups"); err == nil {
		t.Error("a group without a name is taken")
	}
	if _, err := (claims{"groups": make([]any, 0, 1)}).groups("groups"); err != nil {
		t.Error(err)
	}
	many := make([]any, maxGroups+1)
	for i := range many {
		many[i] = "g"
	}
	if _, err := (claims{"groups": many}).groups("groups"); err == nil {
		t.Error("too many groups are taken")
	}
	if !IsJWT("eyJhIjoxfQ.e30.c2ln") || IsJWT("eyJhIjoxfQ.e30.") || IsJWT("berth_abc_def") {
		t.Error("IsJWT is wrong")
	}
	if _, err := peekIssuer("eyJ." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":[1]}`)) + ".x"); err == nil {
		t.Error("a list of issuers is taken")
	}
}
