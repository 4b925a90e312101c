package edge_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/berth-registry/berth/internal/edge"
)

func newEdge(tb testing.TB, o edge.Options) *edge.Edge {
	tb.Helper()
	e, err := edge.New(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = e.Close() })
	return e
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::ffff:10.0.0.0/104"), netip.MustParsePrefix("fd00::/8")}

func TestHandlerAndBase(t *testing.T) {
	proxied := edge.Options{TrustedProxies: loopback}
	tests := []struct {
		name   string
		o      edge.Options
		peer   string
		tls    bool
		host   string
		header []string
		client string
		base   string
	}{
		{"plain", edge.Options{}, "192.0.2.1:99", false, "a.example:5000", nil, "192.0.2.1:99", "http://a.example:5000"},
		{"TLS", edge.Options{}, "192.0.2.1:99", true, "a.example", nil, "192.0.2.1:99", "https://a.example"},
		{"no host", edge.Options{}, "192.0.2.1:99", false, "", nil, "192.0.2.1:99", "http://localhost"},
		{"bad host", edge.Options{}, "192.0.2.1:99", false, `a"b`, nil, "192.0.2.1:99", "http://localhost"},
		{"public URL", edge.Options{PublicURL: "https://r.example/"}, "192.0.2.1:99", false, "a.example", nil, "192.0.2.1:99", "https://r.example"},
		{"nobody is trusted", edge.Options{}, "127.0.0.1:99", false, "a.example", []string{"X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.example", "Forwarded", "for=6.6.6.6", "X-Real-Ip", "6.6.6.6"}, "127.0.0.1:99", "http://a.example"},
		{"not trusted", proxied, "192.0.2.1:99", false, "a.example", []string{"X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.example"}, "192.0.2.1:99", "http://a.example"},
		{"trusted", proxied, "127.0.0.1:99", false, "b.example", []string{"X-Forwarded-For", "192.0.2.7", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "a.example"}, "192.0.2.7:0", "https://a.example"},
		{"trusted, in IPv6's form", proxied, "[::ffff:10.1.2.3]:99", false, "a.example", []string{"X-Forwarded-For", "192.0.2.7"}, "192.0.2.7:0", "http://a.example"},
		{"trusted, IPv6", proxied, "[fd00::1]:99", false, "a.example", []string{"X-Forwarded-For", "2001:db8::1"}, "[2001:db8::1]:0", "http://a.example"},
		{"trusted, host of the request", proxied, "127.0.0.1:99", false, "a.example:8443", []string{"X-Forwarded-For", "192.0.2.7", "X-Forwarded-Proto", "https"}, "192.0.2.7:0", "https://a.example:8443"},
		{"trusted, TLS between", proxied, "127.0.0.1:99", true, "a.example", []string{"X-Forwarded-For", "192.0.2.7", "X-Forwarded-Proto", "http"}, "192.0.2.7:0", "http://a.example"},
		{"trusted, says nothing", proxied, "127.0.0.1:99", false, "a.example", nil, "127.0.0.1:99", "http://a.example"},
		{"trusted and public", edge.Options{TrustedProxies: loopback, PublicURL: "https://r.example"}, "127.0.0.1:99", false, "b", []string{"X-Forwarded-For", "192.0.2.7", "X-Forwarded-Host", "a.example"}, "192.0.2.7:0", "https://r.example"},
		{"a socket", proxied, "@", false, "a.example", []string{"X-Forwarded-For", "6.6.6.6"}, "@", "http://a.example"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/v2/", http.NoBody)
			r.RemoteAddr, r.Host = test.peer, test.host
			if test.tls {
				r.TLS = &tls.ConnectionState{}
			}
			r.Header.Set("X-Forwarded", "kept: it is none of them")
			for i := 0; i < len(test.header); i += 2 {
				r.Header.Add(test.header[i], test.header[i+1])
			}
			r.Header.Set("X-Forwarded-Anything", "6.6.6.6")
			called := false
			newEdge(t, test.o).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				called = true
				if r.RemoteAddr != test.client || edge.Base(r) != test.base {
					t.Errorf("got %s, %s; want %s, %s", r.RemoteAddr, edge.Base(r), test.client, test.base)
				}
				if len(r.Header) != 1 {
					t.Errorf("headers left: %v", r.Header)
				}
			})).ServeHTTP(httptest.NewRecorder(), r)
			if !called {
				t.Error("not called")
			}
		})
	}
}

// Base works on a request that no Handler has seen, too.
func TestBaseAlone(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.Host = "a.example"
	r.Header.Set("X-Forwarded-Proto", "https")
	if got := edge.Base(r); got != "http://a.example" {
		t.Error(got)
	}
}

