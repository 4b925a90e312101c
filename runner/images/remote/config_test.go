package remote

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestServers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t)
	write(t, dir+"/ca.pem", ca.PEM)
	c := client(t, Options{
		Insecure: []string{"10.1.0.0/16", "old.example:5000"},
		Hosts: map[string]Host{
			"plain.example":     {PlainHTTP: true},
			"192.168.1.1:5000":  {CA: dir + "/ca.pem"},
			"here.example":      {Endpoint: "https://there.example:8443/pre/fix/"},
			"docker.io":         {Mirrors: []string{"https://mirror.example/hub", "http://localhost:5000"}},
			"sloppy.example":    {SkipVerify: true},
			"localhost:5555":    {CA: dir + "/ca.pem"},
			"registry.internal": {CA: dir + "/ca.pem"},
		},
	})
	for _, test := range []struct{ name, want string }{
		{"registry.example", "registry.example [https] verified"},
		{"localhost", "localhost [https http] unverified local"},
		{"localhost:5000", "localhost:5000 [https http] unverified local"},
		{"localhost:5555", "localhost:5555 [https] own local"},
		{"127.0.0.1:5000", "127.0.0.1:5000 [https http] unverified local"},
		{"127.9.9.9", "127.9.9.9 [https http] unverified local"},
		{"[::1]:5000", "[::1]:5000 [https http] unverified local"},
		{"10.0.0.1:5000", "10.0.0.1:5000 [https http] verified local strict"},
		{"10.1.2.3", "10.1.2.3 [https http] unverified local"},
		{"172.16.0.1", "172.16.0.1 [https http] verified local strict"},
		{"172.32.0.1", "172.32.0.1 [https] verified"},
		{"192.168.0.1", "192.168.0.1 [https http] verified local strict"},
		{"192.168.1.1:5000", "192.168.1.1:5000 [https] own local"},
		{"[fd00::1]:5000", "[fd00::1]:5000 [https http] verified local strict"},
		{"[2001:db8::1]", "[2001:db8::1] [https] verified"},
		{"8.8.8.8", "8.8.8.8 [https] verified"},
		{"old.example:5000", "old.example:5000 [https http] unverified local"},
		{"old.example", "old.example [https] verified"},
		{"plain.example", "plain.example [http] verified"},
		{"sloppy.example", "sloppy.example [https] unverified"},
		{"here.example", "there.example:8443/pre/fix/ [https] verified"},
		{"localhost.example", "localhost.example [https] verified"},
		{"docker.io", "mirror.example/hub/ [https] verified, localhost:5000 [http] unverified local, registry-1.docker.io [https] verified"},
	} {
		servers, err := c.servers(test.name)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var got []string
		for _, s := range servers {
			got = append(got, describe(c, s))
		}
		if g := strings.Join(got, ", "); g != test.want {
			t.Errorf("%s is %s: want %s", test.name, g, test.want)
		}
	}
}

func describe(c *Client, s *server) string {
	d := s.host
	if s.prefix != "" {
		d += "/" + s.prefix
	}
	d += fmt.Sprint(" ", s.schemes)
	switch s.transport {
	case c.verified:
		d += " verified"
	case c.unverified:
		d += " unverified"
	default:
		d += " own"
	}
	if s.local {
		d += " local"
	}
	if s.strict {
		d += " strict"
	}
	return d
}

func TestOptions(t *testing.T) {
	t.Parallel()
	ca := t.TempDir() + "/ca.pem"
	write(t, ca, newAuthority(t).PEM)
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{Insecure: []string{"http://x"}}, "want HOST[:PORT] or a CIDR"},
		{Options{DefaultRegistry: "x/y"}, "default registry"},
		{Options{Hosts: map[string]Host{"https://x": {}}}, "want HOST[:PORT]"},
		{Options{Hosts: map[string]Host{"../x": {}}}, "want HOST[:PORT]"},
		{Options{Hosts: map[string]Host{"x.y": {Mirrors: []string{"mirror"}}}}, "want http[s]://HOST"},
		{Options{Hosts: map[string]Host{"x.y": {Endpoint: "ftp://x"}}}, "want http[s]://HOST"},
		{Options{Hosts: map[string]Host{"x.y": {Endpoint: "https://user:pass@x"}}}, "not in the URL"},
		{Options{Hosts: map[string]Host{"x.y": {CA: "/no/such"}}}, "no such file"},
		{Options{Hosts: map[string]Host{"x.y": {Cert: "/no/such"}}}, "go together"},
		{Options{Hosts: map[string]Host{"x.y": {CA: "/dev/null"}}}, "no certificate"},
		{Options{Hosts: map[string]Host{"x.y": {CA: ca, PlainHTTP: true}}}, "exclude each other"},
	} {
		_, err := New(test.o)
		wantError(t, err, nil, test.want)
	}
}

