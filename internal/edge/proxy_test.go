package edge_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/edge"
	"github.com/berth-registry/berth/internal/freeaddr"
)

func netSplit(addr string) (host, port string, err error) { return net.SplitHostPort(addr) }

// rawRequest sends text and returns the status and the Location of the answer, or
// "closed" if there is none.
func rawRequest(tb testing.TB, addr, text string) (status, location string) {
	tb.Helper()
	res, body := rawExchange(tb, addr, text)
	if res == nil {
		return "closed", ""
	}
	_ = body
	return fmt.Sprint(res.StatusCode), res.Header.Get("Location")
}

// rawExchange sends text and returns the answer, or nil if the connection ends
// without one.
func rawExchange(tb testing.TB, addr, text string) (*http.Response, string) {
	tb.Helper()
	conn, err := net.DialTimeout("tcp", addr, time.Minute)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		return nil, "" // refused before all was read
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		tb.Fatal("no answer, and the connection is open")
	}
	if err != nil {
		return nil, ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Error(err)
	}
	return res, string(body)
}

// tell answers with what the handlers know of the client.
func tell(w http.ResponseWriter, r *http.Request) {
	_, _ = fmt.Fprintf(w, "%s %s", r.RemoteAddr, edge.Base(r))
}

const request = "GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n"

func v2(command proxyproto.ProtocolVersionAndCommand, source net.Addr, tlvs ...proxyproto.TLV) string {
	h := &proxyproto.Header{Version: 2, Command: command, TransportProtocol: proxyproto.UNSPEC}
	switch a := source.(type) {
	case *net.TCPAddr:
		h.TransportProtocol, h.SourceAddr, h.DestinationAddr = proxyproto.TCPv4, a, a
		if a.IP.To4() == nil {
			h.TransportProtocol = proxyproto.TCPv6
		}
	case *net.UnixAddr:
		h.TransportProtocol, h.SourceAddr, h.DestinationAddr = proxyproto.UnixStream, a, a
	}
	if err := h.SetTLVs(tlvs); err != nil {
		panic(err) // the test is wrong
	}
	text, err := h.Format()
	if err != nil {
		panic(err)
	}
	return string(text)
}

func TestProxyProtocol(t *testing.T) {
	s := start(t, edge.Options{TrustedProxies: loopback, ProxyProtocol: true}, http.HandlerFunc(tell))
	ip4, ip6 := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4711}, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 4711}
	trusted := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4711}
	tests := []struct{ name, header, want string }{ // want: a prefix of the answer; empty if refused
		{"v1", "PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n", "192.0.2.1:4711 http://a.example"},
		{"v1, IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", "[2001:db8::1]:4711 "},
		{"v1, unknown", "PROXY UNKNOWN\r\n", "127.0.0.1:"},
		{"v1, unknown with addresses", "PROXY UNKNOWN 6.6.6.6 6.6.6.6 1 2\r\n", "127.0.0.1:"},
		{"v2", v2(proxyproto.PROXY, ip4), "192.0.2.1:4711 "},
		{"v2, IPv6", v2(proxyproto.PROXY, ip6), "[2001:db8::1]:4711 "},
		{"v2, TLVs", v2(proxyproto.PROXY, ip4, proxyproto.TLV{Type: 0xe0, Value: make([]byte, 1000)}), "192.0.2.1:4711 "},
		{"v2, local", v2(proxyproto.LOCAL, nil), "127.0.0.1:"},
		{"v2, local with an address", v2(proxyproto.LOCAL, ip4), "127.0.0.1:"},
		{"v2, the client is a trusted proxy", v2(proxyproto.PROXY, trusted), "6.6.6.6:0 "},
		{"none", "", ""},
		{"unix", v2(proxyproto.PROXY, &net.UnixAddr{Name: "/x", Net: "unix"}), ""},
		{"too long v1", "PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n", ""},
		{"endless v1", "PROXY " + strings.Repeat("x", 1<<20), ""},
		{"garbage", "PROXY TCP4 a b c d\r\n", ""},
		{"bad port", "PROXY TCP4 192.0.2.1 192.0.2.2 65536 1\r\n", ""},
		{"no CR", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", ""},
		{"huge v2", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + strings.Repeat("\x00", 1<<16), ""},
		{"v2 of another version", "\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x0c" + strings.Repeat("\x00", 12), ""},
		{"v2 too short", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x04\x00\x00\x00\x00", ""},
		{"twice", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nPROXY TCP4 192.0.2.3 192.0.2.2 1 2\r\n", "400"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			res, body := rawExchange(t, s.addr, test.header+request)
			if (res != nil) != (test.want != "") || !strings.HasPrefix(body, test.want) {
				t.Errorf("got %v, %q; want %q", res, body, test.want)
			}
		})
	}
}

