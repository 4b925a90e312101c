package edge_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/edge"
	"github.com/berth-registry/berth/internal/freeaddr"
)

// pebble is an ACME server that validates at the ports of one Edge.
type pebble struct {
	addr, management string
	config           string // file
	dns              string // address
	o                edge.Options
	http             *http.Client // trusts it
}

// quarter is how long certificates last: the server suggests any moment of that to
// renew them.
const quarter = 90 * 24 * time.Hour

// challenges tells the tests of this process apart.
var challenges atomic.Int64

// newPebble prepares an ACME server, which start starts, and the options of an Edge
// that uses it. Certificates last for validity.
func newPebble(t *testing.T, validity time.Duration, byHTTP bool) *pebble {
	t.Helper()
	dir, f := t.TempDir(), newFiles(t)
	p := &pebble{addr: freeaddr.For(t), management: freeaddr.For(t), dns: freeaddr.For(t)}
	p.http = client(t, &tls.Config{RootCAs: f.ca.pool()}, false)
	// certmagic finds the challenges of a process by their names.
	suffix := fmt.Sprintf("-%d.example.com", challenges.Add(1))
	p.o = edge.Options{Addr: freeaddr.For(t), ACME: edge.ACME{
		Domains: []string{"one" + suffix, "two" + suffix}, Email: "ops@example.com",
		Directory: "https://" + p.addr + "/dir", DirectoryCA: write(t, dir+"/root.pem", f.ca.pem()), Storage: dir + "/acme",
	}}
	tlsAddr, httpAddr := p.o.Addr, freeaddr.For(t)
	if byHTTP {
		p.o.RedirectAddr = httpAddr
		tlsAddr = freeaddr.For(t) // where nobody answers
	}
	_, tlsPort, _ := net.SplitHostPort(tlsAddr)
	_, httpPort, _ := net.SplitHostPort(httpAddr)
	p.config = write(t, dir+"/pebble.json", fmt.Appendf(nil, `{"pebble": {
		"listenAddress": %q, "managementListenAddress": %q, "certificate": %q, "privateKey": %q,
		"httpPort": %s, "tlsPort": %s, "retryAfter": {"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa",
		"profiles": {"default": {"description": "the only one", "validityPeriod": %d}}
	}}`, p.addr, p.management, f.cert, f.key, httpPort, tlsPort, int(validity.Seconds())))
	berthtest.NewCommand(t, "pebble-challtestsrv").Daemon(func() error {
		conn, err := net.Dial("tcp", p.dns)
		if err == nil {
			err = conn.Close()
		}
		return err
	}, "-dnsserver", p.dns, "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", freeaddr.For(t))
	return p
}

// start starts the server, with a new root.
func (p *pebble) start(t *testing.T) (stop func()) {
	t.Helper()
	c := berthtest.NewCommand(t, "pebble").Env("PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0", "PEBBLE_WFE_NONCEREJECT=20")
	return c.Daemon(func() error {
		_, err := get(t.Context(), p.http, "https://"+p.addr+"/dir")
		return err
	}, "-config", p.config, "-dnsserver", p.dns)
}

// clientConfig trusts what the server issues.
func (p *pebble) clientConfig(t *testing.T, name string) *tls.Config {
	t.Helper()
	root, err := get(t.Context(), p.http, "https://"+p.management+"/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	c := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: name}
	c.RootCAs.AppendCertsFromPEM([]byte(root))
	return c
}

func TestACME(t *testing.T) {
	for challenge, byHTTP := range map[string]bool{"tls-alpn-01": false, "http-01": true} {
		t.Run(challenge, func(t *testing.T) {
			t.Parallel()
			p := newPebble(t, quarter, byHTTP)
			// A client authority must not be in the way of the challenge.
			p.o.ClientCA = write(t, filepath.Join(t.TempDir(), "ca.pem"), newAuthority(t, "clients").pem())
			stop := p.start(t)
			s := start(t, p.o, http.HandlerFunc(tell))
			first := map[string]int64{}
			for _, domain := range p.o.ACME.Domains {
				c := p.clientConfig(t, domain)
				eventually(t, "there is a certificate for "+domain, func() bool {
					n, err := serial(t.Context(), s.addr, c)
					first[domain] = n
					return err == nil
				})
			}
			if want := "challenge=" + challenge; !strings.Contains(s.log.String(), want) {
				t.Errorf("not in the log: %s", want)
			}
			// A name that it has none for is refused, and no name is the first one.
			_, err := serial(t.Context(), s.addr, p.clientConfig(t, "other.example.com"))
			if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("another name: %v", err)
			}
			nameless := p.clientConfig(t, "")
			nameless.InsecureSkipVerify = true
			if n, err := serial(t.Context(), s.addr, nameless); n != first[p.o.ACME.Domains[0]] || err != nil {
				t.Errorf("no name: %d, %v", n, err)
			}
			if fi, err := os.Stat(p.o.ACME.Storage); err != nil || fi.Mode().Perm() != 0o700 {
				t.Errorf("the store of keys: %v, %v", fi.Mode(), err)
			}
			if strings.Contains(s.log.String(), "PRIVATE KEY") {
				t.Error("the log has a key")
			}

			// Another start uses what is stored, without the server.
			configs := map[string]*tls.Config{}
			for _, domain := range p.o.ACME.Domains {
				configs[domain] = p.clientConfig(t, domain)
			}
			stop()
			o := p.o
			o.Addr, o.RedirectAddr = "127.0.0.1:0", ""
			again := start(t, o, http.HandlerFunc(tell))
			for domain, c := range configs {
				var n int64
				eventually(t, "the stored certificate is served for "+domain, func() (ok bool) {
					n, err = serial(t.Context(), again.addr, c)
					return err == nil
				})
				if n != first[domain] {
					t.Errorf("%s: another certificate: %d, not %d", domain, n, first[domain])
				}
			}
		})
	}
}

