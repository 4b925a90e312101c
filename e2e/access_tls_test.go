package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
)

// serialAt is the serial number of the certificate that a new connection gets.
func serialAt(t *testing.T, addr, name string, roots *x509.CertPool) (string, error) {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: name}}
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

func poolOf(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(readFile(t, file))) {
		t.Fatalf("no certificate in %s", file)
	}
	return pool
}

// listens says when a daemon listens on addr.
func listens(addr string) func() error {
	return func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			err = c.Close()
		}
		return err
	}
}

// bigBlob is a blob of 200 MB that is sent in two halves.
type bigBlob struct {
	block  []byte
	digest digest.Digest
}

const blocks = 200

func newBigBlob() bigBlob {
	b := bigBlob{block: randomBytes(4, 1<<20)}
	h := sha256.New()
	for range blocks {
		_, _ = h.Write(b.block)
	}
	b.digest = digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(h.Sum(nil)))
	return b
}

func (b bigBlob) writeHalf(to *os.File) error {
	for range blocks / 2 {
		if _, err := to.Write(b.block); err != nil {
			return err
		}
	}
	return nil
}

// TestCertificateReplaced pushes 200 MB with curl, by both versions of HTTP, and
// replaces the certificate in the middle.
func TestCertificateReplaced(t *testing.T) {
	t.Parallel()
	ca := berthtest.NewCA(t)
	cert, key := ca.Server("127.0.0.1")
	s := berthtest.Start(t, berthtest.Options{CA: ca, Config: fmt.Sprintf("http: {tls: {cert: %s, key: %s}}\n", cert, key)})
	blob, roots := newBigBlob(), poolOf(t, ca.File)
	first, err := serialAt(t, s.Addr, "", roots)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{s.URL, ca.HTTP()}
	type push struct {
		body *os.File
		said chan string // by curl
	}
	pushes := map[string]push{}
	for _, version := range []string{"1.1", "2"} {
		pipe := filepath.Join(t.TempDir(), "body")
		if err := syscall.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		p := push{said: make(chan string, 1)}
		curl := berthtest.NewCommand(t, "curl", "-sS", "--cacert", ca.File, "--http"+version, "-T", pipe,
			"-H", "Content-Type: application/octet-stream", "-o", "/dev/null", "-w", "%{http_version} %{response_code}")
		location, err := w.startUpload("big/http-" + version)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			stdout, stderr, err := curl.Try(s.URL + location + "?digest=" + blob.digest.String())
			p.said <- fmt.Sprint(stdout, stderr, err)
		}()
		if p.body, err = os.OpenFile(pipe, os.O_WRONLY, 0); err != nil {
			t.Fatal(err)
		}
		defer p.body.Close()
		if err := blob.writeHalf(p.body); err != nil {
			t.Fatalf("HTTP/%s: %v: curl says %s", version, err, <-p.said)
		}
		pushes[version] = p
	}
	newCert, newKey := ca.Server("127.0.0.1")
	for from, to := range map[string]string{newCert: cert, newKey: key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "new certificate for new connections", func() bool {
		now, err := serialAt(t, s.Addr, "", roots)
		return err == nil && now != first
	})
	for version, p := range pushes {
		if err := errors.Join(blob.writeHalf(p.body), p.body.Close()); err != nil {
			t.Errorf("HTTP/%s: %v", version, err)
		}
		if got, want := <-p.said, version+" 201<nil>"; got != want {
			t.Errorf("curl says %s: want %s", got, want)
		}
	}
	if !strings.Contains(s.Log(), "certificate") {
		t.Error("the log says nothing of another certificate")
	}
}