// From an address that is not trusted, a PROXY header is not one.
func TestProxyProtocolFromOthers(t *testing.T) {
	s := start(t, edge.Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ProxyProtocol: true}, http.HandlerFunc(tell))
	if _, body := rawExchange(t, s.addr, request); !strings.HasPrefix(body, "127.0.0.1:") {
		t.Errorf("without a header: %q", body)
	}
	for name, header := range map[string]string{
		"v1": "PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n",
		"v2": v2(proxyproto.PROXY, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}),
	} {
		if res, body := rawExchange(t, s.addr, header+request); res == nil || res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %v, %q", name, res, body)
		}
	}
}

// A proxy that is slow with its header is given up, and holds up nobody else.
func TestProxyProtocolSlow(t *testing.T) {
	t.Parallel()
	s := start(t, edge.Options{TrustedProxies: loopback, ProxyProtocol: true}, http.HandlerFunc(tell))
	var conns []net.Conn
	for _, begin := range []string{"", "PROXY", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"} {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, begin); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	if _, body := rawExchange(t, s.addr, "PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n"+request); !strings.HasPrefix(body, "192.0.2.1:4711") {
		t.Errorf("another: %q", body)
	}
	for i, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("slow one %d: %d, %v", i, n, err)
		}
	}
}

// A listener's connections let the kernel send files: nothing is around them that
// net/http does not see through.
func TestConnectionsSendFiles(t *testing.T) {
	accept := func(o edge.Options, first string) net.Conn {
		o.Addr = "127.0.0.1:0"
		listeners, err := newEdge(t, o).Listen(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l := listeners[0]
		defer l.Close()
		go func() {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return // Accept fails too
			}
			_, _ = io.WriteString(conn, first)
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	f := newFiles(t)
	untrusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for name, o := range map[string]edge.Options{
		"plain": {Patience: time.Minute}, "TLS": {Cert: f.cert, Key: f.key}, "trusted proxies": {TrustedProxies: loopback},
		"PROXY protocol, not from there": {TrustedProxies: untrusted, ProxyProtocol: true},
	} {
		if conn, ok := accept(o, "").(*net.TCPConn); !ok {
			t.Errorf("%s: %T", name, conn)
		}
	}
	conn := accept(edge.Options{TrustedProxies: loopback, ProxyProtocol: true}, "PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n")
	p, ok := conn.(*proxyproto.Conn)
	if !ok {
		t.Fatalf("%T", conn)
	}
	if _, ok := p.Raw().(*net.TCPConn); !ok {
		t.Errorf("%T", p.Raw())
	}
	if _, ok := conn.(io.ReaderFrom); !ok {
		t.Errorf("%T copies what the kernel could send", conn)
	}
}

// thisHost is what a proxy on this host connects from, and its clients here do not.
var thisHost = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}

// daemon starts a server of another project with a configuration, and waits until
// it listens on addr.
func daemon(t *testing.T, name, addr, config string, args ...string) {
	t.Helper()
	file := write(t, filepath.Join(t.TempDir(), name+".conf"), []byte(config))
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "FILE", file)
	}
	berthtest.NewCommand(t, name).Daemon(func() error {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			err = conn.Close()
		}
		return err
	}, args...)
}

