package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/deploy"
)

// secureClient trusts the edge's own authority, and finds every host at the proxy.
func secureClient(t *testing.T) *http.Client {
	t.Helper()
	open(t)
	root, err := os.ReadFile(filepath.Join(front.dir, "pki/authorities/local/root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(root) {
		t.Fatal("no root")
	}
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", front.https)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestInternalTLS(t *testing.T) {
	t.Parallel()
	const host = "internal.test"
	b := newBackend(t, "b")
	r := routeTo(host, b.upstream(1))
	r.TLS, r.Hosts = deploy.TLSInternal, append(r.Hosts, "*.internal.test")
	plain := routeTo("plain.test", b.upstream(1))
	plain.Hosts = append(plain.Hosts, "plain.internal.test")
	set(t, "stack/internal", r, plain)

	for _, name := range []string{host, "a.internal.test"} {
		resp, err := secureClient(t).Get("https://" + name + "/headers")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.ProtoMajor != 2 || !strings.Contains(string(body), "X-Forwarded-Proto: https") {
			t.Errorf("%s: %s %s, %v", name, resp.Proto, body, err)
		}
	}
	_, port, _ := net.SplitHostPort(front.https)
	resp, err := client(t, false).Get("http://" + host + "/a?b=c")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got, want := resp.Header.Get("Location"), "https://"+host+":"+port+"/a?b=c"; resp.StatusCode != http.StatusPermanentRedirect || got != want {
		t.Errorf("over HTTP: %d to %s, want %s", resp.StatusCode, got, want)
	}
	// A name that is served over HTTP alone has no certificate, and is not found behind
	// one of another name.
	if _, err := secureClient(t).Get("https://plain.test/"); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a name without TLS: %v", err)
	}
	resp, err = secureClient(t).Get("https://plain.internal.test/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("a name without TLS under a wildcard: %d", resp.StatusCode)
	}
	// It is let go of with its last route.
	if err := open(t).Set("stack/internal", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := secureClient(t).Get("https://" + host + "/"); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a name that is let go of: %v", err)
	}
}
