package edge

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"go.uber.org/zap"

	"github.com/berth-registry/berth/internal/durable"
)

// challengeProtocol is what an ACME server speaks when it asks for a TLS-ALPN-01
// challenge (RFC 8737, section 3).
const challengeProtocol = acmez.ACMETLS1Protocol

// ACME says how certificates are obtained (RFC 8555). Using it agrees to the terms
// of service of the authority.
type ACME struct {
	// Domains are the names that certificates are for, one each; none turns ACME
	// off. The first one's is also that for clients that do not say a name.
	Domains []string
	// Email is where the authority reaches the operator, or empty.
	Email string
	// Directory is the https URL of the authority; Let's Encrypt's if empty.
	Directory string
	// DirectoryCA is a PEM file of the authorities of the directory's own
	// certificate, in place of the system's; or empty.
	DirectoryCA string
	// Storage is the directory of the account, the keys and the certificates.
	Storage string
}

func (a ACME) enabled() bool { return len(a.Domains) > 0 }

// check holds the options to what they promise.
func (a ACME) check() error {
	for _, d := range a.Domains {
		switch {
		case strings.Contains(d, "*"):
			return fmt.Errorf("ACME: %s: a wildcard needs a challenge by DNS, which there is not here: name each host", d)
		case !certmagic.SubjectQualifiesForCert(d) || strings.ContainsAny(d, ":/@ "):
			return fmt.Errorf("ACME: %q is not the name of a host", d)
		}
	}
	if a.Storage == "" {
		return errors.New("ACME needs a directory to store certificates in")
	}
	if u, err := url.Parse(a.Directory); err != nil || a.Directory != "" && (u.Scheme != schemeHTTPS || u.Host == "") {
		return errors.New("ACME: the directory must be the https URL of an authority")
	}
	return nil
}

// acme obtains certificates and keeps them.
type acme struct {
	o      ACME
	log    *slog.Logger
	config *certmagic.Config
	cache  *certmagic.Cache
	issuer *certmagic.ACMEIssuer
	once   sync.Once // begins

	tasks  sync.WaitGroup // that obtain certificates
	closed sync.Once

	mu     sync.Mutex
	cancel context.CancelFunc // of the tasks; nil before they begin
	wake   chan struct{}      // closed, and another made, to ask again at once
}

func newACME(o Options, log *slog.Logger) (*acme, error) {
	if err := o.ACME.check(); err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(o.ACME.Storage); err != nil {
		return nil, fmt.Errorf("ACME: cannot use the directory of certificates: %w", err)
	}
	bridge := zap.New(&zapCore{log: log.With("component", "acme")})
	a := &acme{o: o.ACME, log: log, wake: make(chan struct{})}
	template := certmagic.ACMEIssuer{
		CA: a.o.Directory, Email: a.o.Email, Agreed: true, Logger: bridge,
		ListenHost: listenHost(o), DisableHTTPChallenge: o.RedirectAddr == "",
	}
	if template.CA == "" {
		template.CA, template.TestCA = certmagic.LetsEncryptProductionCA, certmagic.LetsEncryptStagingCA
	}
	if a.o.DirectoryCA != "" {
		var err error
		if template.TrustedRoots, err = loadPool(a.o.DirectoryCA); err != nil {
			return nil, fmt.Errorf("ACME: %w", err)
		}
	}
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return a.config, nil },
		Logger:           bridge,
	})
	a.config = certmagic.New(a.cache, certmagic.Config{
		DefaultServerName: a.o.Domains[0],
		KeySource:         certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		Storage:           &certmagic.FileStorage{Path: a.o.Storage},
		Logger:            bridge,
	})
	a.issuer = certmagic.NewACMEIssuer(a.config, template)
	a.config.Issuers = []certmagic.Issuer{a.issuer}
	return a, nil
}

// listenHost is where challenges are answered: by our own listeners. certmagic
// would listen there itself, and finds that it need not.
func listenHost(o Options) string {
	for _, addr := range []string{o.Addr, o.RedirectAddr} {
		if host, _, err := net.SplitHostPort(addr); err == nil && host != "" {
			return host
		}
	}
	return ""
}

