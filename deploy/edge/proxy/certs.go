package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"go.uber.org/zap"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/edge"
)

// certs finds the certificate of each name.
type certs struct {
	mode     func(host string) deploy.TLSMode
	own      *ownCerts
	acme     *authority
	issuer   *certmagic.ACMEIssuer // of acme
	internal *authority
}

// authority has certificates of one authority, which it renews.
type authority struct {
	config *certmagic.Config
	cache  *certmagic.Cache
	log    *zap.Logger

	mu    sync.Mutex
	names map[string]context.CancelFunc // that it has certificates of
}

func newAuthority(storage string, log *zap.Logger) *authority {
	a := &authority{log: log, names: map[string]context.CancelFunc{}}
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return a.config, nil },
		Logger:           log,
	})
	a.config = certmagic.New(a.cache, certmagic.Config{
		KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		Storage:   &certmagic.FileStorage{Path: storage},
		Logger:    log,
	})
	return a
}

func newCerts(ctx caddy.Context, o edge.Options, l listeners, mode func(string) deploy.TLSMode) (*certs, error) {
	own, err := newOwnCerts(o.Certs, ctx.Slogger())
	if err != nil {
		return nil, err
	}
	c := &certs{
		mode: mode, own: own,
		acme:     newAuthority(filepath.Join(o.Data, "acme"), ctx.Logger().Named("acme")),
		internal: newAuthority(filepath.Join(o.Data, "internal"), ctx.Logger().Named("internal")),
	}
	template, err := acmeTemplate(o, l)
	if err != nil {
		return nil, err
	}
	template.Logger = c.acme.log
	c.issuer = certmagic.NewACMEIssuer(c.acme.config, template)
	c.acme.config.Issuers = []certmagic.Issuer{c.issuer}
	internal := new(caddytls.InternalIssuer)
	if err := internal.Provision(ctx); err != nil {
		return nil, fmt.Errorf("the edge's own authority: %w", err)
	}
	c.internal.config.Issuers = []certmagic.Issuer{internal}
	return c, nil
}

// acmeTemplate is how certificates are obtained.
func acmeTemplate(o edge.Options, l listeners) (certmagic.ACMEIssuer, error) {
	t := certmagic.ACMEIssuer{
		CA: o.ACME.Directory, Email: o.ACME.Email, Agreed: true,
		DisableHTTPChallenge: o.HTTP == "", DisableTLSALPNChallenge: o.HTTPS == "",
	}
	if t.CA == "" {
		t.CA, t.TestCA = certmagic.LetsEncryptProductionCA, certmagic.LetsEncryptStagingCA
	}
	// certmagic would answer challenges on sockets of its own, and finds that it need
	// not: these are ours.
	for name, port := range map[string]*int{plainName: &t.AltHTTPPort, secureName: &t.AltTLSALPNPort} {
		if l[name] == nil {
			continue
		}
		*port = l[name].Addr().(*net.TCPAddr).Port
		if host, _, err := net.SplitHostPort(l[name].address); err == nil && host != "" {
			t.ListenHost = host
		}
	}
	if o.ACME.DirectoryCA != "" {
		pem, err := os.ReadFile(o.ACME.DirectoryCA)
		if err != nil {
			return t, err
		}
		t.TrustedRoots = x509.NewCertPool()
		if !t.TrustedRoots.AppendCertsFromPEM(pem) {
			return t, fmt.Errorf("there is no certificate in %s", o.ACME.DirectoryCA)
		}
	}
	return t, nil
}

// config is what clients are spoken to by.
func (c *certs) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1", acmez.ACMETLS1Protocol},
		GetCertificate: c.certificate,
	}
}

// certificate is that for a client. For a name that there is none for, the client gets
// the alert unrecognized_name (RFC 6066, section 3), which crypto/tls sends if it gets
// neither certificate nor error.
func (c *certs) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if slices.Equal(hello.SupportedProtos, []string{acmez.ACMETLS1Protocol}) {
		return c.acme.config.GetCertificate(hello)
	}
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	mode := c.mode(name)
	if mode == deploy.TLSOff {
		return nil, nil //nolint:nilnil // crypto/tls has a meaning for it
	}
	if cert := c.own.find(name); cert != nil {
		return cert, nil
	}
	from := c.acme
	if mode == deploy.TLSInternal {
		from = c.internal
	}
	cert, err := from.config.GetCertificate(hello)
	if err != nil || cert == nil || len(cert.Certificate) == 0 {
		return nil, nil //nolint:nilnil,nilerr // as above: there is none yet
	}
	return cert, nil
}

