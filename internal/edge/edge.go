// Package edge is how the registry meets the network: TLS with certificates that
// change while it runs, ACME, client certificates, the redirect from plain HTTP,
// and what proxies in front of it tell of the client.
//
// It promises that a connection in use outlives a change of certificates, that a
// file that is wrong leaves the last good one in force, and that nobody but a
// trusted proxy is believed about who the client is and what it asked for: behind
// Handler, a request's RemoteAddr is the client's, Base is where the client found
// the registry, and the headers that say either are gone.
//
// It decides nothing about who may do what: a client's certificate that a known
// authority has signed is in Request.TLS, for others to judge. It does not watch
// revocation lists.
package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/internal/daemon"
)

// Options are what an Edge can be told.
type Options struct {
	// Addr is the host:port to listen on; see daemon.Listen.
	Addr string
	// Patience is how long a client may take nothing of what it is sent before its
	// connection is broken off.
	Patience time.Duration
	// Cert and Key are PEM files of the certificate with its intermediates, its own
	// first, and of its private key; both or neither.
	Cert, Key string
	// ClientCA is a PEM file of the authorities of client certificates, or empty. A
	// client need not have a certificate; one of another authority is refused.
	ClientCA string
	// ACME obtains certificates by itself, in place of Cert and Key.
	ACME ACME
	// RedirectAddr is the host:port where plain HTTP is redirected to https and
	// HTTP-01 challenges of ACME are answered, or empty.
	RedirectAddr string
	// PublicURL is the scheme and host, like https://registry.example.com, that
	// clients are told of, whatever they asked for; or empty.
	PublicURL string
	// TrustedProxies are the addresses whose X-Forwarded-*, Forwarded and PROXY
	// headers are believed.
	TrustedProxies []netip.Prefix
	// ProxyProtocol says that every connection from TrustedProxies begins with a
	// header of the PROXY protocol, version 1 or 2. That of another is served as it
	// is: a PROXY header there is no HTTP.
	ProxyProtocol bool
	// Log receives what the operator should know. May be nil.
	Log *slog.Logger
}

// Edge meets the network. Its methods may be called concurrently.
type Edge struct {
	o       Options
	log     *slog.Logger
	trusted []netip.Prefix
	public  string // Options.PublicURL without a slash at its end
	files   *files // nil without Options.Cert and ClientCA
	acme    *acme  // nil without Options.ACME

	config    atomic.Pointer[tls.Config] // for a connection that begins now; nil without TLS
	port      atomic.Int32               // that Listen has got
	listening sync.Mutex
	redirect  []net.Listener // that Listen has made for RedirectServer

	cancel context.CancelFunc
	wait   func() // until nothing watches files any more
}

// New reads the certificates and watches them until ctx ends or Close. An error
// names the file and what is wrong with it.
func New(ctx context.Context, o Options) (*Edge, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e := &Edge{o: o, log: o.Log, wait: func() {}}
	if err := e.check(); err != nil {
		return nil, err
	}
	ctx, e.cancel = context.WithCancel(ctx)
	if err := e.begin(ctx); err != nil {
		e.cancel()
		return nil, err
	}
	return e, nil
}

// check holds the options to what they promise, and keeps them in the form that
// requests need.
func (e *Edge) check() (err error) {
	o := e.o
	switch {
	case (o.Cert == "") != (o.Key == ""):
		return errors.New("a certificate needs a private key, and a key a certificate: give both files or neither")
	case o.Cert != "" && o.ACME.enabled():
		return errors.New("certificates are either read from files or obtained by ACME, not both")
	case o.ClientCA != "" && !e.TLS():
		return errors.New("client certificates need TLS: give a certificate and a key, or use ACME")
	case o.ProxyProtocol && len(o.TrustedProxies) == 0:
		return errors.New("the PROXY protocol needs trusted proxies: nobody else is asked for its header")
	}
	for _, p := range o.TrustedProxies {
		if !p.IsValid() {
			return errors.New("a trusted proxy is not an address or a range of addresses")
		}
		e.trusted = append(e.trusted, unmapped(p))
	}
	if o.PublicURL != "" {
		if e.public, err = publicBase(o.PublicURL); err != nil {
			return err
		}
	}
	if o.RedirectAddr != "" && !e.TLS() && schemeOf(e.public) != schemeHTTPS {
		return errors.New("there is no https to redirect to: give a certificate and a key, use ACME, or set a public URL")
	}
	return nil
}