// Without trusted proxies a request costs nothing; with them, one that says
// nothing neither.
func TestHandlerAllocates(t *testing.T) {
	for _, o := range []edge.Options{{}, {PublicURL: "https://r.example"}, {TrustedProxies: loopback}} {
		e := newEdge(t, o)
		var s http.Server
		e.Configure(&s)
		base := ""
		h := e.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if o.PublicURL != "" {
				base = edge.Base(r)
			}
		}))
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody).WithContext(s.BaseContext(nil))
		r.RemoteAddr = "192.0.2.1:1234"
		r.Header.Set("Accept", "*/*")
		if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(nil, r) }); n != 0 {
			t.Errorf("%+v: %v allocations", o, n)
		}
		if base != o.PublicURL {
			t.Errorf("base %q", base)
		}
	}
}

func BenchmarkHandler(b *testing.B) {
	for name, o := range map[string]edge.Options{"direct": {}, "proxied": {TrustedProxies: loopback}} {
		b.Run(name, func(b *testing.B) {
			e := newEdge(b, o)
			var s http.Server
			e.Configure(&s)
			h := e.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			ctx := s.BaseContext(nil)
			header := http.Header{"Accept": {"*/*"}, "User-Agent": {"x"}, "Authorization": {"x"}, "Accept-Encoding": {"x"}}
			b.ReportAllocs()
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody).WithContext(ctx)
			r.Header = header
			for b.Loop() {
				r.RemoteAddr = "127.0.0.1:1234"
				if len(o.TrustedProxies) > 0 {
					header["X-Forwarded-For"] = []string{"192.0.2.1"}
					header["X-Forwarded-Proto"] = []string{"https"}
				}
				h.ServeHTTP(nil, r)
			}
		})
	}
}

func TestRedirect(t *testing.T) {
	f := newFiles(t)
	s := start(t, edge.Options{Cert: f.cert, Key: f.key, RedirectAddr: "127.0.0.1:0"}, http.NotFoundHandler())
	public := start(t, edge.Options{Cert: f.cert, Key: f.key, RedirectAddr: "127.0.0.1:0", PublicURL: "https://r.example:8443"}, http.NotFoundHandler())
	proxied := start(t, edge.Options{PublicURL: "https://r.example", RedirectAddr: "127.0.0.1:0"}, http.NotFoundHandler())
	_, port, _ := netSplit(s.addr)
	here := ":" + port
	tests := []struct {
		s                            *server
		method, target, host, expect string // expect: location, or status
	}{
		{s, "GET", "/v2/a%2Fb/tags/list?n=1&x=%20", "a.example", "https://a.example" + here + "/v2/a%2Fb/tags/list?n=1&x=%20"},
		{s, "POST", "/v2/", "a.example:80", "https://a.example" + here + "/v2/"},
		{s, "GET", "/?", "[::1]:80", "https://[::1]" + here + "/?"},
		{s, "GET", "//evil.example/x", "a.example", "https://a.example" + here + "//evil.example/x"},
		{s, "GET", "/\\evil.example", "a.example", "https://a.example" + here + "/%5Cevil.example"},
		{s, "GET", "/a%0d%0aSet-Cookie:%20x", "a.example", "https://a.example" + here + "/a%0d%0aSet-Cookie:%20x"},
		{s, "GET", "/", "a.example/@evil.example", "400"},
		{s, "GET", "/", "a.example:x", "400"},
		{s, "GET", "/", "user@a.example", "400"},
		{s, "GET", "/", "", "400"},
		{s, "OPTIONS", "*", "a.example", "200"}, // net/http's own
		{s, "CONNECT", "a.example:443", "a.example:443", "400"},
		{s, "GET", "http://b.example/x", "a.example", "https://b.example" + here + "/x"}, // RFC 9112, section 3.2.2
		{public, "GET", "/x?y", "whatever.example", "https://r.example:8443/x?y"},
		{public, "GET", "/", "a b", "400"},
		{proxied, "GET", "/x", "a.example", "https://r.example/x"},
	}
	for _, test := range tests {
		status, location := rawRequest(t, test.s.redirect, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nX-Forwarded-Host: evil.example\r\nConnection: close\r\n\r\n", test.method, test.target, test.host))
		if location == "" {
			location = status
		} else if status != "308" {
			t.Errorf("%s %s at %q: %s", test.method, test.target, test.host, status)
		}
		if location != test.expect {
			t.Errorf("%s %s at %q: %s, want %s", test.method, test.target, test.host, location, test.expect)
		}
	}
	// And one arrives.
	c := client(t, &tls.Config{RootCAs: f.ca.pool()}, false)
	c.CheckRedirect = nil
	res, err := c.Get("http://" + s.redirect + "/x")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got := res.Request.URL.String(); got != s.url("/x") {
		t.Errorf("arrived at %s", got)
	}
}
