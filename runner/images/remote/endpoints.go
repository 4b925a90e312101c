package remote

import (
	"context"
	"net/http"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// Endpoint is a server of images, for those who speak to registries themselves.
type Endpoint struct {
	Scheme, Host string
	Prefix       string // of the names of repositories, ending in "/" if not empty
	Mirror       bool   // not to be pushed to
	// Transport carries requests as the server's certificates want it, with the
	// credentials that a mirror's URL has.
	Transport http.RoundTripper
}

// Endpoints returns the servers of the images of a domain: mirrors, then the
// registry itself. What cannot be reached is left out, unless it is the registry.
func (c *Client) Endpoints(ctx context.Context, domain string) ([]Endpoint, error) {
	servers, err := c.servers(domain)
	if err != nil {
		return nil, err
	}
	var list []Endpoint
	for _, s := range servers {
		scheme, err := c.scheme(ctx, s)
		if err != nil && s.mirror {
			continue
		}
		if err != nil {
			return nil, err
		}
		e := Endpoint{Scheme: scheme, Host: s.host, Prefix: s.prefix, Mirror: s.mirror, Transport: s.transport}
		if s.login != auth.EmptyCredential {
			e.Transport = basicAuth{s.login, s.host, s.transport}
		}
		list = append(list, e)
	}
	return list, nil
}

// basicAuth sends credentials to one host.
type basicAuth struct {
	login auth.Credential
	host  string
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b basicAuth) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == b.host && req.Header.Get("Authorization") == "" {
		req = req.Clone(req.Context())
		req.SetBasicAuth(b.login.Username, b.login.Password)
	}
	return b.next.RoundTrip(req)
}
