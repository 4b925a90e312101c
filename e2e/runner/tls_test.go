package runner

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
)

// TestMutualTLS serves the API over TCP: to those with a certificate of the
// right authority, and to nobody else.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ours, theirs := newAuthority(t), newAuthority(t)
	ours.issue(t, dir, "server")
	ours.issue(t, dir, "client")
	theirs.issue(t, dir, "stranger")
	ours.write(t, filepath.Join(dir, "ca.pem"))
	m := berthtest.NewMachine(t, berthtest.MachineOptions{})
	_, port, err := net.SplitHostPort(freeaddr.For(t))
	if err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + port
	r := berthtest.StartRunner(t, berthtest.RunnerOptions{Machine: m, Env: []string{
		"BERTH_RUNNER_TCP_ADDR=" + addr,
		"BERTH_RUNNER_TCP_TLS_CERT=" + filepath.Join(dir, "server.pem"),
		"BERTH_RUNNER_TCP_TLS_KEY=" + filepath.Join(dir, "server-key.pem"),
		"BERTH_RUNNER_TCP_TLS_CLIENT_CA=" + filepath.Join(dir, "ca.pem"),
	}})
	docker := func(who string) *berthtest.Command {
		return berthtest.NewCommand(t, "docker", "--config", dir, "--host", "tcp://"+addr, "--tlsverify", "--tlscacert", filepath.Join(dir, "ca.pem"),
			"--tlscert", filepath.Join(dir, who+".pem"), "--tlskey", filepath.Join(dir, who+"-key.pem")).On(m)
	}
	if got, want := docker("client").Run("info", "-f", "{{.ID}}"), r.Docker(t).Run("info", "-f", "{{.ID}}"); got != want {
		t.Errorf("over TCP, the engine is %q: want %q", got, want)
	}
	if out, _, err := docker("stranger").Try("info", "-f", "{{.ID}}"); err == nil && out != "\n" && out != "" {
		t.Errorf("a stranger is told %q", out)
	}
	// The commands about stacks find certificates where docker does.
	certs := t.TempDir()
	for name, file := range map[string]string{"ca.pem": "ca.pem", "cert.pem": "client.pem", "key.pem": "client-key.pem"} {
		if err := os.Symlink(filepath.Join(dir, file), filepath.Join(certs, name)); err != nil {
			t.Fatal(err)
		}
	}
	stacks := r.Berth(t, "status", "--host", "tcp://"+addr).Env("DOCKER_CERT_PATH="+certs, "DOCKER_TLS_VERIFY=1")
	if got := stacks.Run(); !strings.HasPrefix(got, "STACK ") {
		t.Errorf("over TCP, the stacks are %q", got)
	}
	if out, _, err := stacks.Env("DOCKER_CERT_PATH=").Try(); err == nil {
		t.Errorf("without a certificate, the stacks are %q", out)
	}
	for name, config := range map[string]*tls.Config{
		"by plain HTTP":         nil,
		"without a certificate": {RootCAs: ours.pool()},
		"with another's":        {RootCAs: ours.pool(), Certificates: []tls.Certificate{load(t, dir, "stranger")}},
		"with TLS 1.1":          {RootCAs: ours.pool(), Certificates: []tls.Certificate{load(t, dir, "client")}, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
	} {
		url := "https://" + addr + "/_ping"
		if config == nil {
			url = "http://" + addr + "/_ping"
		}
		c := m.Client()
		c.Transport.(*http.Transport).TLSClientConfig = config
		res, err := c.Get(url)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode < 400 {
				t.Errorf("%s, %s answers %s", name, url, res.Status)
			}
		}
		c.CloseIdleConnections()
	}

	// Without all of it, it does not start at all.
	r.Stop()
	r.Setenv("BERTH_RUNNER_TCP_TLS_CLIENT_CA=")
	if code := r.Refuses(); code == 0 {
		t.Error("the runner does not say that it cannot start")
	}
}

// authority issues certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	a.cert = a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, &a.key.PublicKey)
	return a
}

// sign completes a certificate and signs it; the first one by itself.
func (a *authority) sign(t *testing.T, c *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	t.Helper()
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// issue writes a certificate and its key to dir.
func (a *authority) issue(t *testing.T, dir, name string) {
	t.Helper()
	key := newKey(t)
	cert := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, &key.PublicKey)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, name+".pem"), "CERTIFICATE", cert.Raw)
	writePEM(t, filepath.Join(dir, name+"-key.pem"), "EC PRIVATE KEY", der)
}

func (a *authority) write(t *testing.T, path string) {
	t.Helper()
	writePEM(t, path, "CERTIFICATE", a.cert.Raw)
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, dir, name string) tls.Certificate {
	t.Helper()
	c, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
