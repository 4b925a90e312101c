package config

import "github.com/berth-registry/berth/internal/settings"

// edgeKeys are about how clients reach the registry.
var edgeKeys = []settings.Key[Config]{
	{
		Path: "http.public_url",
		Doc:  "What clients call the registry, https://registry.example.com, where that cannot\nbe told from their requests; \"\" otherwise.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.HTTP.PublicURL, wantURL+`, without a path, or ""`, baseURL)
		},
	}, {
		Path:  "http.redirect_addr",
		Doc:   "Where plain HTTP is redirected to https, host:port such as :80; \"\" turns it off.",
		Value: func(c *Config) *settings.Value { return settings.AddressOrNone(&c.HTTP.RedirectAddr) },
	}, {
		Path: "http.trusted_proxies",
		Doc:  "Reverse proxies, by address or range (10.0.0.0/8), that are believed when they\nsay who the client is (X-Forwarded-For, X-Forwarded-Proto, Forwarded).",
		Value: func(c *Config) *settings.Value {
			return list(&c.HTTP.TrustedProxies, "a list of addresses or ranges such as 10.0.0.0/8", func(s string) bool { _, ok := parsePrefix(s); return ok })
		},
	}, {
		Path:  "http.proxy_protocol",
		Doc:   "Whether connections of trusted proxies begin with a header of the PROXY protocol.",
		Value: func(c *Config) *settings.Value { return settings.Boolean(&c.HTTP.ProxyProtocol) },
	}, {
		Path:  "http.tls.cert",
		Doc:   "The certificate, with those that lead to its authority, and its key: PEM files.\nThey are read again when they change.",
		Value: func(c *Config) *settings.Value { return file(&c.HTTP.TLS.Cert) },
	}, {
		Path:  "http.tls.key",
		Doc:   "The key of http.tls.cert.",
		Value: func(c *Config) *settings.Value { return file(&c.HTTP.TLS.Key) },
	}, {
		Path:  "http.tls.client_ca",
		Doc:   "Authorities of client certificates, a PEM file: a client may show one, and is\nwho auth.certificates says.",
		Value: func(c *Config) *settings.Value { return file(&c.HTTP.TLS.ClientCA) },
	}, {
		Path: "http.tls.acme.domains",
		Doc:  "Names for which certificates are got by ACME (Let's Encrypt), instead of\nhttp.tls.cert. The authority must reach this server at port 443, or at port 80\nas http.redirect_addr. They are kept below storage.data.",
		Value: func(c *Config) *settings.Value {
			return list(&c.HTTP.TLS.ACME.Domains, "a list of domain names", func(s string) bool { return domain.MatchString(s) && len(s) <= 253 })
		},
	}, {
		Path:  "http.tls.acme.email",
		Doc:   "Where the authority writes to when something is wrong.",
		Value: func(c *Config) *settings.Value { return line(&c.HTTP.TLS.ACME.Email, "an e-mail address") },
	}, {
		Path: "http.tls.acme.directory",
		Doc:  "The authority's directory; \"\" is Let's Encrypt.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.HTTP.TLS.ACME.Directory, wantURL+`, or ""`, urlOrNone)
		},
	}, {
		Path:  "http.tls.acme.directory_ca",
		Doc:   "Authorities of the directory's own certificate, where the system does not know them.",
		Value: func(c *Config) *settings.Value { return file(&c.HTTP.TLS.ACME.DirectoryCA) },
	},
}
