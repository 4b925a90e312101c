package edge

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// trustsTen trusts 10.0.0.0/8 and fd00::/8.
func trustsTen(a netip.Addr) bool {
	return netip.MustParsePrefix("10.0.0.0/8").Contains(a) || netip.MustParsePrefix("fd00::/8").Contains(a)
}

func TestHear(t *testing.T) {
	const none = "invalid AddrPort"
	tests := []struct {
		name    string
		headers []string // name: value
		client  string
		scheme  string
		host    string
	}{
		{"nothing", nil, none, "", ""},
		{"one hop", []string{"X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: a.example"}, "192.0.2.1:0", "https", "a.example"},
		{"made up on the left", []string{"X-Forwarded-For: 6.6.6.6, 192.0.2.1"}, "192.0.2.1:0", "", ""},
		{"made up in a header of its own", []string{"X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.1"}, "192.0.2.1:0", "", ""},
		{"made up as a proxy", []string{"X-Forwarded-For: 10.0.0.9, 192.0.2.1"}, "192.0.2.1:0", "", ""},
		{"two proxies", []string{"X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.0.0.2"}, "192.0.2.1:0", "", ""},
		{"two proxies in two headers", []string{"X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 10.0.0.2"}, "192.0.2.1:0", "", ""},
		{"all are proxies", []string{"X-Forwarded-For: 10.0.0.1,10.0.0.2"}, "10.0.0.1:0", "", ""},
		{"a proxy that does not know", []string{"X-Forwarded-For: 6.6.6.6, unknown, 10.0.0.2"}, "10.0.0.2:0", "", ""},
		{"garbage", []string{"X-Forwarded-For: 6.6.6.6, 1.2.3.4.5"}, none, "", ""},
		{"empty", []string{"X-Forwarded-For: "}, none, "", ""},
		{"empty member", []string{"X-Forwarded-For: 6.6.6.6,, 10.0.0.2"}, "10.0.0.2:0", "", ""},
		{"with port", []string{"X-Forwarded-For: 192.0.2.1:4711"}, "192.0.2.1:4711", "", ""},
		{"IPv6", []string{"X-Forwarded-For: 2001:db8::1"}, "[2001:db8::1]:0", "", ""},
		{"IPv6 in brackets", []string{"X-Forwarded-For: [2001:db8::1]"}, "[2001:db8::1]:0", "", ""},
		{"IPv6 with port", []string{"X-Forwarded-For: [2001:db8::1]:99"}, "[2001:db8::1]:99", "", ""},
		{"IPv6 with zone", []string{"X-Forwarded-For: fe80::1%eth0"}, "[fe80::1]:0", "", ""},
		{"IPv4 in IPv6", []string{"X-Forwarded-For: 192.0.2.1, ::ffff:10.0.0.3"}, "192.0.2.1:0", "", ""},
		{"schemes of hops", []string{"X-Forwarded-For: 192.0.2.1, 10.0.0.2", "X-Forwarded-Proto: https, http"}, "192.0.2.1:0", "https", ""},
		{"schemes, made up", []string{"X-Forwarded-For: 6.6.6.6, 192.0.2.1", "X-Forwarded-Proto: http, https"}, "192.0.2.1:0", "https", ""},
		{"one scheme for two hops", []string{"X-Forwarded-For: 192.0.2.1, 10.0.0.2", "X-Forwarded-Proto: HTTPS"}, "192.0.2.1:0", "https", ""},
		{"no scheme", []string{"X-Forwarded-Proto: javascript"}, none, "", ""},
		{"no host", []string{"X-Forwarded-Host: evil/path"}, none, "", ""},
		{"hosts of hops", []string{"X-Forwarded-For: 192.0.2.1, 10.0.0.2", "X-Forwarded-Host: a.example, b.example"}, "192.0.2.1:0", "", "a.example"},

		{"Forwarded", []string{`Forwarded: for=192.0.2.1;proto=https;host=a.example:8443`}, "192.0.2.1:0", "https", "a.example:8443"},
		{"Forwarded, quoted", []string{`Forwarded: For="[2001:db8::1]:99" ; Proto=https ;by=_me`}, "[2001:db8::1]:99", "https", ""},
		{"Forwarded, made up", []string{`Forwarded: for=6.6.6.6;host=evil.example, for=192.0.2.1;host=a.example`}, "192.0.2.1:0", "", "a.example"},
		{"Forwarded, two proxies", []string{`Forwarded: for=6.6.6.6`, `Forwarded: for=192.0.2.1;proto=https`, `Forwarded: for=10.0.0.2;proto=http`}, "192.0.2.1:0", "https", ""},
		{"Forwarded, hidden", []string{`Forwarded: for=6.6.6.6, for=_hidden, for=10.0.0.2`}, "10.0.0.2:0", "", ""},
		{"Forwarded, open quote", []string{`Forwarded: for="6.6.6.6, for=192.0.2.1`}, none, "", ""},
		{"Forwarded, open quote on the left", []string{`Forwarded: for="6.6.6.6`, `Forwarded: for=10.0.0.2`}, "10.0.0.2:0", "", ""},
		{"Forwarded, quoted comma", []string{`Forwarded: for="6.6.6.6, for=7.7.7.7", for=192.0.2.1`}, "192.0.2.1:0", "", ""},
		{"Forwarded, no equals", []string{`Forwarded: for 192.0.2.1`}, none, "", ""},
		{"Forwarded beside the other", []string{`Forwarded: for=6.6.6.6;host=evil.example`, "X-Forwarded-For: 192.0.2.1"}, "192.0.2.1:0", "", ""},
		{"Forwarded beside a scheme", []string{`Forwarded: for=6.6.6.6;host=evil.example`, "X-Forwarded-Proto: https"}, none, "https", ""},

		{"real IP", []string{"X-Real-Ip: 192.0.2.1", "X-Forwarded-Proto: https"}, "192.0.2.1:0", "https", ""},
		{"real IP beside a list", []string{"X-Real-Ip: 6.6.6.6", "X-Forwarded-For: 192.0.2.1"}, "192.0.2.1:0", "", ""},
		{"real IP beside garbage", []string{"X-Real-Ip: 6.6.6.6", "X-Forwarded-For: x"}, none, "", ""},
		{"real IP twice", []string{"X-Real-Ip: 6.6.6.6", "X-Real-Ip: 192.0.2.1"}, none, "", ""},
		{"real IP, a list", []string{"X-Real-Ip: 6.6.6.6, 192.0.2.1"}, none, "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := http.Header{}
			for _, line := range test.headers {
				name, value, _ := strings.Cut(line, ": ")
				h.Add(name, value)
			}
			got := hear(h, trustsTen)
			if got.client.String() != test.client || got.scheme != test.scheme || got.host != test.host {
				t.Errorf("got %v, %q, %q; want %s, %q, %q", got.client, got.scheme, got.host, test.client, test.scheme, test.host)
			}
		})
	}
}

