package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/berth-registry/berth/internal/settings"
)

// accessConflicts checks what concerns several keys of access.
func accessConflicts(c Config) []settings.Conflict {
	f := &conflictsFound{}
	f.tls(c)
	f.auth(c)
	for _, name := range slices.Sorted(maps.Keys(c.Auth.OIDC)) {
		o := c.Auth.OIDC[name]
		f.when(o.Issuer == "" || o.ClientID == "", "expected issuer and client_id for "+name, "auth.oidc")
		f.when(o.ClientSecret != "" && o.ClientSecretFile != "", "expected one of client_secret and client_secret_file for "+name, "auth.oidc")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Auth.Workload)) {
		w := c.Auth.Workload[name]
		f.when(w.Issuer == "" || w.Audience == "", "expected issuer and audience for "+name, "auth.workload")
		f.when(len(w.Claims) == 0, "expected claims for "+name+": without any, everybody whom the provider knows would be this account", "auth.workload")
	}
	for i, r := range c.Policy {
		n := fmt.Sprintf("rule %d", i+1)
		f.when(len(r.Who) == 0 || len(r.Repos) == 0, "expected who and repos in "+n, "policy")
		f.when((len(r.May) == 0) == (len(r.MayNot) == 0), "expected one of may and may_not in "+n, "policy")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Webhooks)) {
		w := c.Webhooks[name]
		f.when(w.URL == "" || len(w.Events) == 0, "expected url and events for "+name, "webhooks")
		f.when(w.Secret != "" && w.SecretFile != "", "expected one of secret and secret_file for "+name, "webhooks")
		f.when(w.Secret != "" && len(w.Secret) < 24, "expected a secret of at least 24 characters for "+name, "webhooks")
	}
	f.when(c.Limits.Manifest > 4<<20, "expected at most 4194304, which is all that the specification allows", "limits.manifest")
	return f.all
}

type conflictsFound struct{ all []settings.Conflict }

func (f *conflictsFound) when(wrong bool, message string, keys ...string) {
	if wrong {
		f.all = append(f.all, settings.Conflict{Keys: keys, Message: message})
	}
}

func (f *conflictsFound) tls(c Config) {
	t := c.HTTP.TLS
	f.when((t.Cert == "") != (t.Key == ""), "expected both http.tls.cert and http.tls.key, or neither", "http.tls.cert", "http.tls.key")
	f.when(t.Cert != "" && len(t.ACME.Domains) > 0, "expected one of http.tls.cert and http.tls.acme.domains", "http.tls.cert", "http.tls.acme.domains")
	f.when(!c.Encrypted() && t.ClientCA != "", "expected a certificate with it: http.tls.cert or http.tls.acme.domains", "http.tls.client_ca")
	f.when(!c.Encrypted() && c.HTTP.RedirectAddr != "", "expected a certificate with it: http.tls.cert or http.tls.acme.domains", "http.redirect_addr")
	f.when(settings.Overlap(c.HTTP.Addr, c.HTTP.RedirectAddr) || settings.Overlap(c.Metrics.Addr, c.HTTP.RedirectAddr),
		"expected an address that differs from http.addr and metrics.addr", "http.redirect_addr")
	f.when(c.HTTP.ProxyProtocol && len(c.HTTP.TrustedProxies) == 0, "expected http.trusted_proxies with it: whose headers are to be believed?", "http.proxy_protocol")
}

func (f *conflictsFound) auth(c Config) {
	a := c.Auth
	var sources []string // that make no sense without a policy
	for key, set := range map[string]bool{
		"auth.htpasswd.file": a.Htpasswd != "", "auth.ldap.url": a.LDAP.URL != "", "auth.oidc": len(a.OIDC) > 0,
		"auth.workload": len(a.Workload) > 0, "auth.certificates.account": a.Certificates.Account != "none",
		"auth.external.realm": a.External.Realm != "",
	} {
		if set {
			sources = append(sources, key)
		}
	}
	slices.Sort(sources)
	f.when(len(sources) > 0 && !c.Restricted(), `expected a policy with it, which says who may do what; for example policy: [{who: [authenticated], repos: ["**"], may: [pull, push, delete]}]`, append(sources, "policy")...)
	f.when(a.Certificates.Account != "none" && c.HTTP.TLS.ClientCA == "", "expected http.tls.client_ca with it", "auth.certificates.account")
	x := a.External
	f.when(x.Realm != "" && (x.Service == "" || x.Issuer == "" || x.JWKS == ""), "expected auth.external.service, auth.external.issuer and auth.external.jwks with it", "auth.external.realm")
	l := a.LDAP
	f.when(l.URL != "" && l.UserBase == "", "expected auth.ldap.user_base with it", "auth.ldap.url")
	f.when(l.BindPassword != "" && l.BindPasswordFile != "", "expected one of auth.ldap.bind_password and auth.ldap.bind_password_file", "auth.ldap.bind_password_file", "auth.ldap.bind_password")
	f.when(l.UserFilter != "" && !strings.Contains(l.UserFilter, "%s"), "expected %s in it, in place of the account", "auth.ldap.user_filter")
}