// A real HAProxy, by both versions, with health checks, and TLS passed through.
func TestHAProxy(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	checks := make(chan string, 100)
	s := start(t, edge.Options{Cert: f.cert, Key: f.key, TrustedProxies: thisHost, ProxyProtocol: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			select {
			case checks <- r.RemoteAddr:
			default:
			}
		}
		tell(w, r)
	}))
	c := client(t, &tls.Config{RootCAs: f.ca.pool()}, true)
	for _, version := range []string{"send-proxy", "send-proxy-v2"} {
		addr := freeaddr.For(t)
		daemon(t, "haproxy", addr, fmt.Sprintf(`
global
	log stderr format raw local0
defaults
	mode tcp
	timeout connect 5s
	timeout client 30s
	timeout server 30s
listen berth
	bind %s
	option httpchk GET /healthz
	server berth %s %s check inter 100ms fall 1 check-ssl check-alpn http/1.1 verify none
`, addr, s.addr, version), "-db", "-f", "FILE")
		var local string
		c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 77)}}).DialContext(ctx, network, addr)
			if err == nil {
				local = conn.LocalAddr().String()
			}
			return conn, err
		}
		for range 3 {
			got, err := get(t.Context(), c, "https://registry.example.com/", "X-Forwarded-For", "6.6.6.6", "Host", "registry.example.com")
			if want := local + " https://registry.example.com"; err != nil || got != want {
				t.Errorf("%s: %q, %v; want %q", version, got, err, want)
			}
			// After the first checks have been answered, it still sends requests here.
			for range 3 {
				if from := <-checks; !strings.HasPrefix(from, "127.0.0.1:") {
					t.Errorf("%s: a check from %s", version, from)
				}
			}
		}
		c.CloseIdleConnections()
	}
}

// The configuration of nginx that the README shows, over a real one.
func TestNginx(t *testing.T) {
	t.Parallel()
	var received bytes.Buffer
	s := start(t, edge.Options{TrustedProxies: thisHost}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			received.Reset()
			_, _ = io.Copy(&received, r.Body)
		}
		tell(w, r)
	}))
	f, dir, addr := newFiles(t), t.TempDir(), freeaddr.For(t)
	if err := os.Chmod(dir, 0o755); err != nil { // its workers are another user
		t.Fatal(err)
	}
	daemon(t, "nginx", addr, fmt.Sprintf(`
daemon off;
pid %[1]s/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s ssl http2;
		ssl_certificate %[3]s;
		ssl_certificate_key %[4]s;
		client_max_body_size 0;
		location / {
			proxy_pass http://%[5]s;
			proxy_http_version 1.1;
			proxy_request_buffering off;
			proxy_buffering off;
			proxy_read_timeout 15m;
			proxy_send_timeout 15m;
			proxy_set_header Connection "";
			proxy_set_header Host $http_host;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header X-Forwarded-Proto $scheme;
			proxy_set_header X-Forwarded-Host "";
		}
	}
}
`, dir, addr, f.cert, f.key, s.addr), "-p", dir, "-c", "FILE", "-e", "stderr")
	for name, http2 := range map[string]bool{"http1": false, "http2": true} {
		c := client(t, &tls.Config{RootCAs: f.ca.pool()}, http2)
		c.Transport.(*http.Transport).DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 77)}}).DialContext
		got, err := get(t.Context(), c, "https://"+addr+"/v2/", "X-Forwarded-For", "6.6.6.6", "Forwarded", "for=6.6.6.6;host=evil.example", "X-Forwarded-Host", "evil.example", "X-Real-IP", "6.6.6.6")
		if want := "127.0.0.77:0 https://" + addr; got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
		body := bytes.Repeat([]byte(name), 1<<20)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+addr+"/v2/", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK || !bytes.Equal(received.Bytes(), body) {
			t.Errorf("%s: a push of %d bytes: %s, %d", name, len(body), res.Status, received.Len())
		}
	}
}
