package tokens_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/registry"
)

func TestParseScopes(t *testing.T) {
	for in, want := range map[string][]tokens.Scope{
		"":                              nil,
		"   ":                           nil,
		"repository:a:pull":             {{Type: "repository", Name: "a", Actions: []string{"pull"}}},
		"repository:team/web:push,pull": {{Type: "repository", Name: "team/web", Actions: []string{"push", "pull"}}},
		"repository:a:":                 {{Type: "repository", Name: "a"}},
		"repository:a:pull,,pull,":      {{Type: "repository", Name: "a", Actions: []string{"pull"}}},
		"repository(plugin):a:pull":     {{Type: "repository", Class: "plugin", Name: "a", Actions: []string{"pull"}}},
		"registry:catalog:*":            {{Type: "registry", Name: "catalog", Actions: []string{"*"}}},
		" repository:a:pull  repository:b:push,delete ": {
			{Type: "repository", Name: "a", Actions: []string{"pull"}},
			{Type: "repository", Name: "b", Actions: []string{"push", "delete"}},
		},
		"unheard0f:a:frobnicate": {{Type: "unheard0f", Name: "a", Actions: []string{"frobnicate"}}},
	} {
		got, err := tokens.ParseScopes([]string{in})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	got, err := tokens.ParseScopes([]string{"repository:a:pull", "", "repository:b:push repository:c:pull"})
	if err != nil || len(got) != 3 || got[2].Name != "c" {
		t.Errorf("several values: %+v, %v", got, err)
	}
	if got, err := tokens.ParseScopes(nil); got != nil || err != nil {
		t.Errorf("none: %+v, %v", got, err)
	}
}

func TestParseScopesBad(t *testing.T) {
	bad := []string{
		"repository", "repository:a", ":a:pull", "::", "REPOSITORY:a:pull", "repository:a:PULL", "repository:a:pull:push",
		"repository():a:pull", "repository(:a:pull", "repository(plugin:a:pull", "repository)plugin(:a:pull", "(plugin):a:pull",
		"repository(Plugin):a:pull", "repository((plugin)):a:pull", "repository:a:pull\t", "repository:a:pull\nrepository:b:pull",
		"repository:a:pull;push", "repository:a:**", "repository:a:pu1l", "repository:a:pull,*x", "repository:localhost:5000/a:pull",
		"repository:a:" + strings.Repeat("a", 33), "repository:a:" + strings.Repeat("pull,", 16) + "push",
		strings.Repeat("a", 33) + ":a:pull", strings.Repeat("repository:a:pull ", 101), strings.Repeat(" ", 64<<10+1),
		"repository:" + strings.Repeat("a", 1<<20) + ":pull",
	}
	for _, name := range hostile() {
		if !strings.Contains(name, " ") {
			bad = append(bad, "repository:"+name+":pull", "registry:"+name+":*")
		}
	}
	for _, in := range bad {
		got, err := tokens.ParseScopes([]string{in})
		switch {
		case got != nil || !errors.Is(err, registry.ErrNameInvalid):
			t.Errorf("%.80q: %+v, %v", in, got, err)
		case len(err.Error()) > 800:
			t.Errorf("%.80q: the error has %d bytes", in, len(err.Error()))
		}
	}
	if _, err := tokens.ParseScopes(make([]string, 1<<20)); err != nil {
		t.Errorf("many empty values: %v", err)
	}
}

func TestScope(t *testing.T) {
	for in, want := range map[string]auth.Action{
		"repository:a:pull":            auth.Pull,
		"repository:a:push,pull":       auth.Pull | auth.Push,
		"repository:a:*":               auth.Pull | auth.Push | auth.Delete | auth.Admin,
		"repository:a:delete,metadata": auth.Delete,
		"repository:a:frobnicate":      0,
	} {
		got, err := tokens.ParseScopes([]string{in})
		if err != nil {
			t.Fatal(err)
		}
		if s := got[0]; s.Set() != want || s.String() != in || !s.IsRepository() || s.IsCatalog() {
			t.Errorf("%q: %v, %q", in, s.Set(), s)
		}
	}
	got, err := tokens.ParseScopes([]string{"registry:catalog:*", "registry:other:*", "repository:catalog:*"})
	if err != nil || !got[0].IsCatalog() || got[1].IsCatalog() || got[2].IsCatalog() || got[0].IsRepository() {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzParseScopes(f *testing.F) {
	for _, seed := range []string{
		"repository:team/web:pull,push", "repository(plugin):a:pull registry:catalog:*", "repository:a/../b:pull", ":::", "a(b):c:,,",
		"repository:a%2fb:*", "repository:A:pull",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		scopes, err := tokens.ParseScopes([]string{in})
		if err != nil {
			if scopes != nil || !errors.Is(err, registry.ErrNameInvalid) {
				t.Fatalf("%+v, %v", scopes, err)
			}
			return
		}
		for _, s := range scopes {
			if !registry.ValidRepository(s.Name) {
				t.Fatalf("name %q", s.Name)
			}
			again, err := tokens.ParseScopes([]string{s.String()})
			if err != nil || len(again) != 1 || !reflect.DeepEqual(again[0], s) {
				t.Fatalf("%q reads as %+v, %v", s, again, err)
			}
		}
	})
}
