package upstream_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
)

var noTime time.Time

// getJSON gets an answer as hatter.
func getJSON(t *testing.T, ca *berthtest.CA, url string, answer any) {
	t.Helper()
	data, err := os.ReadFile(ca.File)
	ok(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	ok(t, err)
	req.SetBasicAuth("hatter", secret)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	ok(t, err)
	defer resp.Body.Close()
	ok(t, json.NewDecoder(resp.Body).Decode(answer))
}

// writeCertificate writes a server's certificate to a file.
func writeCertificate(t *testing.T, s *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	ok(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	return file
}

// connectProxy is a proxy that knows CONNECT, and connects everybody to one
// address. It returns its URL.
func connectProxy(t *testing.T, addr string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			t.Errorf("the proxy was asked to %s %s", r.Method, r.URL)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		there, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", addr)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer here.Close()
		_, _ = io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() {
			_, _ = io.Copy(there, in)
			there.Close()
		}()
		_, _ = io.Copy(here, there)
	}))
	t.Cleanup(s.Close)
	return s.URL
}
