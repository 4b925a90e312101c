package edge_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/edge"
)

// authority is one that certificates are issued by.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newKey makes a key of any name; keys are made once for each test.
func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func newAuthority(tb testing.TB, name string) *authority {
	tb.Helper()
	key := newKey(tb)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pem() []byte { return encode("CERTIFICATE", a.cert.Raw) }

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue returns a certificate with the serial number for localhost and for a client
// named name, and its key, in PEM; change may change it before.
func (a *authority) issue(tb testing.TB, serial int64, name string, change func(*x509.Certificate)) (cert, key []byte) {
	tb.Helper()
	private := newKey(tb)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost", "registry.example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		tb.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func write(tb testing.TB, path string, data []byte) string {
	tb.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// replace writes a file beside path and renames it.
func replace(tb testing.TB, path string, data []byte) {
	tb.Helper()
	if err := os.Rename(write(tb, path+".new", data), path); err != nil {
		tb.Fatal(err)
	}
}

// files are a certificate and its key on disk.
type files struct {
	ca        *authority
	cert, key string
}

func newFiles(tb testing.TB) *files {
	tb.Helper()
	dir := tb.TempDir()
	f := &files{newAuthority(tb, "test"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	cert, key := f.ca.issue(tb, 1, "one", nil)
	write(tb, f.cert, cert)
	write(tb, f.key, key)
	return f
}

// renew replaces certificate and key.
func (f *files) renew(tb testing.TB, serial int64) {
	tb.Helper()
	cert, key := f.ca.issue(tb, serial, "next", nil)
	replace(tb, f.cert, cert)
	replace(tb, f.key, key)
}

// server is an Edge that serves.
type server struct {
	*edge.Edge
	addr     string
	redirect string // address of, or empty
	log      *buffer
}

// start serves h until the test ends.
func start(tb testing.TB, o edge.Options, h http.Handler) *server {
	tb.Helper()
	s := &server{log: new(buffer)}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	o.Log = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if o.Patience == 0 {
		o.Patience = time.Minute
	}
	e, err := edge.New(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("log:\n%s", s.log)
		}
	})
	listeners, err := e.Listen(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	s.Edge, s.addr = e, listeners[0].Addr().String()
	main := &http.Server{Handler: e.Handler(h), ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.NewTextHandler(s.log, nil), slog.LevelDebug)}
	e.Configure(main)
	var tasks sync.WaitGroup
	serve := func(srv *http.Server, l net.Listener, serve func(*http.Server, net.Listener) error) {
		tasks.Go(func() {
			if err := serve(srv, l); !errors.Is(err, http.ErrServerClosed) {
				tb.Errorf("serve: %v", err)
			}
		})
	}
	redirect := e.RedirectServer()
	for _, l := range e.RedirectListeners() {
		s.redirect = l.Addr().String()
		serve(redirect, l, (*http.Server).Serve)
	}
	for _, l := range listeners {
		serve(main, l, e.Serve)
	}
	tb.Cleanup(func() {
		_ = main.Close() // tests have read what they wait for
		if redirect != nil {
			_ = redirect.Close()
		}
		tasks.Wait()
	})
	return s
}

// url is where the server is, on this host.
func (s *server) url(path string) string {
	if s.TLS() {
		return "https://" + s.addr + path
	}
	return "http://" + s.addr + path
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// client makes an HTTP client of its own connections.
func client(tb testing.TB, c *tls.Config, http2 bool) *http.Client {
	tb.Helper()
	t := &http.Transport{TLSClientConfig: c, Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP1(!http2)
	t.Protocols.SetHTTP2(http2)
	tb.Cleanup(t.CloseIdleConnections)
	return &http.Client{
		Transport: t, Timeout: time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get returns the body of an answer that is 200.
func get(ctx context.Context, c *http.Client, url string, header ...string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Add(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, body)
	}
	return string(body), err
}

// serial is the serial number of the certificate that a new connection gets.
func serial(ctx context.Context, addr string, c *tls.Config) (int64, error) {
	d := tls.Dialer{Config: c}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

// eventually waits until ok, which must be soon.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			tb.Fatalf("not after half a minute: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
