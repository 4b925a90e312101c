package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/runnerconfig"
)

// TestListenUnixRace starts many at once on a socket that is left over: one wins,
// the others say who.
func TestListenUnixRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var mu sync.Mutex
	var won []net.Listener
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			l, err := listenUnix(t.Context(), runnerconfig.Socket{Path: path}, slog.New(slog.DiscardHandler))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, l)
			} else if !strings.Contains(err.Error(), "does already") {
				t.Errorf("listenUnix: %v", err)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Fatalf("%d listen on one socket", len(won))
	}
	if got := won[0].Addr().String(); got != path {
		t.Errorf("the address is %s, want %s", got, path)
	}
	if err := won[0].Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket after Close: %v", err)
	}
}

// TestListenUnixSuccessor checks that who stops does not remove the socket of who
// has come after it.
func TestListenUnixSuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	open := func() *unixListener {
		l, err := listenUnix(t.Context(), runnerconfig.Socket{Path: path, Group: "0"}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return l.(*unixListener)
	}
	first := open()
	if err := first.Listener.Close(); err != nil { // as if it were killed
		t.Fatal(err)
	}
	second := open()
	defer second.Close()
	_ = first.Close() // it is closed already
	if _, err := net.Dial("unix", path); err != nil {
		t.Errorf("the second's socket: %v", err)
	}
}

// TestListenTLS checks that only clients with a certificate of the authority are
// served.
func TestListenTLS(t *testing.T) {
	dir := t.TempDir()
	ca, caKey := certificate(t, nil, nil)
	other, otherKey := certificate(t, nil, nil)
	server, serverKey := certificate(t, ca, caKey)
	write := func(name string, blocks ...*pem.Block) string {
		var text []byte
		for _, b := range blocks {
			text = append(text, pem.EncodeToMemory(b)...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg := runnerconfig.TCP{Addr: "localhost:0", TLS: runnerconfig.TLS{
		Cert: write("cert", certBlock(server)), Key: write("key", keyBlock(t, serverKey)), ClientCA: write("ca", certBlock(ca)),
	}}
	listeners, err := listenTLS(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
	}
	defer hs.Close()
	for _, l := range listeners {
		go func() { _ = hs.Serve(l) }()
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	get := func(scheme string, certs ...tls.Certificate) (int, error) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: certs}}}
		defer client.CloseIdleConnections()
		resp, err := client.Get(scheme + "://" + listeners[0].Addr().String())
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	client, clientKey := certificate(t, ca, caKey)
	if status, err := get("https", tls.Certificate{Certificate: [][]byte{client.Raw}, PrivateKey: clientKey}); status != http.StatusTeapot {
		t.Errorf("with a certificate: %d, %v", status, err)
	}
	if _, err := get("https"); err == nil {
		t.Error("a client without a certificate is served")
	}
	stranger, strangerKey := certificate(t, other, otherKey)
	if _, err := get("https", tls.Certificate{Certificate: [][]byte{stranger.Raw}, PrivateKey: strangerKey}); err == nil {
		t.Error("a client with the certificate of another authority is served")
	}
	if status, err := get("http"); err == nil && status == http.StatusTeapot {
		t.Error("a client without TLS is served")
	}
	for _, broken := range []runnerconfig.TLS{
		{Cert: "/nope", Key: cfg.TLS.Key, ClientCA: cfg.TLS.ClientCA},
		{Cert: cfg.TLS.Cert, Key: cfg.TLS.Key, ClientCA: "/nope"},
		{Cert: cfg.TLS.Cert, Key: cfg.TLS.Key, ClientCA: cfg.TLS.Key},
	} {
		if _, err := listenTLS(context.Background(), runnerconfig.TCP{Addr: "localhost:0", TLS: broken}); err == nil {
			t.Errorf("%+v is accepted", broken)
		}
	}
}

// certificate makes a certificate; without a parent it is an authority.
func certificate(t *testing.T, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: parent == nil, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func certBlock(c *x509.Certificate) *pem.Block { return &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw} }

func keyBlock(t *testing.T, key *ecdsa.PrivateKey) *pem.Block {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &pem.Block{Type: "PRIVATE KEY", Bytes: der}
}