// begin obtains what certificates are missing, in the background, now that the
// ports are listened on. It does so once.
func (a *acme) begin(main, redirect int) {
	a.once.Do(func() {
		a.issuer.AltTLSALPNPort, a.issuer.AltHTTPPort = main, redirect
		ctx, cancel := context.WithCancel(context.Background())
		a.mu.Lock()
		a.cancel = cancel
		a.mu.Unlock()
		for _, domain := range a.o.Domains {
			domain = strings.ToLower(domain) // as it is stored, and as clients are compared
			a.tasks.Go(func() { a.manage(ctx, domain) })
		}
	})
}

// rest is how long a certificate that the authority will not give is not asked for.
const rest = time.Hour

// manage obtains the certificate of a domain, unless it is stored, and has it
// renewed from then on. certmagic tries again by itself, ever more slowly, and
// gives up at last; here nothing does.
func (a *acme) manage(ctx context.Context, domain string) {
	for forgot := false; ; {
		wake := a.waker()
		err := a.obtain(ctx, wake, domain)
		if err == nil {
			if err = a.stored(ctx, domain); err != nil && !forgot && a.forget(ctx, domain, err) {
				forgot = true
				continue
			}
		}
		if err == nil {
			err = a.config.ManageAsync(ctx, []string{domain})
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		select {
		case <-wake: // has ended the attempt, or does so now
			continue
		default:
		}
		a.log.ErrorContext(ctx, "no certificate obtained", "domain", domain, "error", err, "again_in", rest.String())
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-time.After(rest):
		}
	}
}

// obtain asks for a certificate until there is one, or wake says to begin anew.
func (a *acme) obtain(ctx context.Context, wake <-chan struct{}, domain string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-wake:
			cancel()
		case <-ctx.Done():
		}
	}()
	return a.config.ObtainCertAsync(ctx, domain)
}

// errTorn says that what is stored of a certificate does not belong together.
var errTorn = errors.New("the stored certificate cannot be used")

// stored says whether the certificate that is stored can be served. certmagic writes
// key, certificate and what it knows of them one after the other: a process that is
// killed between leaves some that do not belong together.
func (a *acme) stored(ctx context.Context, domain string) error {
	keys, issuer := certmagic.StorageKeys, a.issuer.IssuerKey()
	var parts [3][]byte
	for i, name := range []string{keys.SiteCert(issuer, domain), keys.SitePrivateKey(issuer, domain), keys.SiteMeta(issuer, domain)} {
		var err error
		if parts[i], err = a.config.Storage.Load(ctx, name); err != nil {
			return err
		}
	}
	if _, err := tls.X509KeyPair(parts[0], parts[1]); err != nil {
		return fmt.Errorf("%w: %w", errTorn, err)
	}
	if !json.Valid(parts[2]) {
		return fmt.Errorf("%w: what is known of it is no JSON", errTorn)
	}
	return nil
}

// forget removes a stored certificate that is torn, so that another is obtained,
// and says whether it has.
func (a *acme) forget(ctx context.Context, domain string, unusable error) bool {
	if !errors.Is(unusable, errTorn) {
		return false // what cannot be read may be whole
	}
	a.log.WarnContext(ctx, "another certificate is obtained", "domain", domain, "reason", unusable)
	err := a.config.Storage.Delete(ctx, certmagic.StorageKeys.SiteCert(a.issuer.IssuerKey(), domain))
	return err == nil
}

func (a *acme) waker() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wake
}

// again asks at once for the certificates that are missing.
func (a *acme) again() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.wake)
	a.wake = make(chan struct{})
}

// close ends all that begin has begun, and returns when it has ended.
func (a *acme) close() {
	a.closed.Do(func() {
		a.once.Do(func() {}) // it does not begin any more
		a.mu.Lock()
		cancel := a.cancel
		a.mu.Unlock()
		if cancel != nil {
			cancel()
		}
		a.tasks.Wait()
		a.cache.Stop()
	})
}

// certificate is that for a client. For a name that there is none for, the client
// gets the alert unrecognized_name (RFC 6066, section 3), which crypto/tls sends
// if it gets neither certificate nor error.
func (a *acme) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, err := a.config.GetCertificate(hello)
	if err == nil && cert != nil && len(cert.Certificate) > 0 {
		return cert, nil
	}
	a.log.DebugContext(hello.Context(), "no certificate for the name that a client asks for",
		"name", hello.ServerName, "client", hello.Conn.RemoteAddr().String(), "reason", err)
	return nil, nil //nolint:nilnil // crypto/tls has a meaning for it
}
