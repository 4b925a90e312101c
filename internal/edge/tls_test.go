package edge_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/edge"
)

// A connection with a request in flight outlives a change of certificates, and a
// new one sees the new certificate.
func TestReloadKeepsConnections(t *testing.T) {
	for name, http2 := range map[string]bool{"http1": false, "http2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, arrived, release := newFiles(t), make(chan string), make(chan struct{})
			s := start(t, edge.Options{Cert: f.cert, Key: f.key}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/hold" {
					arrived <- r.Proto
					<-release
				}
				_, _ = io.WriteString(w, r.Proto)
			}))
			c := client(t, &tls.Config{RootCAs: f.ca.pool()}, http2)
			held := make(chan error, 1)
			go func() {
				_, err := get(t.Context(), c, s.url("/hold"))
				held <- err
			}()
			if proto := <-arrived; (proto == "HTTP/2.0") != http2 {
				t.Fatalf("the request is %s", proto)
			}
			f.renew(t, 2)
			if err := s.Reload(); err != nil {
				t.Fatal(err)
			}
			fresh := &tls.Config{RootCAs: f.ca.pool()}
			if n, err := serial(t.Context(), s.addr, fresh); n != 2 || err != nil {
				t.Errorf("a new connection sees certificate %d, %v", n, err)
			}
			close(release)
			if err := <-held; err != nil {
				t.Errorf("the request in flight: %v", err)
			}
			reused := false
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
			if _, err := get(ctx, c, s.url("/")); err != nil || !reused {
				t.Errorf("the old connection is used again: %v, %v", reused, err)
			}
		})
	}
}

// Tools swap certificate and key one after the other; what does not match
// meanwhile changes nothing, and what was written last is found without a signal.
func TestReloadByItself(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	s := start(t, edge.Options{Cert: f.cert, Key: f.key}, http.NotFoundHandler())
	config := &tls.Config{RootCAs: f.ca.pool()}
	is := func(want int64) func() bool {
		return func() bool {
			n, err := serial(t.Context(), s.addr, config)
			if err != nil {
				t.Fatalf("a new connection fails: %v", err)
			}
			return n == want
		}
	}
	cert, key := f.ca.issue(t, 2, "next", nil)
	replace(t, f.cert, cert)
	if err := s.Reload(); err == nil || !strings.Contains(err.Error(), f.key) {
		t.Errorf("a key of another certificate: %v", err)
	}
	if !is(1)() {
		t.Error("a pair that does not match is in force")
	}
	eventually(t, "the mismatch is logged", func() bool { return strings.Contains(s.log.String(), "not reloaded") })
	replace(t, f.key, key)
	eventually(t, "the new pair is in force", is(2))

	// As Kubernetes does it: the file is a symbolic link into a directory that is one.
	write(t, f.cert, []byte("-----BEGIN CERTIFICATE-----\nhalf"))
	if err := s.Reload(); err == nil || !strings.Contains(err.Error(), f.cert) || !is(2)() {
		t.Errorf("half a file: %v", err)
	}
	if err := os.Remove(f.cert); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err == nil || !is(2)() {
		t.Errorf("no file: %v", err)
	}
	next := filepath.Join(t.TempDir(), "next")
	cert, key = f.ca.issue(t, 3, "next", nil)
	write(t, next+".crt", cert)
	if err := os.Symlink(next+".crt", f.cert); err != nil {
		t.Fatal(err)
	}
	write(t, f.key, key)
	eventually(t, "the pair behind a link is in force", is(3))
	if strings.Contains(s.log.String(), "PRIVATE") {
		t.Error("the log has a key")
	}
}

