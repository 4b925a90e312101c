package remote

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// FuzzChallenge is of what a server may send in WWW-Authenticate: of several
// challenges one is left, unless none can be answered, and nothing is made up.
// What oras-go makes of it asks no server that the challenge does not name.
func FuzzChallenge(f *testing.F) {
	for _, seed := range [][2]string{
		{"Negotiate", `Bearer realm="https://auth.test/token",service="x",scope="repository:a:pull"`},
		{`Basic realm="x"`, `bearer realm="https://auth.test/token"`},
		{`Basic realm="a\"b", charset="UTF-8"`, ""},
		{`Bearer realm="https://auth.test/token`, `Bearer realm=, ,=`},
		{"Bearer", "BASIC"},
		{"Bearer realm=\"\\", "\x00\xff"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		sent := []string{first, second}
		both := strings.ToLower(first + second)
		client := &auth.Client{
			Client: &http.Client{Transport: oneChallenge{roundTrip(func(r *http.Request) (*http.Response, error) {
				resp := &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{}, Body: http.NoBody, Request: r}
				if r.URL.Host == "registry.test" {
					resp.Header["Www-Authenticate"] = slices.Clone(sent)
				} else if !strings.Contains(both, "bearer") {
					t.Errorf("asked %s, because of %q", r.URL, sent)
				}
				return resp, nil
			})}},
			Cache: auth.NewCache(), BlockedRealmPrefixes: []netip.Prefix{}, // it would look names up
			Credential: auth.StaticCredential("registry.test", auth.Credential{Username: "user", Password: "secret"}),
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://registry.test/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		left := resp.Header["Www-Authenticate"]
		if resp.Request.URL.Host == "registry.test" && len(left) != 1 && !slices.Equal(left, sent) || len(left) == 1 && !slices.Contains(sent, left[0]) {
			t.Errorf("of %q %q is left", sent, left)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