// TestRedirect follows the redirect from plain HTTP with curl.
func TestRedirect(t *testing.T) {
	t.Parallel()
	ca, plain := berthtest.NewCA(t), freeaddr.For(t)
	cert, key := ca.Server("127.0.0.1")
	s := berthtest.Start(t, berthtest.Options{CA: ca, Config: fmt.Sprintf("http: {redirect_addr: %q, tls: {cert: %s, key: %s}}\n", plain, cert, key)})
	curl := berthtest.NewCommand(t, "curl", "-sSL", "--cacert", ca.File, "-o", "/dev/null", "-w", "%{num_redirects} %{response_code} %{url_effective}")
	if got, want := curl.Run("http://"+plain+"/v2/?a=b%2Fc"), "1 200 "+s.URL+"/v2/?a=b%2Fc"; got != want {
		t.Errorf("curl says %s: want %s", got, want)
	}
	// What was to be pushed is pushed.
	data := "a blob"
	path := "/v2/redirected/blobs/uploads/?digest=" + digest.FromString(data).String()
	if got, want := curl.Run("-X", "POST", "-d", data, "-H", "Content-Type: application/octet-stream", "http://"+plain+path), "1 201 "+s.URL+path; got != want {
		t.Errorf("curl says %s: want %s", got, want)
	}
}

// TestACME has the registry get its certificate from Pebble, by nothing but its
// configuration, and keep it through a restart without Pebble.
func TestACME(t *testing.T) {
	t.Parallel()
	const domain = "registry.example.com"
	dir, ca := t.TempDir(), berthtest.NewCA(t)
	addr, directory, management, dns := freeaddr.For(t), freeaddr.For(t), freeaddr.For(t), freeaddr.For(t)
	cert, key := ca.Server("127.0.0.1")
	_, port, _ := net.SplitHostPort(addr)
	config := writeFile(t, dir, "pebble.json", fmt.Appendf(nil, `{"pebble": {
		"listenAddress": %q, "managementListenAddress": %q, "certificate": %q, "privateKey": %q, "httpPort": 1, "tlsPort": %s,
		"profiles": {"default": {"description": "the only one", "validityPeriod": 7776000}}}}`, directory, management, cert, key, port))
	berthtest.NewCommand(t, "pebble-challtestsrv").Daemon(listens(dns), "-dnsserver", dns, "-defaultIPv6", "",
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", freeaddr.For(t))
	stop := berthtest.NewCommand(t, "pebble").Env("PEBBLE_VA_NOSLEEP=1").Daemon(listens(directory), "-config", config, "-dnsserver", dns)
	root, err := ca.HTTP().Get("https://" + management + "/roots/0")
	roots := poolOf(t, writeFile(t, dir, "root.pem", []byte(body(t, root, err))))

	yaml := writeFile(t, dir, "berth.yaml", fmt.Appendf(nil, "http: {addr: %q, tls: {acme: {domains: [%s], email: ops@example.com, directory: 'https://%s/dir', directory_ca: %s}}}\n"+
		"storage: {data: %s}\nmetrics: {addr: ''}\n", addr, domain, directory, ca.File, filepath.Join(dir, "data")))
	serve := func() (serial string, stop func(os.Signal) int) {
		stop = berthtest.NewCommand(t, "env").Service(func(string) error {
			serial, err = serialAt(t, addr, domain, roots)
			return err
		}, berthtest.Binary(t, "berth"), "serve", "--config", yaml)
		return serial, stop
	}
	first, end := serve()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: domain}}}
	t.Cleanup(client.CloseIdleConnections)
	res, err := client.Get("https://" + addr + "/v2/")
	if body(t, res, err); res.StatusCode != http.StatusOK {
		t.Errorf("/v2/ says %s", res.Status)
	}
	client.CloseIdleConnections()
	stop()
	if code := end(syscall.SIGTERM); code != 0 {
		t.Errorf("berth ended with %d", code)
	}
	again, end := serve()
	if again != first {
		t.Errorf("after a restart there is another certificate")
	}
	if code := end(syscall.SIGTERM); code != 0 {
		t.Errorf("berth ended with %d", code)
	}
}

