package remote

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/freeaddr"
)

// registryServer is a real registry on a port of its own.
type registryServer struct{ addr string }

// distribution starts Debian's docker-registry with further configuration.
func distribution(t *testing.T, env ...string) registryServer {
	t.Helper()
	addr := freeaddr.For(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	write(t, config, "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: "+dir+"/data}, delete: {enabled: true}}\n"+
		"http: {addr: \""+addr+"\", secret: x}\n")
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Env = append(os.Environ(), env...)
	start(t, cmd, addr)
	return registryServer{addr}
}

// berth starts the registry of this repository.
func berth(t *testing.T, env ...string) registryServer {
	t.Helper()
	bin := os.Getenv("BERTH_BIN")
	if bin == "" {
		bin = "../../../bin/berth"
	}
	addr := freeaddr.For(t)
	cmd := exec.Command(bin, "serve", "--addr", addr, "--data", t.TempDir(), "--metrics-addr", "")
	cmd.Env = append(os.Environ(), env...)
	start(t, cmd, addr)
	return registryServer{addr}
}

func start(t *testing.T, cmd *exec.Cmd, addr string) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		if t.Failed() {
			said := out.String()
			t.Logf("%s said last:\n%s", filepath.Base(cmd.Path), said[max(0, len(said)-1000):])
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-done:
			t.Fatalf("%s has ended:\n%s", cmd.Path, out.String())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s:\n%s", cmd.Path, addr, out.String())
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// get fetches from a registry directly, past the code under test.
func (s registryServer) get(t *testing.T, path string) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + s.addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// localhost is the server by that name.
func (s registryServer) localhost() string {
	return "localhost:" + s.addr[strings.LastIndex(s.addr, ":")+1:]
}

// authority is a certificate authority for tests.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	PEM  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue writes a certificate for 127.0.0.1 and its key into dir.
func (a *authority) issue(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	k := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".cert"), filepath.Join(dir, name+".key")
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})))
	return cert, key
}

// cutter passes connections on to a server, and cuts them when a number of bytes
// has gone one way, as often as it is told to.
type cutter struct {
	addr string

	mu   sync.Mutex
	up   bool // counts what goes to the server, rather than what comes
	cuts int
	at   int64
	seen int64
	all  int64
}

func newCutter(t *testing.T, target string, up bool, cuts int, at int64) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{addr: l.Addr().String(), up: up, cuts: cuts, at: at}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { c.pass(ctx, down, target) })
		}
	})
	return c
}

func (c *cutter) pass(ctx context.Context, down net.Conn, target string) {
	up, err := net.Dial("tcp", target)
	if err != nil {
		down.Close()
		return
	}
	end := func() { down.Close(); up.Close() }
	defer context.AfterFunc(ctx, end)()
	var wg sync.WaitGroup
	wg.Go(func() { defer end(); _, _ = io.Copy(c.counting(up, c.up), down) })
	wg.Go(func() { defer end(); _, _ = io.Copy(c.counting(down, !c.up), up) })
	wg.Wait()
}

func (c *cutter) counting(w io.Writer, counts bool) io.Writer {
	if !counts {
		return w
	}
	return writerFunc(func(p []byte) (int, error) {
		c.mu.Lock()
		c.seen += int64(len(p))
		c.all += int64(len(p))
		cut := c.cuts > 0 && c.seen >= c.at
		if cut {
			c.cuts--
			c.seen = 0
		}
		c.mu.Unlock()
		n, err := w.Write(p)
		if cut {
			return n, errors.New("cut")
		}
		return n, err
	})
}

// check fails unless all cuts were made and not much was sent twice.
func (c *cutter) check(t *testing.T, most int64) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cuts != 0 {
		t.Errorf("%d cuts were not made", c.cuts)
	}
	if c.all > most {
		t.Errorf("%d bytes were sent: want no more than %d", c.all, most)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// wantError fails unless err is of a kind, if one is given, and reads like want.
func wantError(t *testing.T, err, kind error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error: want %q", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %q: want %q", err, want)
	}
	if kind != nil && !errors.Is(err, kind) {
		t.Errorf("the error %q is not %v", err, kind)
	}
}