// has says whether there is a certificate of the operator's for a name, which may be a
// wildcard.
func (c *certs) has(host string) bool { return c.own.find(host) != nil }

// challenge answers an authority that asks whether a name leads here (RFC 8555, section
// 8.3), and says whether the request was one.
func (c *certs) challenge(w http.ResponseWriter, r *http.Request) bool {
	return r.TLS == nil && c.issuer.HandleHTTPChallenge(w, r)
}

// wanted is the names that certificates are to be had of.
func (c *certs) wanted(owners map[string][]deploy.EdgeRoute) map[deploy.TLSMode][]string {
	names := map[deploy.TLSMode][]string{}
	for _, routes := range owners {
		for _, r := range routes {
			for _, host := range r.Hosts {
				if r.TLS != deploy.TLSOff && !c.has(host) && !slices.Contains(names[r.TLS], host) {
					names[r.TLS] = append(names[r.TLS], host)
				}
			}
		}
	}
	return names
}

func (c *certs) close() {
	for _, a := range []*authority{c.acme, c.internal} {
		a.keep(nil)
		a.cache.Stop()
	}
}

// named is a name with the context of what is done for it.
type named struct {
	name string
	ctx  func() context.Context
}

// add returns the names that are new.
func (a *authority) add(wanted []string) []named {
	a.mu.Lock()
	defer a.mu.Unlock()
	var added []named
	for _, name := range wanted {
		if a.names[name] == nil {
			ctx, cancel := context.WithCancel(context.Background())
			a.names[name] = cancel
			added = append(added, named{name, func() context.Context { return ctx }})
		}
	}
	return added
}

// keep lets go of all names but some.
func (a *authority) keep(wanted []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, cancel := range a.names {
		if !slices.Contains(wanted, name) {
			cancel()
			delete(a.names, name)
			a.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: name}})
		}
	}
}

// make has certificates of names when it returns.
func (a *authority) make(names []string) error {
	for _, n := range a.add(names) {
		a.mend(n.ctx(), n.name)
		if err := a.config.ManageSync(n.ctx(), []string{n.name}); err != nil {
			a.forget(n.name)
			return fmt.Errorf("certificate of %s: %w", n.name, err)
		}
	}
	return nil
}

// obtain obtains certificates of names, for as long as it takes.
func (a *authority) obtain(names []string) {
	for _, n := range a.add(names) {
		a.mend(n.ctx(), n.name)
		if err := a.config.ManageAsync(n.ctx(), []string{n.name}); err != nil {
			a.log.Error("no certificate is obtained", zap.String("name", n.name), zap.Error(err))
		}
	}
}

// forget has a name tried again when it is wanted the next time.
func (a *authority) forget(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if cancel := a.names[name]; cancel != nil {
		cancel()
		delete(a.names, name)
	}
}

// mend removes a stored certificate that cannot be used: certmagic writes the key, the
// certificate and what it knows of them one after the other, and may be killed between.
func (a *authority) mend(ctx context.Context, name string) {
	keys, issuer := certmagic.StorageKeys, a.config.Issuers[0].IssuerKey()
	var parts [3][]byte
	for i, path := range []string{keys.SiteCert(issuer, name), keys.SitePrivateKey(issuer, name), keys.SiteMeta(issuer, name)} {
		var err error
		if parts[i], err = a.config.Storage.Load(ctx, path); err != nil {
			return // it is not there, and obtained
		}
	}
	_, err := tls.X509KeyPair(parts[0], parts[1])
	if err == nil && json.Valid(parts[2]) {
		return
	}
	a.log.Warn("a stored certificate cannot be used, and another one is obtained", zap.String("name", name), zap.Error(err))
	if err := a.config.Storage.Delete(ctx, keys.SiteCert(issuer, name)); err != nil {
		a.log.Error("it cannot be removed", zap.String("name", name), zap.Error(err))
	}
}
