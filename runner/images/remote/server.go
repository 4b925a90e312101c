package remote

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// server is a registry or a mirror as it is configured.
type server struct {
	host      string   // and port
	schemes   []string // that it may speak, in the order to try them
	strict    bool     // plain HTTP only where TLS is seen not to be spoken
	local     bool     // on this host or a private network
	prefix    string   // of the names of repositories, ending in "/" if not empty
	mirror    bool
	login     auth.Credential // a mirror's own
	transport http.RoundTripper
}

// servers are those that have the images of a domain: its mirrors, then the
// registry itself.
func (c *Client) servers(domain string) ([]*server, error) {
	var all []*server
	for _, m := range c.o.Hosts[domain].Mirrors {
		s, err := c.serverAt(m)
		if err != nil {
			return nil, fmt.Errorf("mirror: %w", err)
		}
		s.mirror = true
		all = append(all, s)
	}
	s, err := c.registry(domain, hubRegistry)
	if err != nil {
		return nil, err
	}
	return append(all, s), nil
}

// registry is the registry of a domain; hub is where Docker Hub is.
func (c *Client) registry(domain, hub string) (*server, error) {
	if e := c.o.Hosts[domain].Endpoint; e != "" {
		s, err := c.serverAt(e)
		if err != nil {
			return nil, fmt.Errorf("endpoint: %w", err)
		}
		if s.login != auth.EmptyCredential {
			return nil, errors.New("endpoint: credentials come with each request, not in the URL")
		}
		return s, c.secure(s, domain)
	}
	s := &server{host: domain}
	if domain == hubDomain {
		s.host = hub
	}
	return s, c.secure(s, domain)
}

// serverAt is the server at a URL that somebody configured.
func (c *Client) serverAt(raw string) (*server, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || !isDomain(u.Host) || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("URL %q: want http[s]://HOST[:PORT][/PATH]", u.Redacted())
	}
	s := &server{host: u.Host, schemes: []string{u.Scheme}}
	if p := strings.Trim(u.Path, "/"); p != "" {
		s.prefix = p + "/"
	}
	if u.User != nil {
		s.login.Username = u.User.Username()
		s.login.Password, _ = u.User.Password()
	}
	return s, c.secure(s, u.Host)
}

// secure decides on the schemes of a server and how it is to prove itself, by
// what is configured for name.
func (c *Client) secure(s *server, name string) error {
	conf, sum, err := c.certificates(name)
	if err != nil {
		return err
	}
	insecure := c.insecure(s.host)
	s.local = insecure || isPrivate(s.host)
	skip := c.o.Hosts[name].SkipVerify || insecure && conf == nil
	switch {
	case conf != nil:
		conf.InsecureSkipVerify = skip
		s.transport = c.own.of(name, sum, conf)
	case skip:
		s.transport = c.unverified
	default:
		s.transport = c.verified
	}
	switch {
	case len(s.schemes) > 0: // the URL says it
	case c.o.Hosts[name].PlainHTTP && conf != nil:
		return errors.New("plain HTTP and certificates exclude each other")
	case c.o.Hosts[name].PlainHTTP:
		s.schemes = []string{"http"}
	case conf == nil && s.local:
		s.schemes = []string{"https", "http"}
		s.strict = !insecure
	default:
		s.schemes = []string{"https"}
	}
	return nil
}

// certificates is what TLS needs for a host with certificates of its own, nil
// for others. They are read anew for each use, so that they can be renewed; sum is what
// was read.
func (c *Client) certificates(name string) (conf *tls.Config, sum certSum, err error) {
	var cas []string
	var pairs [][2]string
	if h := c.o.Hosts[name]; h.CA != "" || h.Cert != "" || h.Key != "" {
		if (h.Cert == "") != (h.Key == "") {
			return nil, sum, errors.New("a client certificate and its key go together")
		}
		if h.CA != "" {
			cas = append(cas, h.CA)
		}
		if h.Cert != "" {
			pairs = append(pairs, [2]string{h.Cert, h.Key})
		}
	}
	dir := filepath.Join(c.o.CertsDir, name)
	more, morePairs, err := certsIn(dir)
	if err != nil {
		return nil, sum, err
	}
	return tlsConfig(append(cas, more...), append(pairs, morePairs...))
}

// certsIn lists a directory of certificates in Docker's layout.
func certsIn(dir string) (cas []string, pairs [][2]string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, err
	}
	has := func(name string) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name })
	}
	for _, e := range entries {
		base, ext := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())), filepath.Ext(e.Name())
		switch ext {
		case ".crt":
			cas = append(cas, filepath.Join(dir, e.Name()))
		case ".cert":
			if !has(base + ".key") {
				return nil, nil, fmt.Errorf("missing key %s.key for client certificate %s. CA certificates must use the extension .crt", base, e.Name())
			}
			pairs = append(pairs, [2]string{filepath.Join(dir, e.Name()), filepath.Join(dir, base+".key")})
		case ".key":
			if !has(base + ".cert") {
				return nil, nil, fmt.Errorf("missing client certificate %s.cert for key %s", base, e.Name())
			}
		}
	}
	return cas, pairs, nil
}

func tlsConfig(cas []string, pairs [][2]string) (conf *tls.Config, sum certSum, err error) {
	if len(cas) == 0 && len(pairs) == 0 {
		return nil, sum, nil // a host without certificates of its own
	}
	all := sha256.New()
	read := func(file string) ([]byte, error) {
		data, err := os.ReadFile(file)
		fmt.Fprintf(all, "%q %d %s", file, len(data), data) // a hash never fails
		return data, err
	}
	conf = &tls.Config{MinVersion: tls.VersionTLS12}
	if len(cas) > 0 {
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			return nil, sum, fmt.Errorf("the system's certificates: %w", err)
		}
		for _, ca := range cas {
			pem, err := read(ca)
			if err != nil {
				return nil, sum, err
			}
			if !conf.RootCAs.AppendCertsFromPEM(pem) {
				return nil, sum, fmt.Errorf("%s has no certificate in PEM", ca)
			}
		}
	}
	for _, p := range pairs {
		certPEM, err := read(p[0])
		if err != nil {
			return nil, sum, err
		}
		keyPEM, err := read(p[1])
		if err != nil {
			return nil, sum, err
		}
		cert, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			return nil, sum, err
		}
		conf.Certificates = append(conf.Certificates, cert)
	}
	return conf, certSum(all.Sum(nil)), nil
}
