package upstream

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"testing"
)

func TestDistance(t *testing.T) {
	for ip, want := range map[string]distance{
		"8.8.8.8": public, "2001:4860:4860::8888": public, "203.0.113.7": public,
		"10.0.0.1": private, "192.168.1.1": private, "172.31.255.255": private, "172.32.0.1": public, "fd12::1": private,
		"100.64.0.1": private, "::ffff:10.0.0.1": private, "64:ff9b::a00:1": private, "2002:a00:1::": private,
		"127.0.0.1": loopback, "127.9.9.9": loopback, "::1": loopback, "::ffff:127.0.0.1": loopback, "64:ff9b::7f00:1": loopback,
		"169.254.169.254": linkLocal, "fe80::1%eth0": linkLocal, "0.0.0.0": linkLocal, "::": linkLocal, "224.0.0.1": linkLocal,
		"::ffff:169.254.169.254": linkLocal, "64:ff9b::a9fe:a9fe": linkLocal, "fd00:ec2::254": linkLocal, "168.63.129.16": linkLocal,
		"100.100.100.200": linkLocal, "255.255.255.255": linkLocal,
	} {
		if got := distanceOf(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: got %d, want %d", ip, got, want)
		}
	}
}

// A name that resolves to this machine is refused when it is dialled.
func TestDialOfWhatIsNear(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, tt := range []struct {
		name, upstream, proxy, to string
		near                      distance
		want                      bool
	}{
		{"public", "https://registry.example", "", "127.0.0.1", public, false},
		{"public, by name", "https://registry.example", "", "localhost", public, false},
		{"private", "https://registry.example", "", "localhost", private, false},
		{"loopback", "https://registry.example", "", "localhost", loopback, true},
		{"itself", "http://localhost:" + port, "", "localhost", public, true},
		{"its host's other port", "http://localhost:1", "", "localhost", public, false},
		{"proxy", "http://registry.example", "http://localhost:" + port, "localhost", public, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, err := New(Options{Name: "hub", URL: tt.upstream, Proxy: tt.proxy})
			if err != nil {
				t.Fatal(err)
			}
			u.near.set(tt.near)
			if tt.proxy != "" {
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.upstream, http.NoBody)
				if _, err := u.pool.Proxy(req); err != nil {
					t.Fatal(err)
				}
			}
			c, err := u.dial(t.Context(), "tcp", net.JoinHostPort(tt.to, port))
			if err == nil {
				c.Close()
			}
			f, barring := errors.AsType[*fault](err)
			if tt.want != (err == nil) || barring == tt.want || barring && f.kind != barred {
				t.Errorf("got error %v, want to connect: %v", err, tt.want)
			}
		})
	}
}

func TestBase(t *testing.T) {
	for s, want := range map[string]string{
		"docker.io": "https://registry-1.docker.io", "https://index.docker.io/v1/": "https://registry-1.docker.io",
		"https://registry-1.docker.io": "https://registry-1.docker.io", "http://docker.io": "https://registry-1.docker.io",
		"GHCR.io": "https://ghcr.io", "ghcr.io:443": "https://ghcr.io:443", "http://127.0.0.1:5000/": "http://127.0.0.1:5000",
		"https://a.example/v2/": "https://a.example", "https://a.example/artifactory/": "https://a.example/artifactory", "[::1]:5000": "https://[::1]:5000",
		"": "", "https://": "", "ftp://a.example": "", "https://a:b@a.example": "", "https://a.example?x": "", "https://:443": "",
	} {
		u, err := baseOf(s)
		if got := str(u); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", s, got, err, want)
		}
	}
}

func str(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.String()
}