// TestClientCertificates has curl be who its certificate says.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ca, clients := berthtest.NewCA(t), berthtest.NewCA(t)
	cert, key := ca.Server("127.0.0.1")
	s := berthtest.Start(t, berthtest.Options{CA: ca, Config: fmt.Sprintf(`
http: {tls: {cert: %s, key: %s, client_ca: %s}}
auth: {certificates: {account: cn, groups: ou}}
policy:
- {who: [builder], repos: ["team/**"], may: [pull, push]}
- {who: ["group:hosts"], repos: ["team/**"], may: [pull]}
audit: {output: stdout}
`, cert, key, clients.File)})
	curl := func(by *berthtest.CA, name string, units ...string) *berthtest.Command {
		cert, key := by.Client(name, units...)
		return berthtest.NewCommand(t, "curl", "-sS", "--cacert", ca.File, "--cert", cert, "--key", key, "-o", "/dev/null", "-w", "%{response_code}")
	}
	builder, host := curl(clients, "builder"), curl(clients, "web-1", "hosts")
	data := "a blob"
	d := digest.FromString(data).String()
	push := []string{"-X", "POST", "-d", data, "-H", "Content-Type: application/octet-stream"}
	for i, c := range []struct {
		curl *berthtest.Command
		args []string
		want string
	}{
		{builder, append(push, s.URL+"/v2/team/web/blobs/uploads/?digest="+d), "201"},
		{builder, append(push, s.URL+"/v2/other/blobs/uploads/?digest="+d), "403"},
		{host, []string{s.URL + "/v2/team/web/blobs/" + d}, "200"},
		{host, append(push, s.URL+"/v2/team/web/blobs/uploads/?digest="+d), "403"},
		{host, []string{s.URL + "/v2/other/blobs/" + d}, "404"},
		{curl(clients, "web-2", "printers"), []string{s.URL + "/v2/team/web/blobs/" + d}, "404"},
		{berthtest.NewCommand(t, "curl", "-sS", "--cacert", ca.File, "-o", "/dev/null", "-w", "%{response_code}"), []string{s.URL + "/v2/team/web/blobs/" + d}, "401"},
	} {
		if got := c.curl.Run(c.args...); got != c.want {
			t.Errorf("case %d: %s: want %s", i, got, c.want)
		}
	}
	// Of another authority it is no certificate.
	if said, _, err := curl(ca, "builder").Try(s.URL + "/v2/team/web/blobs/" + d); err == nil || said != "000" {
		t.Errorf("with a certificate of another authority: %s, %v", said, err)
	}
	if !strings.Contains(s.Log(), `"account":"web-1","source":"certificate"`) {
		t.Error("the audit does not tell web-1")
	}
}

// nginxConfig puts nginx with TLS before a registry that believes 127.0.0.2.
const nginxConfig = `
daemon off;
pid DIR/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	server {
		listen FRONT ssl http2;
		ssl_certificate CERT;
		ssl_certificate_key KEY;
		client_max_body_size 0;
		location / {
			proxy_pass http://BACK;
			proxy_bind 127.0.0.2;
			proxy_http_version 1.1;
			proxy_request_buffering off;
			proxy_buffering off;
			proxy_set_header Host $http_host;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header X-Forwarded-Proto $scheme;
		}
	}
}
`

// haproxyConfig passes TLS through to a registry that believes 127.0.0.2.
const haproxyConfig = `
global
	log stderr format raw local0
defaults
	mode tcp
	timeout connect 5s
	timeout client 1m
	timeout server 1m
listen berth
	bind FRONT
	server berth BACK send-proxy-v2 source 127.0.0.2
`

// proxied is a registry behind a proxy, and who comes to it.
type proxied struct {
	*berthtest.Server
	front string // host:port of the proxy
	ca    *berthtest.CA
}

// startProxied starts a registry and a proxy before it.
func startProxied(t *testing.T, program, proxy, http string, encrypted bool, args ...string) *proxied {
	t.Helper()
	ca, dir, front := berthtest.NewCA(t), t.TempDir(), freeaddr.For(t)
	if err := os.Chmod(dir, 0o755); err != nil { // a proxy's workers may be another user
		t.Fatal(err)
	}
	cert, key := ca.Server("127.0.0.1")
	o := berthtest.Options{}
	if encrypted {
		o.CA, http = ca, http+", tls: {cert: "+cert+", key: "+key+"}"
	}
	o.Config = "http: {" + strings.ReplaceAll(http, "FRONT", front) + `, trusted_proxies: [127.0.0.2]}
policy:
- {who: [alice], repos: ["**"], may: [pull, push]}
audit: {output: stdout}
`
	p := &proxied{berthtest.Start(t, o), front, ca}
	config := writeFile(t, dir, "proxy.conf", []byte(strings.NewReplacer(
		"DIR", dir, "FRONT", front, "BACK", p.Addr, "CERT", cert, "KEY", key).Replace(proxy)))
	berthtest.NewCommand(t, program).Daemon(listens(front), append(args, config)...)
	p.Berth("user", "add", "alice", "--password-stdin").Input(alicePassword + "\n").Run()
	return p
}

