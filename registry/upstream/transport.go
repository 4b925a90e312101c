package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"time"
)

// connect makes the pool of connections.
func (u *Upstream) connect() error {
	config, err := tlsConfig(u.o.CAFile)
	if err != nil {
		return err
	}
	proxy, err := proxyOf(u.o.Proxy)
	if err != nil {
		return err
	}
	u.pool = &http.Transport{
		Proxy:                  u.proxies.noting(proxy),
		DialContext:            u.dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    u.o.DialTimeout,
		ResponseHeaderTimeout:  u.o.HeaderTimeout,
		MaxResponseHeaderBytes: 256 << 10,
		MaxConnsPerHost:        u.o.MaxConns,
		MaxIdleConnsPerHost:    u.o.MaxConns,
		IdleConnTimeout:        90 * time.Second,
		ExpectContinueTimeout:  time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // digests are of the bytes as stored
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: u.o.IdleTimeout, PingTimeout: u.o.DialTimeout},
	}
	return nil
}

// tlsConfig trusts the authorities of a file besides the system's: an upstream of
// a private authority may redirect to storage that has a public one.
func tlsConfig(file string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return config, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("upstream: authorities: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("upstream: authorities: %s has no certificate in PEM", file)
	}
	config.RootCAs = pool
	return config, nil
}

func proxyOf(s string) (func(*http.Request) (*url.URL, error), error) {
	if s == "" {
		return http.ProxyFromEnvironment, nil
	}
	p, err := url.Parse(s)
	if err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https" && p.Scheme != "socks5" && p.Scheme != "socks5h" {
		return nil, errors.New("upstream: the proxy's URL is not valid; want http://HOST:PORT or socks5://HOST:PORT")
	}
	return http.ProxyURL(p), nil
}

// transport is one exchange after another, below authentication and redirects.
// It makes faults of answers that are one, watches over bodies, and learns from
// what the upstream itself says.
type transport struct {
	u    *Upstream
	base http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	u := t.u
	own := u.sameOrigin(req.URL)
	if err := u.mayAsk(req.URL, own); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	var peer netip.AddrPort
	if proxy, err := u.pool.Proxy(req); own && err == nil && proxy == nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
			peer, _ = netip.ParseAddrPort(info.Conn.RemoteAddr().String())
		}})
	}
	w := &watch{limit: u.o.IdleTimeout, cancel: cancel, stalled: func() bool { return errors.Is(context.Cause(ctx), errStalled) }}
	resp, err := t.base.RoundTrip(w.sending(req.WithContext(ctx)))
	if err != nil {
		switch {
		case w.unread.Load():
			err = &fault{kind: cancelled, reason: "what was to be sent could not be read", cause: err}
		case w.stalled():
			err = &fault{reason: req.URL.Host + " takes no more of what is sent", slow: true}
		}
		cancel(nil)
		return nil, err
	}
	resp.Body = w.receiving(u, resp)
	if own {
		u.limits.note(resp.Header, u.o.Now())
		if peer.IsValid() {
			u.near.set(distanceOf(peer.Addr()))
		}
	}
	if err := u.judge(resp, own); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// judge returns the fault that an answer is, or nil.
func (u *Upstream) judge(resp *http.Response, own bool) error {
	if f := faultOf(resp, u.o.Now()); f != nil {
		return f
	}
	if !own || resp.StatusCode != http.StatusUnauthorized {
		return nil
	}
	challenge := resp.Header.Get("Www-Authenticate")
	if isBasic(challenge+" ") && (u.o.Token != "" || u.o.Username == identityUser) {
		return &fault{kind: refused, reason: u.base.Host + " wants a username and a password, and the mirror has a token"}
	}
	m := realmParam.FindStringSubmatch(challenge)
	if m == nil || u.base.Scheme != "https" {
		return nil
	}
	if realm, err := url.Parse(m[1]); err != nil || realm.Scheme != "https" {
		return &fault{kind: barred, reason: u.base.Host + " names a token server that is not asked, as it is none with https"}
	}
	return nil
}

var realmParam = regexp.MustCompile(`(?i)^bearer\s.*\brealm="?([^",]*)`)
