package proxy

import (
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
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/edge"
	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
)

// TestACME obtains certificates of an authority, by either challenge; one that is the
// operator's own is not asked for. The next process serves what is stored.
func TestACME(t *testing.T) {
	for challenge, byHTTP := range map[string]bool{"http-01": true, "tls-alpn-01": false} {
		t.Run(challenge, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "acme") //nolint:usetesting // short enough for sockets
			if err != nil {
				t.Fatal(err)
			}
			cfg := edge.Config{Program: self(t), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Options: edge.Options{
				HTTP: freeaddr.For(t), HTTPS: freeaddr.For(t),
				Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run"), Certs: filepath.Join(dir, "certs"),
			}}
			if !byHTTP {
				cfg.HTTP = ""
			}
			a := startAuthority(t, cfg.Options)
			cfg.ACME = edge.ACME{Email: "ops@example.com", Directory: "https://" + a.addr + "/dir", DirectoryCA: a.cert}
			name := strings.ReplaceAll(challenge, "-", "") + ".example.com"
			writePair(t, cfg.Certs, "own", "own."+name)
			e, err := edge.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { endProcess(t, e, cfg, dir) })
			b := newBackend(t, challenge)
			r := routeTo(name, b.upstream(1))
			r.TLS, r.Hosts = deploy.TLSAuto, append(r.Hosts, "own."+name)
			if err := e.SetRoutes(t.Context(), "stack/acme", []edgeRoute{r}); err != nil {
				t.Fatal(err)
			}
			if issuer, err := issuerOf(cfg.HTTPS, "own."+name); err != nil || issuer != "own."+name {
				t.Errorf("the operator's own certificate is of %q, %v", issuer, err)
			}
			obtained := func() bool {
				issuer, err := issuerOf(cfg.HTTPS, name)
				return err == nil && strings.Contains(issuer, "Pebble")
			}
			eventually(t, "there is a certificate", obtained)
			a.stop()
			status, err := e.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			kill(t, status.PID)
			eventually(t, "the stored certificate is served", obtained)
		})
	}
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func kill(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// endProcess ends the program, and removes what it had.
func endProcess(t *testing.T, e *edge.Edge, cfg edge.Config, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	status, err := e.Status(ctx)
	if err == nil {
		err = errors.Join(e.Close(), edge.Stop(ctx, cfg.Options))
	}
	if err != nil {
		t.Error(err)
	}
	eventually(t, "the program ends", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", status.PID))
		return err != nil || strings.Contains(string(text), ") Z ")
	})
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// issuerOf is who has issued the certificate that is served for a name.
func issuerOf(addr, name string) (string, error) {
	c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return "", err
	}
	defer c.Close()
	leaf := c.ConnectionState().PeerCertificates[0]
	return leaf.Issuer.CommonName, leaf.VerifyHostname(name)
}

// testAuthority is an ACME server that looks for challenges at one edge.
type testAuthority struct {
	addr, cert string
	stop       func()
}

func startAuthority(t *testing.T, o edge.Options) *testAuthority {
	t.Helper()
	dir := t.TempDir()
	a := &testAuthority{addr: freeaddr.For(t)}
	var key string
	a.cert, key = writePair(t, dir, "pebble", "127.0.0.1")
	port := func(addr string) string {
		if addr == "" {
			addr = freeaddr.For(t) // where nobody answers
		}
		_, p, _ := net.SplitHostPort(addr)
		return p
	}
	tlsPort := port(o.HTTPS)
	if o.HTTP != "" {
		tlsPort = port("")
	}
	config := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(config, fmt.Appendf(nil, `{"pebble": {
		"listenAddress": %q, "managementListenAddress": %q, "certificate": %q, "privateKey": %q,
		"httpPort": %s, "tlsPort": %s, "retryAfter": {"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa",
		"profiles": {"default": {"description": "the only one", "validityPeriod": 7776000}}
	}}`, a.addr, freeaddr.For(t), a.cert, key, port(o.HTTP), tlsPort), 0o600); err != nil {
		t.Fatal(err)
	}
	dns := freeaddr.For(t)
	berthtest.NewCommand(t, "pebble-challtestsrv").Daemon(func() error {
		c, err := net.Dial("tcp", dns)
		if err == nil {
			err = c.Close()
		}
		return err
	}, "-dnsserver", dns, "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", freeaddr.For(t))
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	t.Cleanup(c.CloseIdleConnections)
	a.stop = berthtest.NewCommand(t, "pebble").Env("PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=20").Daemon(func() error {
		resp, err := c.Get("https://" + a.addr + "/dir")
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			err = resp.Body.Close()
		}
		return err
	}, "-config", config, "-dnsserver", dns)
	return a
}

// writePair writes a certificate for a name, signed by itself, and its key.
func writePair(t *testing.T, dir, file, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, file+".crt"), filepath.Join(dir, file+".key")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}
