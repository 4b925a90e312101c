package edge_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/edge"
)

// who answers with the name in the client's certificate.
func who(w http.ResponseWriter, r *http.Request) {
	name := "nobody"
	if len(r.TLS.VerifiedChains) > 0 {
		name = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	_, _ = io.WriteString(w, name)
}

func TestClientCertificates(t *testing.T) {
	f, clients, others := newFiles(t), newAuthority(t, "clients"), newAuthority(t, "others")
	ca := write(t, filepath.Join(t.TempDir(), "clients.pem"), clients.pem())
	s := start(t, edge.Options{Cert: f.cert, Key: f.key, ClientCA: ca}, http.HandlerFunc(who))
	config := func(by *authority, sessions tls.ClientSessionCache) *tls.Config {
		c := &tls.Config{RootCAs: f.ca.pool(), ClientSessionCache: sessions}
		if by != nil {
			pair, err := tls.X509KeyPair(by.issue(t, 7, "ci", nil))
			if err != nil {
				t.Fatal(err)
			}
			// Go would not send one that the server does not ask for.
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		return c
	}
	try := func(name string, c *tls.Config, http2 bool, want string) {
		t.Helper()
		got, err := get(t.Context(), client(t, c, http2), s.url("/"))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
		// By TLS 1.3 the client has sent its request before it is refused, and may
		// see the connection reset before it sees why.
		if want == "" && c.MaxVersion == tls.VersionTLS12 && err != nil && !strings.Contains(err.Error(), "remote error: tls:") {
			t.Errorf("%s: %v is not an alert of TLS", name, err)
		}
	}
	for _, http2 := range []bool{false, true} {
		try("no certificate", config(nil, nil), http2, "nobody")
		try("a certificate", config(clients, nil), http2, "ci")
		try("a foreign one", config(others, nil), http2, "")
	}
	old := config(clients, nil)
	old.MaxVersion = tls.VersionTLS12
	try("a certificate, by TLS 1.2", old, false, "ci")
	foreign := config(others, nil)
	foreign.MaxVersion = tls.VersionTLS12
	try("a foreign one, by TLS 1.2", foreign, false, "")

	// The authority is exchanged: no session of the old one is resumed.
	resuming := config(clients, tls.NewLRUClientSessionCache(1))
	try("before", resuming, false, "ci")
	replace(t, ca, others.pem())
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	try("a session from before", resuming, false, "")
	try("the old authority", config(clients, nil), false, "")
	try("the new authority", config(others, nil), false, "ci")
}

// openssl and curl, which send a certificate whatever the server asks for, find
// what Go's client does.
func TestOpenSSL(t *testing.T) {
	f, clients, others := newFiles(t), newAuthority(t, "clients"), newAuthority(t, "others")
	dir := t.TempDir()
	ca := write(t, dir+"/clients.pem", clients.pem())
	root := write(t, dir+"/root.pem", f.ca.pem())
	s := start(t, edge.Options{Cert: f.cert, Key: f.key, ClientCA: ca}, http.HandlerFunc(who))
	pair := func(name string, by *authority) (cert, key string) {
		c, k := by.issue(t, 8, name, nil)
		return write(t, dir+"/"+name+".crt", c), write(t, dir+"/"+name+".key", k)
	}
	cert, key := pair("ci", clients)
	foreignCert, foreignKey := pair("foreign", others)
	curl := berthtest.NewCommand(t, "curl", "--silent", "--show-error", "--cacert", root, "--max-time", "30")
	for _, version := range []string{"--http1.1", "--http2"} {
		if got := curl.Run(version, "--write-out", " %{http_version}", s.url("/")); got != "nobody "+map[string]string{"--http1.1": "1.1", "--http2": "2"}[version] {
			t.Errorf("curl %s: %q", version, got)
		}
		if got := curl.Run(version, "--cert", cert, "--key", key, s.url("/")); got != "ci" {
			t.Errorf("curl %s with a certificate: %q", version, got)
		}
		out, stderr, err := curl.Try(version, "--cert", foreignCert, "--key", foreignKey, s.url("/"))
		if err == nil || out != "" {
			t.Errorf("curl %s with a foreign certificate: %q, %q, %v", version, out, stderr, err)
		}
	}
	_, stderr, err := curl.Try("--tls-max", "1.2", "--cert", foreignCert, "--key", foreignKey, s.url("/"))
	if err == nil || !strings.Contains(stderr, "alert") {
		t.Errorf("curl with a foreign certificate by TLS 1.2: %q, %v", stderr, err)
	}
	openssl := berthtest.NewCommand(t, "openssl", "s_client", "-connect", s.addr, "-CAfile", root, "-verify_return_error", "-alpn", "h2,http/1.1", "-ign_eof")
	out, _, _ := openssl.Try("-no_ign_eof") // ends with its input, which is empty
	for _, want := range []string{"Verification: OK", "ALPN protocol: h2", "CN = clients"} {
		if !strings.Contains(out, want) {
			t.Errorf("openssl does not find %q:\n%s", want, out)
		}
	}
}
