package proxy

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/berth-registry/berth/deploy"
)

// FuzzStrip takes a prefix away from any path: what is left is a path that says the same
// in both of its forms.
func FuzzStrip(f *testing.F) {
	for _, seed := range []string{"/api", "/api/", "/api/a%2Fb", "/api//x", "/%61pi/x", "/api/%2e%2e/x", "/api%2Fx", "/api/é%C3%A9"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil || u.Host != "" || !hasPrefix(u.Path, "/api") {
			return
		}
		rest := strings.TrimPrefix(u.Path, "/api")
		r := &http.Request{URL: u, Header: http.Header{}}
		strip(r, "/api")
		if want := "/" + strings.TrimPrefix(rest, "/"); r.URL.Path != want {
			t.Errorf("%q: %q, want %q", raw, r.URL.Path, want)
		}
		if path, err := url.PathUnescape(r.URL.EscapedPath()); err != nil || path != r.URL.Path {
			t.Errorf("%q: %q is sent as %q", raw, r.URL.Path, r.URL.EscapedPath())
		}
	})
}

// FuzzNormal takes any host and path for a route: what is accepted is found again.
func FuzzNormal(f *testing.F) {
	for _, seed := range [][2]string{{"a.test", "/x"}, {"*.a.test", "/"}, {"A.Test.", "/a/b/"}, {"", ""}, {"a..b", "//"}, {"x_y", "/a%2f"}, {"-a", "/\x00"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, host, path string) {
		r, err := normal(deploy.EdgeRoute{Service: "s", Route: deploy.Route{Hosts: []string{host}, Paths: []string{path}}})
		if err != nil {
			return
		}
		again, err := normal(r)
		if len(r.Paths[0]) > 0 && (err != nil || again.Hosts[0] != r.Hosts[0] || again.Paths[0] != r.Paths[0]) {
			t.Errorf("%q %q: normal twice is %v, %v", host, path, again, err)
		}
		e := &entry{}
		table := &table{hosts: map[string][]match{r.Hosts[0]: {{r.Paths[0], e}}}}
		asked := strings.Replace(r.Hosts[0], "*", "a", 1) + ":8080"
		if found, _ := table.find(hostOf(asked), r.Paths[0]+"/x"); found != e {
			t.Errorf("%q %q is not found as %q", host, path, asked)
		}
	})
}
