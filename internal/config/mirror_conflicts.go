package config

import (
	"net/url"
	"slices"

	"github.com/berth-registry/berth/internal/settings"
)

// PathPrefix is the beginning of the names of repositories that m caches.
func (m Mirror) PathPrefix() string {
	if m.Prefix != "" {
		return m.Prefix
	}
	return m.Name
}

// AskedFor are the hosts that clients ask for with ?ns= and mean m.
func (m Mirror) AskedFor() []string {
	if len(m.Namespaces) > 0 {
		return m.Namespaces
	}
	if m.Hub() {
		return []string{"docker.io"}
	}
	u, err := url.Parse(m.Upstream)
	if err != nil {
		return nil
	}
	return []string{u.Host}
}

// Hub says that m is of Docker Hub, whose images of its own are in library/.
func (m Mirror) Hub() bool {
	u, err := url.Parse(m.Upstream)
	if err != nil {
		return false
	}
	switch u.Host {
	case "registry-1.docker.io", "docker.io", "index.docker.io":
		return true
	}
	return slices.Contains(m.Namespaces, "docker.io")
}

// mirrorConflicts checks what concerns several fields of mirrors, sync and
// replication.
func mirrorConflicts(c Config) []settings.Conflict {
	f := &conflictsFound{}
	names, prefixes, namespaces, fallbacks := map[string]bool{}, map[string]string{}, map[string]string{}, 0
	for _, m := range c.Mirrors {
		f.when(m.Name == "" || m.Upstream == "", "expected name and upstream in each", "mirrors")
		f.when(names[m.Name], "expected different names, found "+m.Name+" twice", "mirrors")
		names[m.Name] = true
		prefix := m.PathPrefix()
		for other, name := range prefixes {
			f.when(other == prefix, "expected different prefixes, found "+prefix+" for "+name+" and "+m.Name+": set prefix of one of them", "mirrors")
		}
		prefixes[prefix] = m.Name
		for _, ns := range m.AskedFor() {
			f.when(namespaces[ns] != "", "expected different namespaces, found "+ns+" for "+namespaces[ns]+" and "+m.Name+": set namespaces of one of them", "mirrors")
			namespaces[ns] = m.Name
		}
		if m.RegistryMirror {
			fallbacks++
		}
		f.login(m.Login, m.Name, "mirrors")
	}
	f.when(fallbacks > 1, "expected registry_mirror for one of them at most: Docker does not say which registry it means", "mirrors")
	f.syncs(c, names)
	seen := map[string]bool{}
	for _, r := range c.Replication {
		f.when(r.Name == "" || r.URL == "" || len(r.Repos) == 0, "expected name, url and repos in each", "replication")
		f.when(seen[r.Name], "expected different names, found "+r.Name+" twice", "replication")
		seen[r.Name] = true
		f.login(r.Login, r.Name, "replication")
	}
	return f.all
}

func (f *conflictsFound) syncs(c Config, mirrors map[string]bool) {
	names := map[string]bool{}
	for _, s := range c.Sync {
		f.when(s.Name == "" || s.Mirror == "" || len(s.Repos) == 0, "expected name, mirror and repos in each", "sync")
		f.when(s.Mirror != "" && !mirrors[s.Mirror], "expected the name of one of mirrors, found "+settings.Quote(s.Mirror)+" for "+s.Name, "sync")
		f.when(names[s.Name], "expected different names, found "+s.Name+" twice", "sync")
		f.when((s.Every == 0) == (s.Cron == ""), "expected one of every and cron for "+s.Name, "sync")
		f.when(len(s.Tags) == 0 && s.Matching == "" && s.Semver == "" && s.Latest == 0, `expected tags ("*" for all), matching, semver or latest for `+s.Name, "sync")
		names[s.Name] = true
	}
}

func (f *conflictsFound) login(l Login, name, key string) {
	f.when(l.Password != "" && l.PasswordFile != "", "expected one of password and password_file for "+name, key)
	f.when(l.Token != "" && l.TokenFile != "", "expected one of token and token_file for "+name, key)
	f.when((l.Username == "") != (l.Password == "" && l.PasswordFile == ""), "expected both a username and a password for "+name, key)
	ways := 0
	for _, set := range []bool{l.Username != "", l.Token != "" || l.TokenFile != "", l.CredentialHelper != "", l.Provider != "none" && l.Provider != ""} {
		if set {
			ways++
		}
	}
	f.when(ways > 1, "expected one of username, token, credential_helper and provider for "+name, key)
}