func TestIsDomain(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"registry": true, "a.b": true, "a.b:5000": true, "localhost": true, "127.0.0.1:5": true, "[::1]:5000": true, "registry:80": true,
		"": false, "..": false, "../x": false, "a/b": false, "a b": false, "a.b:port": false, "user@host": false, "-x": false, "a\n": false,
	} {
		if isDomain(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

func TestParseName(t *testing.T) {
	t.Parallel()
	hub, own := client(t, Options{}), client(t, Options{DefaultRegistry: "localhost:5000"})
	for _, test := range []struct{ name, hub, own string }{
		{"mongo", "docker.io/library/mongo", "localhost:5000/mongo"},
		{"mongo:4", "docker.io/library/mongo:4", "localhost:5000/mongo:4"},
		{"team/mongo", "docker.io/team/mongo", "localhost:5000/team/mongo"},
		{"docker.io/mongo", "docker.io/library/mongo", "docker.io/library/mongo"},
		{"localhost/mongo", "localhost/mongo", "localhost/mongo"},
		{"x:5000/mongo", "x:5000/mongo", "x:5000/mongo"},
	} {
		if got := must[interface{ String() string }](t)(hub.ParseName(test.name)).String(); got != test.hub {
			t.Errorf("%s is %s: want %s", test.name, got, test.hub)
		}
		if got := must[interface{ String() string }](t)(own.ParseName(test.name)).String(); got != test.own {
			t.Errorf("%s is %s: want %s", test.name, got, test.own)
		}
	}
	_, err := hub.ParseName("UPPER")
	wantError(t, err, nil, "invalid reference format")
}

// TestStrict falls back to plain HTTP only where TLS is seen not to be spoken.
func TestStrict(t *testing.T) {
	t.Parallel()
	plain := newFake(t, func(http.ResponseWriter, *http.Request) {})
	secure := newTLS(t)
	c := client(t, Options{})
	for _, test := range []struct {
		name, addr string
		want       string
	}{
		{"plain", plain.addr(), "http"},
		{"secure", secure, ""},
	} {
		s := &server{host: test.addr, schemes: []string{"https", "http"}, strict: true, transport: c.verified}
		got, err := c.scheme(t.Context(), s)
		if got != test.want || err == nil && test.want == "" {
			t.Errorf("%s: %q, %v", test.name, got, err)
		}
	}
}

// newTLS speaks TLS, with a certificate that nobody trusts, and plain HTTP on the
// same port, as somebody in between might.
func newTLS(t *testing.T) string {
	t.Helper()
	cert, key := newAuthority(t).issue(t, t.TempDir(), "server")
	pair := must[tls.Certificate](t)(tls.LoadX509KeyPair(cert, key))
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	serve := func(conn net.Conn) {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		r := bufio.NewReader(conn)
		if first, err := r.Peek(1); err == nil && first[0] == 22 {
			_ = tls.Server(peeked{conn, r}, &tls.Config{Certificates: []tls.Certificate{pair}}).Handshake()
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	}
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(conn) })
		}
	})
	return l.Addr().String()
}

// peeked is a connection whose first bytes were looked at.
type peeked struct {
	net.Conn
	r io.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// TestSchemeIsRemembered makes one attempt at TLS, not one for each request, and
// another when the server has changed.
func TestSchemeIsRemembered(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	hellos := make(chan bool, 100)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answerAll(conn, hellos)
		}
	}()
	r := client(t, Options{}).Repository(named(t, l.Addr().String()+"/app"), nil)
	for range 5 {
		if _, err := r.Resolve(t.Context(), "v1"); err == nil {
			t.Fatal("a 404 is no error")
		}
	}
	n := 0
	for len(hellos) > 0 {
		if <-hellos {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d attempts at TLS", n)
	}
}

// answerAll answers 404 to each request, and tells whether a connection began
// with TLS.
func answerAll(conn net.Conn, hellos chan<- bool) {
	defer conn.Close()
	buf := make([]byte, 4096)
	for first := true; ; first = false {
		_, err := conn.Read(buf)
		if err != nil {
			return
		}
		if first {
			hellos <- buf[0] == 22
		}
		if buf[0] == 22 {
			_, _ = io.WriteString(conn, "HTTP/1.0 400 Bad Request\r\n\r\n")
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
	}
}

func TestWaitHonoursContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := wait(ctx, 5, &responseError{status: 429, after: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if d := pause(1, &responseError{status: 429, after: time.Hour}); d != maxWait {
		t.Errorf("the pause is %s", d)
	}
}