func TestFilesThatAreWrong(t *testing.T) {
	f := newFiles(t)
	dir := t.TempDir()
	_, otherKey := f.ca.issue(t, 9, "other", nil)
	cert, _ := os.ReadFile(f.cert)
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(name, text string) string { return write(t, filepath.Join(dir, name), []byte(text)) }
	junk := encode("CERTIFICATE", []byte("junk"))
	huge := file("huge", strings.Repeat("x", 5<<20))
	tests := []struct {
		name string
		o    edge.Options
		want []string
	}{
		{"no file", edge.Options{Cert: dir + "/none", Key: f.key}, []string{dir + "/none", "no such file"}},
		{"a directory", edge.Options{Cert: dir, Key: f.key}, []string{dir, "not a regular file"}},
		{"a pipe", edge.Options{Cert: f.cert, Key: fifo}, []string{fifo, "not a regular file"}},
		{"endless", edge.Options{Cert: "/dev/zero", Key: f.key}, []string{"/dev/zero", "not a regular file"}},
		{"huge", edge.Options{Cert: huge, Key: f.key}, []string{huge, "too large"}},
		{"empty", edge.Options{Cert: file("empty", ""), Key: f.key}, []string{dir + "/empty", "empty"}},
		{"no PEM", edge.Options{Cert: file("der", "\x30\x82"), Key: f.key}, []string{dir + "/der", "not PEM"}},
		{"swapped", edge.Options{Cert: f.key, Key: f.cert}, []string{f.key, "no certificate", "PRIVATE KEY"}},
		{"twice the certificate", edge.Options{Cert: f.cert, Key: f.cert}, []string{f.cert, "no private key", "CERTIFICATE"}},
		{"another key", edge.Options{Cert: f.cert, Key: file("other", string(otherKey))}, []string{f.cert, dir + "/other", "not that of"}},
		{"encrypted key", edge.Options{Cert: f.cert, Key: file("enc", string(encode("ENCRYPTED PRIVATE KEY", []byte("x"))))}, []string{dir + "/enc", "passphrase"}},
		{"old encrypted key", edge.Options{Cert: f.cert, Key: file("enc2", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n")}, []string{dir + "/enc2", "passphrase"}},
		{"junk certificate", edge.Options{Cert: file("junk", string(junk)), Key: f.key}, []string{dir + "/junk", "cannot be read"}},
		{"junk key", edge.Options{Cert: f.cert, Key: file("junkkey", string(encode("PRIVATE KEY", []byte("junk"))))}, []string{dir + "/junkkey", "cannot be read"}},
		{"half a pair", edge.Options{Cert: f.cert}, []string{"both files"}},
		{"both ways", edge.Options{Cert: f.cert, Key: f.key, ACME: edge.ACME{Domains: []string{"a.example"}, Storage: dir}}, []string{"not both"}},
		{"client authority without TLS", edge.Options{ClientCA: f.cert}, []string{"need TLS"}},
		{"no client authority", edge.Options{Cert: f.cert, Key: f.key, ClientCA: f.key}, []string{f.key, "no certificate"}},
		{"junk client authority", edge.Options{Cert: f.cert, Key: f.key, ClientCA: file("cas", string(cert)+string(junk))}, []string{dir + "/cas", "cannot be read"}},
		{"redirect to nowhere", edge.Options{RedirectAddr: ":0"}, []string{"no https"}},
		{"public URL", edge.Options{PublicURL: "registry.example.com"}, []string{"https://"}},
		{"PROXY from nobody", edge.Options{ProxyProtocol: true}, []string{"trusted"}},
		{"no range", edge.Options{TrustedProxies: []netip.Prefix{{}}}, []string{"range"}},
		{"wildcard", edge.Options{ACME: edge.ACME{Domains: []string{"*.a.example"}, Storage: dir}}, []string{"*.a.example", "wildcard"}},
		{"no host", edge.Options{ACME: edge.ACME{Domains: []string{"a.example/x"}, Storage: dir}}, []string{"a.example/x"}},
		{"no storage", edge.Options{ACME: edge.ACME{Domains: []string{"a.example"}}}, []string{"directory"}},
		{"storage is a file", edge.Options{ACME: edge.ACME{Domains: []string{"a.example"}, Storage: f.cert}}, []string{f.cert}},
		{"plain directory", edge.Options{ACME: edge.ACME{Domains: []string{"a.example"}, Storage: dir, Directory: "http://acme.example/dir"}}, []string{"https"}},
		{"no directory authority", edge.Options{ACME: edge.ACME{Domains: []string{"a.example"}, Storage: dir, DirectoryCA: f.key}}, []string{f.key, "no certificate"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e, err := edge.New(t.Context(), test.o)
			if err == nil {
				_ = e.Close()
				t.Fatal("accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v; does not say %q", err, want)
				}
			}
		})
	}
}

// A certificate that clients refuse is served, and the operator is told.
func TestCertificateWarnings(t *testing.T) {
	dir, ca := t.TempDir(), newAuthority(t, "test")
	for want, change := range map[string]func(*x509.Certificate){
		"has expired":   func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
		"not valid yet": func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) },
		"names no host": func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil },
	} {
		cert, key := ca.issue(t, 1, "x", change)
		var log buffer
		e, err := edge.New(t.Context(), edge.Options{
			Cert: write(t, dir+"/cert", cert), Key: write(t, dir+"/key", key), Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := e.Reload(); err != nil {
				t.Error(err)
			}
		}
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("%s: told %d times\n%s", want, n, &log)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestProtocols(t *testing.T) {
	f := newFiles(t)
	s := start(t, edge.Options{Cert: f.cert, Key: f.key}, http.NotFoundHandler())
	for name, test := range map[string]struct {
		c    *tls.Config
		alpn string
		fail bool
	}{
		"TLS 1.1":  {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "", true},
		"TLS 1.2":  {&tls.Config{MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}, "h2", false},
		"TLS 1.3":  {&tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}}, "h2", false},
		"HTTP/1.1": {&tls.Config{NextProtos: []string{"http/1.1"}}, "http/1.1", false},
		"no ALPN":  {&tls.Config{}, "", false},
		"ACME":     {&tls.Config{NextProtos: []string{"acme-tls/1"}}, "", true}, // RFC 7301, section 3.2
	} {
		test.c.RootCAs = f.ca.pool()
		conn, err := (&tls.Dialer{Config: test.c}).DialContext(t.Context(), "tcp", s.addr)
		if (err != nil) != test.fail {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		if got := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != test.alpn {
			t.Errorf("%s: got %q", name, got)
		}
		_ = conn.Close()
	}
	plain := start(t, edge.Options{}, http.NotFoundHandler())
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	defer h2c.CloseIdleConnections()
	if _, err := get(t.Context(), &http.Client{Transport: h2c}, plain.url("/")); err == nil || strings.HasPrefix(err.Error(), "404") {
		t.Errorf("HTTP/2 without TLS: %v", err)
	}
}

// Closing stops the watching, and twice is once.
func TestClose(t *testing.T) {
	f := newFiles(t)
	ctx, cancel := context.WithCancel(t.Context())
	e, err := edge.New(ctx, edge.Options{Cert: f.cert, Key: f.key})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for range 2 {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := e.Reload(); err != nil {
		t.Error(err)
	}
}