// begin reads what there is to read and watches it.
func (e *Edge) begin(ctx context.Context) error {
	if !e.TLS() {
		return nil
	}
	e.files = &files{certFile: e.o.Cert, keyFile: e.o.Key, caFile: e.o.ClientCA, log: e.log}
	if _, err := e.files.read(); err != nil {
		return err
	}
	if e.o.ACME.enabled() {
		var err error
		if e.acme, err = newACME(e.o, e.log); err != nil {
			return err
		}
		context.AfterFunc(ctx, e.acme.close)
	}
	e.configure()
	e.watch(ctx)
	return nil
}

// TLS says whether connections are served by TLS.
func (e *Edge) TLS() bool { return e.o.Cert != "" || e.o.ACME.enabled() }

// Listen listens on Addr, and on RedirectAddr for RedirectListeners. Connections
// are plain TCP: Serve adds TLS. Without the PROXY protocol they are *net.TCPConn,
// so that files are sent without a copy.
func (e *Edge) Listen(ctx context.Context) ([]net.Listener, error) {
	listeners, err := e.listen(ctx, e.o.Addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", e.o.Addr, err)
	}
	if a, ok := listeners[0].Addr().(*net.TCPAddr); ok {
		e.port.Store(int32(a.Port))
	}
	if e.o.RedirectAddr != "" {
		redirect, err := e.listen(ctx, e.o.RedirectAddr)
		if err != nil {
			closeAll(listeners)
			return nil, fmt.Errorf("cannot listen on %s to redirect from: %w", e.o.RedirectAddr, err)
		}
		e.listening.Lock()
		e.redirect = redirect
		e.listening.Unlock()
	}
	return listeners, nil
}

func (e *Edge) listen(ctx context.Context, addr string) ([]net.Listener, error) {
	listeners, err := daemon.Listen(ctx, addr, e.o.Patience)
	if err != nil {
		return nil, err
	}
	if e.o.ProxyProtocol {
		for i, l := range listeners {
			listeners[i] = e.proxied(l)
		}
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close() // it serves nobody yet
	}
}

// RedirectListeners are those that RedirectServer is to serve, after Listen; none
// without RedirectAddr.
func (e *Edge) RedirectListeners() []net.Listener {
	e.listening.Lock()
	defer e.listening.Unlock()
	return slices.Clone(e.redirect)
}

// The limits of a connection that carries several requests (RFC 9113, sections
// 5.1.2 and 5.2). A stream's buffer is what a push can have under way, and a
// connection's has room for several: with the 64 KiB that the protocol starts with,
// one over a long line would be slow.
const (
	streams          = 250
	streamBuffer     = 1 << 20
	connectionBuffer = 4 << 20
)

// Configure sets how s speaks TLS and HTTP/2, and lets Base know the Edge. It
// keeps the BaseContext and ConnContext that s has.
func (e *Edge) Configure(s *http.Server) {
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	if e.TLS() {
		s.Protocols.SetHTTP2(true)
		s.HTTP2 = &http.HTTP2Config{
			MaxConcurrentStreams:          streams,
			MaxReceiveBufferPerConnection: connectionBuffer,
			MaxReceiveBufferPerStream:     streamBuffer,
		}
		s.TLSConfig = &tls.Config{
			MinVersion: tls.VersionTLS12,
			NextProtos: []string{"h2", "http/1.1"},
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				return e.config.Load(), nil
			},
		}
	}
	e.setContexts(s)
}

// Serve serves the connections of l, by TLS if TLS says so. It returns what
// http.Server.Serve does.
func (e *Edge) Serve(s *http.Server, l net.Listener) error {
	if !e.TLS() {
		return s.Serve(l)
	}
	if e.acme != nil {
		e.acme.begin(e.listenPorts())
	}
	return s.ServeTLS(l, "", "")
}

// Close stops watching files and obtaining certificates, and waits until that has
// stopped. Connections go on.
func (e *Edge) Close() error {
	e.cancel()
	e.wait()
	if e.acme != nil {
		e.acme.close()
	}
	return nil
}