// A certificate that runs out is replaced: while it is served, and when it has run
// out before the start.
func TestACMERenews(t *testing.T) {
	t.Parallel()
	const validity = 20 * time.Second
	p := newPebble(t, validity, false)
	p.o.ACME.Domains = p.o.ACME.Domains[:1]
	p.start(t)
	c := p.clientConfig(t, p.o.ACME.Domains[0])
	var last int64
	renews := func(t *testing.T, maintain func(*server)) {
		s := start(t, p.o, http.HandlerFunc(tell))
		served := false
		eventually(t, "there is a new certificate", func() bool {
			maintain(s)
			n, err := serial(t.Context(), s.addr, c)
			if served && err != nil {
				t.Fatalf("a handshake fails: %v", err)
			}
			served = err == nil
			is := served && n != last
			if is {
				last = n
			}
			return is
		})
		if strings.Contains(t.Name(), "served") {
			first := last
			eventually(t, "it is renewed", func() bool {
				maintain(s)
				n, err := serial(t.Context(), s.addr, c)
				if err != nil {
					t.Fatalf("a handshake fails: %v", err)
				}
				last = n
				return n != first
			})
		}
	}
	t.Run("while it is served", func(t *testing.T) {
		renews(t, func(s *server) {
			if err := s.Maintain(t.Context()); err != nil {
				t.Error(err)
			}
		})
	})
	ranOut := time.Now().Add(validity)
	eventually(t, "it has run out", func() bool { return time.Now().After(ranOut) })
	t.Run("after it has run out", func(t *testing.T) { renews(t, func(*server) {}) })
}

// A process that was killed between a key and its certificate has stored two that do
// not belong together; one with half a file has less.
func TestACMEStoreIsTorn(t *testing.T) {
	t.Parallel()
	p := newPebble(t, quarter, false)
	domain := p.o.ACME.Domains[0]
	p.o.ACME.Domains = []string{strings.ToUpper(domain)}
	p.start(t)
	c := p.clientConfig(t, domain)
	last := int64(-1)
	run := func(name string) {
		t.Run(name, func(t *testing.T) {
			s := start(t, p.o, http.HandlerFunc(tell))
			eventually(t, "there is a certificate", func() bool {
				n, err := serial(t.Context(), s.addr, c)
				if err == nil && n == last {
					t.Error("the certificate is the old one")
				}
				last = n
				return err == nil
			})
		})
	}
	run("new")
	for name, tear := range map[string]func(kind string, data []byte) []byte{
		"another key": func(kind string, data []byte) []byte {
			if kind == ".key" {
				_, data = newAuthority(t, "x").issue(t, 1, "x", nil)
			}
			return data
		},
		"part of a certificate": func(kind string, data []byte) []byte {
			if kind == ".crt" {
				data = data[:len(data)/4] // less than its first one
			}
			return data
		},
		"no certificate": func(kind string, data []byte) []byte {
			if kind == ".crt" {
				return nil
			}
			return data
		},
		"half the rest": func(kind string, data []byte) []byte {
			if kind == ".json" {
				data = data[:len(data)/2]
			}
			return data
		},
	} {
		files, err := filepath.Glob(p.o.ACME.Storage + "/certificates/*/" + domain + "/*")
		if err != nil || len(files) != 3 {
			t.Fatalf("stored: %q, %v", files, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if data = tear(filepath.Ext(file), data); data == nil {
				err = os.Remove(file)
			} else {
				write(t, file, data)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		run(name)
	}
}

// A server that is not there yet is no reason not to start.
func TestACMEServerIsLate(t *testing.T) {
	t.Parallel()
	p := newPebble(t, quarter, false)
	p.o.ACME.Domains = p.o.ACME.Domains[:1]
	s := start(t, p.o, http.HandlerFunc(tell))
	eventually(t, "it says that it will try again", func() bool { return strings.Contains(s.log.String(), "will retry") })
	if _, err := serial(t.Context(), s.addr, &tls.Config{ServerName: p.o.ACME.Domains[0]}); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a handshake without a certificate: %v", err)
	}
	p.start(t)
	if err := s.Reload(); err != nil {
		t.Error(err)
	}
	c := p.clientConfig(t, p.o.ACME.Domains[0])
	eventually(t, "there is a certificate", func() bool {
		_, err := serial(t.Context(), s.addr, c)
		return err == nil
	})
}