// use pushes with skopeo through the proxy, and looks with curl at what the registry
// makes of an address that is another than skopeo's, and of headers that lie.
func (p *proxied) use(t *testing.T) {
	t.Helper()
	certs := t.TempDir()
	writeFile(t, certs, "ca.crt", []byte(readFile(t, p.ca.File)))
	skopeo := skopeoAt(t)
	skopeo.Input(alicePassword+"\n").Run("login", "--cert-dir", certs, p.front, "-u", "alice", "--password-stdin")
	source, _ := sampleImage(t)
	repo := "docker://" + p.front + "/team/web"
	skopeo.Run("copy", "--dest-cert-dir", certs, "oci:"+source.dir+":latest", repo+":v1")
	skopeo.Run("inspect", "--cert-dir", certs, repo+":v1")
	p.audited(t, "push", "127.0.0.1")

	curl := berthtest.NewCommand(t, "curl", "-sS", "--cacert", p.ca.File, "--interface", "127.0.0.77", "-D", "-", "-o", "/dev/null",
		"-H", "X-Forwarded-For: 6.6.6.6", "-H", "X-Real-IP: 6.6.6.6", "-H", "Forwarded: for=6.6.6.6;host=evil.test", "-H", "X-Forwarded-Host: evil.test")
	front := "https://" + p.front
	if got, want := curl.Run(front+"/v2/"), `Bearer realm="`+front+`/token"`; !strings.Contains(got, want) {
		t.Errorf("through the proxy: no %s in\n%s", want, got)
	}
	curl.Run("-u", "mallory:wrong", front+"/v2/")
	p.audited(t, "login", "127.0.0.77")
	if got := curl.Run("-u", "alice:"+alicePassword, "-X", "POST", front+"/v2/team/web/blobs/uploads/"); !strings.Contains(strings.ToLower(got), "location: "+front+"/v2/team/web/") && !strings.Contains(strings.ToLower(got), "location: /v2/team/web/") {
		t.Errorf("through the proxy an upload is at\n%s", got)
	}

	// Who comes past the proxy is not believed.
	curl.Run("-u", "eve:wrong", "--interface", "127.0.0.78", "-H", "X-Forwarded-Proto: https", p.URL+"/v2/")
	p.audited(t, "login", "127.0.0.78")
	if strings.Contains(p.Log(), "6.6.6.6") || strings.Contains(p.Log(), "evil.test") {
		t.Errorf("the log has what the header says")
	}
	for _, client := range []string{"127.0.0.77", "127.0.0.78"} {
		waitFor(t, "request of "+client+" in the log", func() bool { return strings.Contains(p.Log(), `"client":"`+client+`","method":`) })
	}
}

// audited fails the test unless the last event of a kind came from a client.
func (p *proxied) audited(t *testing.T, kind, client string) {
	t.Helper()
	last := ""
	for line := range strings.Lines(p.Log()) {
		var e struct{ Event, Client string }
		if json.Unmarshal([]byte(line), &e) == nil && e.Event == kind {
			last = e.Client
		}
	}
	if last != client {
		t.Errorf("the last %s came from %q: want %s", kind, last, client)
	}
}

// TestBehindNginx pushes through nginx, which speaks TLS for the registry.
func TestBehindNginx(t *testing.T) {
	t.Parallel()
	p := startProxied(t, "nginx", nginxConfig, "public_url: https://FRONT", false, "-e", "stderr", "-c")
	p.use(t)
}

// TestBehindHAProxy pushes through HAProxy, which says by version 2 of the PROXY
// protocol whose connection it is.
func TestBehindHAProxy(t *testing.T) {
	t.Parallel()
	p := startProxied(t, "haproxy", haproxyConfig, "proxy_protocol: true", true, "-db", "-f")
	p.use(t)
}
