package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/edge"
	"github.com/berth-registry/berth/runner"
)

// TestMain runs the tests, or, in a process that is started with options, the program.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "--options" {
		o, err := edge.Load(os.Args[2])
		if err == nil {
			err = Run(context.Background(), o, "test")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "edge")
	if err != nil {
		panic(err)
	}
	front.dir = dir
	code := m.Run()
	if front.p != nil {
		if err := front.p.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// front is the one proxy of this process, and where it listens.
var front struct {
	once        sync.Once
	dir         string
	p           *Proxy
	http, https string
	err         error
}

const testStall = time.Second

// testLimits are short, for clients that stall.
var testLimits = limits{header: time.Second, stall: testStall, keepAlive: time.Minute}

// open returns the proxy of this process.
func open(t *testing.T) *Proxy {
	t.Helper()
	front.once.Do(func() {
		o := edge.Options{
			HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0", Data: front.dir, Run: front.dir, AccessLog: true,
			TrustedProxies: []string{"127.0.0.2/32"},
		}
		l, err := listen(context.Background(), o, nil)
		if err != nil {
			front.err = err
			return
		}
		front.http, front.https = l[plainName].Addr().String(), l[secureName].Addr().String()
		front.p, front.err = openWith(o, l, testLimits)
	})
	if front.err != nil {
		t.Fatal(front.err)
	}
	return front.p
}

// set sets the routes of an owner, for as long as the test goes on.
func set(t *testing.T, owner string, routes ...deploy.EdgeRoute) {
	t.Helper()
	p := open(t)
	if err := p.Set(owner, routes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Set(owner, nil); err != nil {
			t.Error(err)
		}
	})
}

// client returns a client that finds every host at the proxy. Without keep-alives each
// request has a connection of its own.
func client(t *testing.T, keepAlive bool) *http.Client {
	t.Helper()
	open(t)
	tr := &http.Transport{
		DisableKeepAlives: !keepAlive, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", front.http)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// fetch is the status and the body of a GET.
func fetch(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// backend is a server that says its name.
type backend struct {
	*httptest.Server

	id   string // no other test's, as there is one proxy for all
	name string
	n    atomic.Int64 // requests
}

func newBackend(t *testing.T, name string) *backend {
	t.Helper()
	b := &backend{id: t.Name() + "/" + name, name: name}
	b.Server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.Close)
	return b
}

// upstream is the backend as a replica.
func (b *backend) upstream(weight int) deploy.Upstream {
	return deploy.Upstream{ID: b.id, Addr: netip.MustParseAddrPort(b.Listener.Addr().String()), Weight: weight}
}

func (b *backend) serve(w http.ResponseWriter, r *http.Request) {
	b.n.Add(1)
	switch {
	case r.URL.Path == "/events":
		b.events(w, r)
	case r.URL.Path == "/socket":
		b.socket(w)
	case r.URL.Path == "/headers":
		_ = r.Header.Write(w)
	case r.URL.Path == "/abort" || r.URL.Path == "/abort/"+b.name:
		panic(http.ErrAbortHandler)
	case r.URL.Path == "/text":
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, strings.Repeat("text ", 1000))
	case r.Method == http.MethodPost:
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		fmt.Fprintf(w, "%s %d", b.name, n)
	default:
		fmt.Fprintf(w, "%s %s", b.name, r.URL.RequestURI())
	}
}

// events streams until the client goes.
func (b *backend) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := 0; ; i++ {
		fmt.Fprintf(w, "data: %d\n\n", i)
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// socket echoes lines, as a WebSocket would after its handshake.
func (b *backend) socket(w http.ResponseWriter) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_ = rw.Flush()
	for {
		line, err := rw.ReadString('\n')
		if err != nil {
			return
		}
		_, _ = rw.WriteString(b.name + " " + line)
		if rw.Flush() != nil {
			return
		}
	}
}

// dialSocket opens what is a WebSocket to proxies.
func dialSocket(t *testing.T, host string) (net.Conn, *bufio.Reader) {
	t.Helper()
	open(t)
	c, err := net.Dial("tcp", front.http)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	fmt.Fprintf(c, "GET /socket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", host)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	return c, r
}

func routeTo(host string, upstreams ...deploy.Upstream) deploy.EdgeRoute {
	return deploy.EdgeRoute{Service: "web", Route: deploy.Route{Hosts: []string{host}, TLS: deploy.TLSOff}, Upstreams: upstreams}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for begin := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// edgeRoute is short.
type edgeRoute = deploy.EdgeRoute

func isConflict(err error) bool { return errors.Is(err, runner.ErrConflict) }

func isInvalid(err error) bool { return errors.Is(err, runner.ErrInvalid) }