// A long list of trusted addresses costs what it is long, not more.
func TestHearLong(t *testing.T) {
	h := http.Header{headerFor: {"192.0.2.1" + strings.Repeat(",10.0.0.1", 7000)}, headerProto: {strings.Repeat("http,", 12000) + "https"}}
	if got := hear(h, trustsTen); got.client.String() != "192.0.2.1:0" || got.scheme != "http" {
		t.Errorf("got %v, %q", got.client, got.scheme)
	}
}

func TestValidHost(t *testing.T) {
	for s, want := range map[string]bool{
		"a.example": true, "a.example:5000": true, "A-1_b.example.": true, "127.0.0.1": true, "[::1]": true, "[::1]:5000": true, "localhost:1": true,
		"": false, ":5000": false, "a.example:": false, "a:0": false, "a:65536": false, "a:08080": true, "a:000080": false, "a:+1": false,
		"a b": false, "a/b": false, "a@b": false, "a\\b": false, "a?b": false, "a#b": false, "a\r\nb": false, "a\x00": false, "ä.example": false,
		"::1": false, "[::1": false, "[]": false, "[127.0.0.1]": false, "[fe80::1%25eth0]": false, "[::1]x": false, "[::1]]": false, "[::1]:": false,
		".example": false, "-a": false, strings.Repeat("a", 253): true, strings.Repeat("a", 254): false, "a:1:2": false, "a,b": false, "a\"": false,
	} {
		if got := validHost(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestPublicBase(t *testing.T) {
	for s, want := range map[string]string{
		"https://a.example": "https://a.example", "https://a.example/": "https://a.example", "http://a.example:5000": "http://a.example:5000",
		"https://[::1]:5000": "https://[::1]:5000", "a.example": "", "ftp://a.example": "", "https://": "", "https://u:p@a.example": "",
		"https://a.example/path": "", "https://a.example?q": "", "https://a.example#f": "", "https:a.example": "", "https://a b": "", "https://%zz": "",
	} {
		got, err := publicBase(s)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", s, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("%q: a password in %v", s, err)
		}
	}
}

func FuzzHear(f *testing.F) {
	f.Add("192.0.2.1, 10.0.0.1", "https,http", "a.example", `for="[::1]:1";proto=https, for=x`)
	f.Add("", "", "", `for="10.0.0.1;\"",host=";,`)
	f.Add("unknown,,::ffff:1.2.3.4", "HTTPS", "[::1]:1", "for=_a;;for=b,,")
	f.Fuzz(func(t *testing.T, xff, proto, host, forwarded string) {
		for _, h := range []http.Header{
			{headerFor: {xff}, headerProto: {proto}, headerHost: {host}},
			{headerForwarded: {forwarded}},
			{headerForwarded: {forwarded, forwarded}},
			{headerRealIP: {xff}},
		} {
			got := hear(h, trustsTen)
			if got.scheme != "" && got.scheme != schemeHTTP && got.scheme != schemeHTTPS {
				t.Errorf("scheme %q", got.scheme)
			}
			if got.host != "" && !validHost(got.host) {
				t.Errorf("host %q", got.host)
			}
			if c := got.client; c.IsValid() && (c.Addr().Zone() != "" || c.Addr().Is4In6()) {
				t.Errorf("client %v", c)
			}
			// What the nearest proxy adds beats what was there, if that was whole.
			if _, ok := parseForwarded(forwarded); ok && len(h[headerForwarded]) == 1 {
				h[headerForwarded][0] += ", for=192.0.2.77"
				if got := hear(h, trustsTen); got.client.String() != "192.0.2.77:0" {
					t.Errorf("client %v of %q", got.client, h)
				}
			}
			if len(h[headerFor]) == 1 {
				h[headerFor][0] += ", 192.0.2.77"
				if got := hear(h, trustsTen); got.client.String() != "192.0.2.77:0" {
					t.Errorf("client %v of %q", got.client, h)
				}
			}
		}
	})
}
