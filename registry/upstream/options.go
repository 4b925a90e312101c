package upstream

import (
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"
)

// Options describe an upstream. Of Username, Token, CredentialHelper and
// Provider at most one is set; without any, requests are anonymous.
type Options struct {
	// Name is the mirror's in the configuration, for errors and logs.
	Name string
	// Kind is what it is the name of in the configuration; "mirror" if empty.
	Kind string
	// URL is the registry's, such as "https://ghcr.io". Without a scheme it is
	// https. Docker Hub's other names are understood.
	URL string

	// Username and Password are for Basic authentication or for the token
	// server. The Username "<token>" says that Password is an identity token
	// (OAuth2's refresh token), as credential helpers do.
	Username, Password string
	// Token is a registry token: it is sent as it is to the registry, when that
	// asks for a bearer token.
	Token string
	// CredentialHelper is the program docker-credential-HELPER, such as
	// "ecr-login". It must be on PATH.
	CredentialHelper string
	// Provider gets credentials where the cloud provider gives them to what runs
	// on it: "ecr" (AWS's environment, files, and roles), "gcr" (Google's
	// application default credentials), "acr" (Azure's service principal or
	// workload identity by the environment, or managed identity).
	Provider string

	// CAFile has certificates in PEM of authorities that are trusted besides the
	// system's.
	CAFile string
	// Proxy is the URL of an HTTP or SOCKS5 proxy; the environment's if empty.
	Proxy string
	// UserAgent is "berth" if empty.
	UserAgent string

	// DialTimeout is for a connection, and again for TLS on it; 10 s if zero.
	DialTimeout time.Duration
	// HeaderTimeout is from a request sent to its answer's begin; 30 s if zero.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a transfer may take for less than 16 KiB before it
	// is broken off; 30 s if zero. Time that the caller takes does not count.
	IdleTimeout time.Duration
	// MaxConns is how many connections there are to one host at once; 64 if zero.
	MaxConns int
	// Retries is how often a request that failed quickly is sent again; 2 if
	// zero, never if negative.
	Retries int

	Log *slog.Logger     // nothing is logged if nil
	Now func() time.Time // time.Now if nil; says how long the upstream is left alone
}

// String names the upstream, and none of its secrets.
func (o Options) String() string { return "upstream " + o.Name }

// GoString is String.
func (o Options) GoString() string { return o.String() }

// LogValue is String.
func (o Options) LogValue() slog.Value { return slog.StringValue(o.String()) }

func (o Options) withDefaults() Options {
	if o.Kind == "" {
		o.Kind = defaultKind
	}
	if o.UserAgent == "" {
		o.UserAgent = "berth"
	}
	o.DialTimeout = orElse(o.DialTimeout, defaultDial)
	o.HeaderTimeout = orElse(o.HeaderTimeout, defaultHeader)
	o.IdleTimeout = orElse(o.IdleTimeout, defaultIdle)
	o.MaxConns = orElse(o.MaxConns, 64)
	if o.Retries == 0 {
		o.Retries = 2
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

func orElse[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

const (
	defaultKind = "mirror"

	hubHost = "registry-1.docker.io"
	// hubKey is what Docker's credential helpers know Docker Hub by.
	hubKey = "https://index.docker.io/v1/"
)

// baseOf reads an upstream's URL. Its errors do not repeat a password in it.
func baseOf(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("upstream: the URL is not valid; want https://HOST[:PORT]")
	}
	if u.User != nil {
		return nil, errors.New("upstream: the URL must not have a user or password in it; they have options of their own")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("upstream: the URL must not have a query; want https://HOST[:PORT]")
	}
	u.Host = strings.ToLower(u.Host)
	switch u.Hostname() {
	case "docker.io", "index.docker.io", "www.docker.io", "registry.hub.docker.com", hubHost:
		return &url.URL{Scheme: "https", Host: hubHost}, nil
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v2")
	return u, nil
}

// hostPort is the address that a URL's requests go to without a proxy.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
