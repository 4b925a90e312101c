package web_test

import (
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/e2e/berthtest"
)

var keyText = regexp.MustCompile(`berth_[a-z0-9]+_[a-z0-9]{20,}`)

func TestKeys(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.signedIn(berthtest.Alice)
	b.send("/tokens", map[string]string{"note": "my <laptop>", "repos": "team/*, other/app\nx/**", "delete": "on", "days": "30"})
	b.want(http.StatusCreated, "shown this once", "my &lt;laptop&gt;", "never used", "pull, push, delete",
		"docker login "+strings.TrimPrefix(s.URL, "http://")+" -u test/alice@example.com --password-stdin")
	text := keyText.FindString(b.page.Body)
	if text == "" || strings.Count(b.page.Body, text) != 1 {
		t.Fatalf("the key is not shown:\n%s", b.page.Body)
	}
	id, err := s.gate.Login(t.Context(), "127.0.0.1", "test/alice@example.com", text)
	s.must(err)
	want := []auth.Grant{}
	for _, repos := range []string{"team/*", "other/app", "x/**"} {
		want = append(want, auth.Grant{Repos: repos, Actions: auth.Pull | auth.Push | auth.Delete})
	}
	if id.Account != "test/alice@example.com" || !reflect.DeepEqual(id.Groups, []string{"admins", "developers"}) || !reflect.DeepEqual(id.Grants, want) {
		t.Errorf("the key makes %+v", id)
	}
	e, n := s.recorded(audit.TokenChange)
	if n != 1 || e.Action != "create" || e.Subject != id.Account+"/"+id.Key || e.Actor.Account != id.Account || e.Outcome != audit.OK {
		t.Errorf("recorded %d: %+v", n, e)
	}

	b.open("/tokens")
	b.want(http.StatusOK, "!"+text, "my &lt;laptop&gt;", "last used", "team/*", "berth_"+id.Key)
	s.pass(31 * 24 * time.Hour)
	b = s.signedIn(berthtest.Alice)
	b.want(http.StatusOK, ">expired<")
	b.send("/tokens/"+id.Key+"/revoke", nil)
	b.want(http.StatusOK, "You have no keys yet")
	if e, n := s.recorded(audit.TokenChange); n != 2 || e.Action != "revoke" || e.Subject != id.Account+"/"+id.Key {
		t.Errorf("recorded %d: %+v", n, e)
	}
	b.post("/tokens/"+id.Key+"/revoke", nil, nil)
	b.want(http.StatusOK, "You have no keys yet") // twice is once
	if _, n := s.recorded(audit.TokenChange); n != 2 {
		t.Errorf("recorded %d", n)
	}
	if strings.Contains(s.logged(), text) {
		t.Error("the log has the key in it")
	}
}

func TestKeyForm(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.signedIn(berthtest.Alice)
	for name, tt := range map[string]struct {
		fill    map[string]string
		problem string
	}{
		"no action":     {map[string]string{"pull": "", "push": ""}, "at least one thing"},
		"no repository": {map[string]string{"repos": " , \n"}, "Name the repositories"},
		"no pattern":    {map[string]string{"repos": "Team/<b>"}, "is no pattern"},
		"dots":          {map[string]string{"repos": "a/../b"}, "is no pattern"},
		"many patterns": {map[string]string{"repos": strings.Repeat("a ", 21)}, "20 repositories"},
		"long pattern":  {map[string]string{"repos": strings.Repeat("a", 5000) + "/A"}, "is no pattern"},
		"for ever":      {map[string]string{"days": "0"}, "for how long"},
		"a thousand":    {map[string]string{"days": "1000"}, "for how long"},
		"no number":     {map[string]string{"days": "x"}, "for how long"},
		"below zero":    {map[string]string{"days": "-7"}, "for how long"},
		"long note":     {map[string]string{"note": strings.Repeat("ü", 101)}, "100 characters"},
		"control":       {map[string]string{"note": "a\x00b"}, "bad API key"},
	} {
		b.open("/")
		b.send("/tokens", tt.fill)
		b.want(http.StatusUnprocessableEntity, tt.problem, "!<b>", "!shown this once", `role="alert"`)
		for field, value := range tt.fill {
			if field != "days" && name != "control" && b.form("/tokens").Get(field) != strings.TrimSpace(value) && !strings.Contains(value, "\n") {
				t.Errorf("%s: what was typed is gone: %q", name, b.form("/tokens").Get(field))
			}
		}
	}
	if keys, err := s.accounts.Keys(t.Context(), ""); err != nil || len(keys) > 0 {
		t.Errorf("there are keys: %v, %v", keys, err)
	}
	// Administration is not to be had here, whatever the form says.
	b.open("/")
	b.send("/tokens", map[string]string{"admin": "on", "note": strings.Repeat("ü", 100)})
	b.want(http.StatusCreated)
	keys, err := s.accounts.Keys(t.Context(), "")
	s.must(err)
	if !reflect.DeepEqual(keys[0].Grants, []auth.Grant{{Repos: "**", Actions: auth.Pull | auth.Push}}) {
		t.Errorf("grants are %v", keys[0].Grants)
	}
}

// A key can be seen and revoked by its owner alone: not by another account, nor by
// one of the same name that another source vouches for.
func TestKeysOfOthers(t *testing.T) {
	s := newSite(t, false, nil)
	made := func(k accounts.NewKey) accounts.Key {
		key, _, err := s.accounts.CreateKey(t.Context(), k)
		s.must(err)
		return key
	}
	others := []accounts.Key{
		made(newKey()), made(accounts.NewKey{Account: local, Source: "ldap", Note: "of the directory"}),
		made(accounts.NewKey{Account: "test/alice@example.com", Source: "ldap", Note: "of the directory"}),
	}
	b := s.signedIn(berthtest.Alice)
	b.want(http.StatusOK, "You have no keys yet", "!of the directory")
	for _, id := range []string{others[0].ID, others[1].ID, others[2].ID, "x", "..%2f..", strings.Repeat("a", 5000)} {
		b.post("/tokens/"+id+"/revoke", nil, nil)
		b.want(http.StatusOK, "You have no keys yet") // the same, there or not
	}
	b = s.browser()
	b.open("/login")
	b.send("/login", map[string]string{"account": local, "password": localPassword})
	b.want(http.StatusOK, others[0].ID, "!of the directory", "All that you may do", "does not expire")
	b.post("/tokens/"+others[1].ID+"/revoke", nil, nil)
	nobody := s.browser()
	nobody.post("/tokens/"+others[0].ID+"/revoke", nil, nil)
	nobody.want(http.StatusOK, "Sign in")
	nobody.post("/tokens", url.Values{"repos": {"**"}, "pull": {"on"}, "days": {"7"}}, nil)
	nobody.want(http.StatusOK, "Sign in", "!berth_")
	if keys, err := s.accounts.Keys(t.Context(), ""); err != nil || len(keys) != len(others) {
		t.Errorf("keys are %v, %v", keys, err)
	}
}

func TestManyKeys(t *testing.T) {
	s := newSite(t, false, nil)
	for range 100 {
		_, _, err := s.accounts.CreateKey(t.Context(), newKey())
		s.must(err)
	}
	b := s.browser()
	b.open("/login")
	b.send("/login", map[string]string{"account": local, "password": localPassword})
	b.send("/tokens", nil)
	b.want(http.StatusUnprocessableEntity, "You have 100 keys")
}
