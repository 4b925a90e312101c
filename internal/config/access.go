package config

import (
	"net/netip"
	"time"
)

// TLS configures certificates of the registry's listener.
type TLS struct {
	Cert, Key string // PEM files
	ClientCA  string // PEM file of authorities of client certificates
	ACME      ACME
}

// ACME configures certificates that the server gets for itself.
type ACME struct {
	Domains     []string
	Email       string
	Directory   string // URL
	DirectoryCA string // PEM file
}

// Auth configures how clients prove who they are.
type Auth struct {
	Challenge    string // bearer or basic
	Htpasswd     string // file
	Tokens       Tokens
	External     External
	Certificates Certificates
	LDAP         LDAP
	OIDC         map[string]*OIDC
	Workload     map[string]*Workload
}

// Tokens configures the registry's own tokens.
type Tokens struct {
	Service    string
	TTL        time.Duration // of a registry token
	RefreshTTL time.Duration // of a refresh token
	Rotate     time.Duration // how long a key signs
}

// External configures a token server that is not this one.
type External struct {
	Realm, Service, Issuer string
	JWKS                   string // URL or file
	CA                     string // PEM file
}

// Certificates configures who the owner of a client certificate is.
type Certificates struct {
	Account string // none, cn, email, dns, uri
	Groups  string // none, ou, o
}

// LDAP configures a directory.
type LDAP struct {
	URL                           string
	StartTLS                      bool
	Insecure                      bool // plain LDAP to another host
	CA                            string
	BindDN                        string
	BindPassword                  string
	BindPasswordFile              string
	UserBase, UserFilter, Account string
	GroupBase, GroupFilter, Group string
	Timeout                       time.Duration
}

// OIDC configures a provider that people sign in with.
type OIDC struct {
	Issuer, ClientID, ClientSecret, ClientSecretFile string
	Scopes                                           []string
	AccountClaim, GroupsClaim                        string
	Prefix                                           string
	NoPrefix                                         bool
	Claims                                           []string // name=pattern
	CA                                               string
}

// Workload configures whose tokens of a provider stand for which account.
type Workload struct {
	Issuer, Audience string
	Claims           []string // name=pattern
	Account          string   // template
	Groups           []string
	CA               string
}

// Rule is a rule of the policy.
type Rule struct {
	Who, Repos, May, MayNot []string
}

// Limits configures how much one caller may do and how large content may be.
type Limits struct {
	Requests float64 // a second
	Burst    int     // requests
	Bytes    int64   // a second; 0 for no limit
	Blob     int64   // bytes; 0 for no limit
	Manifest int64   // bytes
}

// Audit configures the record of who did what.
type Audit struct {
	Output  string // a path, stdout, stderr, or empty
	MaxSize int64  // bytes
	Keep    int    // rotated files
}

// Webhook configures who is told of events.
type Webhook struct {
	URL, Secret, SecretFile string
	Events, Repos           []string
	CA                      string
	Timeout                 time.Duration
}

// Restricted says whether there is a policy: without one, anybody may do anything.
func (c Config) Restricted() bool { return len(c.Policy) > 0 }

// Encrypted says whether the listener speaks TLS.
func (c Config) Encrypted() bool { return c.HTTP.TLS.Cert != "" || len(c.HTTP.TLS.ACME.Domains) > 0 }

// Proxies are the addresses in http.trusted_proxies.
func (c Config) Proxies() []netip.Prefix {
	var all []netip.Prefix
	for _, s := range c.HTTP.TrustedProxies {
		p, ok := parsePrefix(s)
		if ok {
			all = append(all, p)
		}
	}
	return all
}

// parsePrefix reads a range of addresses, or one address.
func parsePrefix(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), a.Zone() == ""
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil
}
