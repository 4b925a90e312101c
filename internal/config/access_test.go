package config

import (
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

const accessFile = `
http:
  addr: ":443"
  trusted_proxies: [10.0.0.0/8, "::1"]
  tls: {acme: {domains: [registry.example.com]}, client_ca: ca.pem}
auth:
  certificates: {account: cn}
  ldap: {url: "ldaps://ldap", user_base: "dc=a", bind_password: "a, b # c"}
  oidc:
    google: {issuer: "https://accounts.google.com", client_id: a, client_secret: s, scopes: [openid]}
  workload:
    main: {issuer: "https://token", audience: berth, claims: ["repository=acme/*", "ref=refs/heads/main"]}
policy:
- {who: [anonymous], repos: ["public/**"], may: [pull]}
- who: [mallory, "group:a b", "claim:x=y=z"]
  repos: ["**", "a*/**/b"]
  may_not: [pull, push]
immutable: ["**:v*"]
limits: {requests: 2.5, bandwidth: 100m, manifest: 0}
webhooks: {ci: {url: "https://ci", events: [push]}}
`

func TestAccess(t *testing.T) {
	c, err := load(accessFile)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Rule{
		{Who: []string{"anonymous"}, Repos: []string{"public/**"}, May: []string{"pull"}},
		{Who: []string{"mallory", "group:a b", "claim:x=y=z"}, Repos: []string{"**", "a*/**/b"}, MayNot: []string{"pull", "push"}},
	}; !reflect.DeepEqual(c.Policy, want) {
		t.Errorf("policy is %+v", c.Policy)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}; !reflect.DeepEqual(c.Proxies(), want) {
		t.Errorf("proxies are %v", c.Proxies())
	}
	if o := c.Auth.OIDC["google"]; o.ClientSecret != "s" || !reflect.DeepEqual(o.Scopes, []string{"openid"}) {
		t.Errorf("provider is %+v", o)
	}
	if w := c.Webhooks["ci"]; w.Timeout != 10*time.Second || w.URL != "https://ci" {
		t.Errorf("webhook is %+v", w)
	}
	if l := c.Limits; l.Requests != 2.5 || l.Bytes != 100_000_000 || l.Burst != 100 {
		t.Errorf("limits are %+v", l)
	}
	if !c.Restricted() || !c.Encrypted() || Default().Restricted() || Default().Encrypted() {
		t.Error("Restricted or Encrypted is wrong")
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}

	again, err := load(accessFile)
	if err != nil {
		t.Fatal(err)
	}
	if changed, needRestart := Reloadable(c, again); changed != nil || needRestart != nil {
		t.Errorf("the same file twice differs in %q, %q", changed, needRestart)
	}
	again.Policy[1].Repos = again.Policy[1].Repos[:1]
	again.Auth.OIDC["google"].ClientID = "b"
	changed, needRestart := Reloadable(c, again)
	if !reflect.DeepEqual(changed, []string{"policy"}) || !reflect.DeepEqual(needRestart, []string{"auth.oidc"}) {
		t.Errorf("differs in %q, %q", changed, needRestart)
	}
}

func TestListsInEnvironment(t *testing.T) {
	c, err := Load("", []string{"BERTH_IMMUTABLE=**:v*, team/**:stable", "BERTH_HTTP_TRUSTED_PROXIES="})
	if err != nil || !reflect.DeepEqual(c.Immutable, []string{"**:v*", "team/**:stable"}) || c.HTTP.TrustedProxies != nil {
		t.Errorf("Load = %q, %q, %v", c.Immutable, c.HTTP.TrustedProxies, err)
	}
}

func TestAccessErrors(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"rules", "policy:\n- a\n- {who: [a], repo: [b]}\n- {who: a, repos: [A, '/'], may: [fly]}\n", lines(
			`berth.yaml:2: policy[1]: expected a mapping with the keys who, repos, may, may_not, found the text "a"`,
			`berth.yaml:3: policy[2].repo: unknown key (expected one of who, repos, may, may_not)`,
			`berth.yaml:4: policy[3].who: expected a list of NAME, user:NAME, group:NAME, claim:NAME=PATTERN, anonymous, authenticated or everyone, found the text "a"`,
			`berth.yaml:4: policy[3].repos: expected a list of patterns such as team/**, found "A"`,
			`berth.yaml:4: policy[3].repos: expected a list of patterns such as team/**, found "/"`,
			`berth.yaml:4: policy[3].may: expected a list of pull, push, delete, admin, fetch, found "fly"`)},
		{"no list", "policy: {}\nimmutable: x\n", lines(
			`berth.yaml:1: policy: expected a list of rules, found a mapping`,
			`berth.yaml:2: immutable: expected a list of REPOSITORY:TAG patterns such as "**:v*", found the text "x"`)},
		{"a rule that says nothing", "policy: [{who: [a], repos: ['**']}]", `berth.yaml:1: policy: expected one of may and may_not in rule 1`},
		{"no policy", "auth: {htpasswd: {file: x}}", `berth.yaml:1: auth.htpasswd.file: expected a policy with it, which says who may do what; for example policy: [{who: [authenticated], repos: ["**"], may: [pull, push, delete]}]`},
		{"half a certificate", "http: {tls: {key: x}}", `berth.yaml:1: http.tls.key: expected both http.tls.cert and http.tls.key, or neither`},
		{
			"a workload that everybody is", "auth: {workload: {a: {issuer: 'https://a', audience: b}}}\npolicy: [{who: [a], repos: ['**'], may: [pull]}]",
			`berth.yaml:1: auth.workload: expected claims for a: without any, everybody whom the provider knows would be this account`,
		},
		{"rules of retention that keep nothing", "retention: [{repos: ['**']}, {tags: '('}]\nquota: [{bytes: 1g}]", lines(
			`berth.yaml:1: retention[2].tags: expected a regular expression, found "("`)},
		{"a retention that keeps nothing", "retention: [{repos: ['**']}]", `berth.yaml:1: retention: expected something to be kept in rule 1: last, pushed_within, pulled_within, semver or matching`},
		{"a quota of nothing", "quota: [{repos: ['**']}]", `berth.yaml:1: quota: expected bytes or tags in quota 1`},
		{"a secret is not shown", "auth: {ldap: {bind_password: \"hush\\nhush\"}}", `berth.yaml:1: auth.ldap.bind_password: expected a text without line breaks`},
		{"a password in a URL", "webhooks: {a: {url: 'ftp://u:hush@x', events: [push]}}", `berth.yaml:1: webhooks.a.url: expected a URL such as https://example.com/path`},
		{"a password in a directory's URL", "auth: {ldap: {url: 'u:hush@x'}}", `berth.yaml:1: auth.ldap.url: expected a URL such as ldaps://ldap.example.com, or ""`},
		{"a secret of another type", "auth: {ldap: {bind_password: 12345}}", `berth.yaml:1: auth.ldap.bind_password: expected a text without line breaks`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(c.file)
			checkError(t, err, c.want)
		})
	}
}

// TestSetups loads each set-up, which the example and the README show.
func TestSetups(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range Setups() {
		c, err := load(s.Text)
		if err != nil {
			t.Errorf("%s: %v", s.Title, err)
		}
		if c.Restricted() != (i > 0) {
			t.Errorf("%s: restricted is %v", s.Title, c.Restricted())
		}
		if i > 0 && !strings.Contains(string(readme), s.Text) {
			t.Errorf("the README does not show the set-up %q as it is", s.Title)
		}
	}
}
