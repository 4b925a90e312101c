package gate

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	orasauth "oras.land/oras-go/v2/registry/remote/auth"
)

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestParseAuthorization(t *testing.T) {
	for _, c := range []struct {
		header string
		want   credentials
		err    error
	}{
		{"Basic " + encode("alice:secret"), credentials{basicScheme, "alice", "secret", ""}, nil},
		{"bAsIc   " + encode("alice:secret") + " ", credentials{basicScheme, "alice", "secret", ""}, nil},
		{"\tBasic " + encode("alice:secret"), credentials{basicScheme, "alice", "secret", ""}, nil},
		{"Basic " + encode("a:b:c:"), credentials{basicScheme, "a", "b:c:", ""}, nil},
		{"Basic " + encode(":"), credentials{}, nil},
		{"Basic " + encode("ä:ü€"), credentials{basicScheme, "ä", "ü€", ""}, nil},
		{"Basic " + strings.TrimRight(encode("alice:secret1"), "="), credentials{basicScheme, "alice", "secret1", ""}, nil},
		{"Bearer abc.DEF-_~+/==", credentials{scheme: bearerScheme, token: "abc.DEF-_~+/=="}, nil},
		{"bearer  x", credentials{scheme: bearerScheme, token: "x"}, nil},
		{"", credentials{}, errScheme},
		{"Basic", credentials{}, errMalformed},
		{"Basic " + encode("alice"), credentials{}, errMalformed},
		{"Basic " + encode("alice:secret1") + "=", credentials{}, errMalformed},
		{"Basic " + encode("a:b") + " " + encode("a:b"), credentials{}, errMalformed},
		{"Basic YTp-_w==", credentials{}, errMalformed},
		{"Basic YTpi\r\nYg==", credentials{}, errMalformed},
		{"Basic " + encode("a:b\n"), credentials{}, errControl},
		{"Basic " + encode("a\x00:b"), credentials{}, errControl},
		{"Basic " + encode("a:\u0085"), credentials{}, errControl},
		{"Basic " + encode("a:\xff"), credentials{}, errNotUnicode},
		{"Bearer", credentials{}, errMalformed},
		{"Bearer =", credentials{}, errMalformed},
		{"Bearer a b", credentials{}, errMalformed},
		{"Bearer a,b", credentials{}, errMalformed},
		{"Bearer\ta", credentials{}, errScheme},
		{"Bearer é", credentials{}, errMalformed},
		{`Digest username="a"`, credentials{}, errScheme},
		{encode("a:b"), credentials{}, errScheme},
		{"Basic " + strings.Repeat("A", maxAuthorization), credentials{}, errHuge},
	} {
		got, err := parseAuthorization([]string{c.header})
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%.80q: got %+v, %v, want %+v, %v", c.header, got, err, c.want, c.err)
		}
	}
	if _, err := parseAuthorization([]string{"Bearer a", "Bearer a"}); !errors.Is(err, errSeveral) {
		t.Errorf("two headers: %v", err)
	}
	if c, err := parseAuthorization(nil); c != (credentials{}) || err != nil {
		t.Errorf("no header: %+v, %v", c, err)
	}
}

// What is accepted is of a scheme, whole and sound; what net/http reads as Basic
// is read as the same, or refused.
func FuzzAuthorization(f *testing.F) {
	for _, s := range []string{"", "Basic " + encode("alice:se:cret"), "basic Og==", "Bearer eyJ.a.b", "Bearer  a=", "Basic YTpi\n", "Basic \xff", "Digest a=b", "Basic " + encode("a:\x00")} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseAuthorization([]string{s})
		if err != nil {
			if c != (credentials{}) {
				t.Errorf("%+v with an error", c)
			}
			if len(s) > 20 && strings.Contains(err.Error(), s) {
				t.Error("the error repeats the header")
			}
			return
		}
		switch c.scheme {
		case basicScheme:
			both := c.account + ":" + c.password
			if strings.Contains(c.account, ":") || !utf8.ValidString(both) || strings.ContainsAny(both, "\x00\r\n\x7f") || c.token != "" {
				t.Errorf("accepted %+v", c)
			}
			r := http.Request{Header: http.Header{"Authorization": {s}}}
			if account, password, ok := r.BasicAuth(); ok && (account != c.account || password != c.password) {
				t.Errorf("got %+v, net/http reads %q, %q", c, account, password)
			}
		case bearerScheme:
			if c.token == "" || strings.ContainsAny(c.token, " \t\r\n,\"") || !strings.HasSuffix(strings.TrimRight(s, " \t"), c.token) {
				t.Errorf("accepted %+v", c)
			}
		default:
			if r := (&http.Request{Header: http.Header{"Authorization": {s}}}); c != (credentials{}) || !emptyBasic(r) {
				t.Errorf("accepted %+v", c)
			}
		}
	})
}

func TestChallengeText(t *testing.T) {
	for want, got := range map[string]string{
		`Basic`: challenge("Basic"),
		`Bearer realm="https://h/token",service="a b",scope="repository:x:pull"`: challenge("Bearer",
			param{"realm", "https://h/token"}, param{"service", "a b"}, param{"scope", "repository:x:pull"}, param{"error", ""}),
		`Basic realm="a\"b\\c??"`: challenge("Basic", param{"realm", "a\"b\\c\r\n"}),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// Whatever is in a challenge, it stays one header, and one challenge: oras-go
// reads from it what was written, or as much as it reads at all.
func FuzzChallenge(f *testing.F) {
	f.Add("https://h/token", "registry", "repository:a:pull")
	f.Add("a\"b", "c\\", "d\r\nX: y")
	f.Add("", "\x00\x7f", "\xff")
	f.Fuzz(func(t *testing.T, realm, service, scope string) {
		text := challenge("Bearer", param{"realm", realm}, param{"service", service}, param{"scope", scope})
		quotes, escaped := 0, false
		for i := range len(text) {
			switch c := text[i]; {
			case c < ' ' || c == 0x7f:
				t.Fatalf("control character in %q", text)
			case escaped:
				escaped = false
			case c == '\\':
				escaped = true
			case c == '"':
				quotes++
			}
		}
		params := 0
		for _, v := range []string{realm, service, scope} {
			if v != "" {
				params++
			}
		}
		if quotes != 2*params || escaped {
			t.Fatalf("%q has %d quotes, want %d", text, quotes, 2*params)
		}
		asked := make(chan string, 1)
		client := &orasauth.Client{BlockedRealmPrefixes: []netip.Prefix{}, Client: &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			status, header := http.StatusUnauthorized, http.Header{"Www-Authenticate": {text}}
			if r.URL.Path == "/token" && r.URL.Host == "h" {
				asked <- r.URL.Query().Get("service")
				status = http.StatusTeapot
			}
			return &http.Response{StatusCode: status, Header: header, Body: http.NoBody, Request: r}, nil
		})}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://h/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
		}
		plain := strings.IndexFunc(realm+service, func(r rune) bool { return r < ' ' || r > '~' }) < 0
		if realm == "https://h/token" && plain {
			select {
			case got := <-asked:
				if got != service {
					t.Errorf("oras-go reads %q of %s: want %q", got, text, service)
				}
			default:
				t.Errorf("oras-go does not understand %s", text)
			}
		}
	})
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// emptyBasic says that a request has credentials that say nothing.
func emptyBasic(r *http.Request) bool {
	account, password, ok := r.BasicAuth()
	return ok && account == "" && password == ""
}
