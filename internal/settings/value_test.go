package settings

import (
	"strings"
	"testing"
	"time"
)

func TestAddress(t *testing.T) {
	for _, s := range []string{
		":5000", "localhost:5000", "127.0.0.1:0", "0.0.0.0:65535", "[::]:80", "[fe80::1%eth0]:80", "registry.example.com:443",
		"host-1.local.:80", "my_service:80", "a1:80",
	} {
		if !isAddress(s) {
			t.Errorf("%q is refused", s)
		}
	}
	for _, s := range []string{
		"", ":", "localhost", "localhost:", "localhost:65536", "localhost:-1", "localhost:+1", "localhost:http", "::1:80", "[::1]",
		"local host:80", "300.1.1.1:80", "1.2.3:80", "http://localhost:80", "a..b:80", "-a:80", "a-:80", "[::x]:80", "a:80:80",
		" localhost:80", "localhost:80\n", "host/path:80", strings.Repeat("a", 254) + ":80",
	} {
		if isAddress(s) {
			t.Errorf("%q is accepted", s)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"localhost:5000", "localhost:5001", false},
		{"localhost:5000", "LOCALHOST:5000", true},
		{":5000", "localhost:5000", true},
		{"10.0.0.1:5000", "[::]:5000", true},
		{"10.0.0.1:5000", "10.0.0.2:5000", false},
		{"localhost:0", "localhost:0", false},
		{"localhost:5000", "", false},
	} {
		if Overlap(c.a, c.b) != c.want || Overlap(c.b, c.a) != c.want {
			t.Errorf("Overlap(%q, %q), want %v", c.a, c.b, c.want)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 10 * time.Second: "10s", 2 * time.Minute: "2m", 24 * time.Hour: "24h", 90 * time.Minute: "1h30m",
		time.Hour + time.Second: "1h0m1s", 1500 * time.Millisecond: "1.5s", 20 * time.Hour: "20h", 20 * time.Minute: "20m",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("formatDuration(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"http.adr", "http.addr", 1}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
