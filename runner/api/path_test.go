package api

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestFind(t *testing.T) {
	rt := newRouter()
	for _, c := range []struct{ method, path, route, names string }{
		{get, "/_ping", "/_ping", ""},
		{head, "/_ping", "/_ping", ""},
		{get, "/containers/json", "/containers/json", ""},
		{get, "/containers/x/json", "/containers/{name}/json", "x"},
		{get, "/containers//x/json", "/containers/{name}/json", "/x"},
		{get, "/containers/127.0.0.1:5000/lib/bb/json", "/containers/{name}/json", "127.0.0.1:5000/lib/bb"},
		{get, "/images/json", "/images/json", ""},
		{get, "/images/json/json", "/images/{name}/json", "json"},
		{get, "/images/get", "/images/get", ""},
		{get, "/images/get/get", "/images/{name}/get", "get"},
		{get, "/images/a/b/history/json", "/images/{name}/json", "a/b/history"},
		{get, "/images/127.0.0.1:5000/lib/bb:1@sha256:ab/history", "/images/{name}/history", "127.0.0.1:5000/lib/bb:1@sha256:ab"},
		{post, "/images/127.0.0.1:5000/lib/bb/push", "/images/{name}/push", "127.0.0.1:5000/lib/bb"},
		{post, "/images/create", "/images/create", ""},
		{remove, "/images/a/b:c", "/images/{name}", "a/b:c"},
		{remove, "/images/", "/images/{name}", ""},
		{remove, "/containers/x", "/containers/{name}", "x"},
		{remove, "/containers/x/checkpoints/y", "/containers/{name}/checkpoints/{checkpoint}", "x y"},
		{get, "/distribution/a/b/json", "/distribution/{name}/json", "a/b"},
		{get, "/networks", "/networks", ""},
		{get, "/networks/", "/networks/", ""},
		{get, "/networks/a", "/networks/{id}", "a"},
		{post, "/networks/a/connect", "/networks/{id}/connect", "a"},
		{get, "/services/a/logs", "/services/{id}/logs", "a"},
		{get, "/services/a", "/services/{id}", "a"},
		{post, "/exec/e/start", "/exec/{id}/start", "e"},
		{post, "/_ping", "", ""},
		{get, "/containers/create", "", ""},
		{get, "/containers", "", ""},
		{get, "/", "", ""},
		{get, "", "", ""},
		{get, "/nothing/x", "", ""},
		{head, "/containers/json", "", ""},
	} {
		r, names := rt.find(c.method, c.path)
		got := ""
		if r != nil {
			got = r.path
		}
		if got != c.route || strings.Join(names, " ") != c.names {
			t.Errorf("%s %s: route %q with %q, want %q with %q", c.method, c.path, got, names, c.route, c.names)
		}
	}
}

func TestSplitVersion(t *testing.T) {
	for _, c := range []struct{ path, version, rest string }{
		{"/v1.50/info", "1.50", "/info"},
		{"/v1.50/v1.50/info", "1.50", "/v1.50/info"},
		{"/info", "", "/info"},
		{"/version", "", "/version"},
		{"/volumes/v1.2/x", "", "/volumes/v1.2/x"},
		{"/v/x", "", "/v/x"},
		{"/v1.50", "", "/v1.50"},
		{"/v1a/x", "", "/v1a/x"},
		{"/v1.50//x", "1.50", "//x"},
		{"", "", ""},
	} {
		if v, rest := splitVersion(c.path); v != c.version || rest != c.rest {
			t.Errorf("%q: %q and %q, want %q and %q", c.path, v, rest, c.version, c.rest)
		}
	}
}

func TestNegotiate(t *testing.T) {
	for s, want := range map[string]string{
		"": "1.56", "1.56": "1.56", "1.24": "1.24", "1.51": "1.51", "1.50.3": "1.50", "01.050": "1.50",
		"1.23":                   "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
		"0.50":                   "client version 0.50 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
		"1":                      "client version 1 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
		".":                      "client version . is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
		"1.57":                   "client version 1.57 is too new. Maximum supported API version is 1.56",
		"1.99":                   "client version 1.99 is too new. Maximum supported API version is 1.56",
		"2.0":                    "client version 2.0 is too new. Maximum supported API version is 1.56",
		"1.99999999999999999999": "client version 1.99999999999999999999 is too new. Maximum supported API version is 1.56",
		"99999999999999999999.1": "client version 99999999999999999999.1 is too new. Maximum supported API version is 1.56",
	} {
		v, err := negotiate(s)
		got := v.String()
		if err != nil {
			got = err.Error()
			if status(err) != 400 {
				t.Errorf("%q: status %d", s, status(err))
			}
		}
		if got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

// FuzzFind looks for paths that a route matches but that are not made of the
// route's literals and the names.
func FuzzFind(f *testing.F) {
	for _, r := range append(served(), unsupported()...) {
		f.Add(r.method, "/v1.50"+r.path)
	}
	f.Add(get, "/images//json")
	f.Add(remove, "/containers//checkpoints/")
	rt := newRouter()
	f.Fuzz(func(t *testing.T, method, path string) {
		v, rest := splitVersion(path)
		if v != "" && "/v"+v+rest != path || v == "" && rest != path {
			t.Fatalf("%q became %q and %q", path, v, rest)
		}
		r, names := rt.find(method, rest)
		if r == nil {
			return
		}
		if r.method != method {
			t.Fatalf("%s %s: route of %s", method, rest, r.method)
		}
		var again strings.Builder
		for i, literal := range parsePattern(r.path) {
			again.WriteString(literal)
			if i < len(names) {
				again.WriteString(names[i])
			}
		}
		if again.String() != rest {
			t.Fatalf("%q is not %q with %q", rest, r.path, names)
		}
		if v, err := negotiate(v); err == nil && (v < minVersion || v > maxVersion) {
			t.Fatalf("version %s", v)
		}
	})
}

// TestSpecification checks that every path of Docker's own specification has a
// row in one of the tables, and that nothing else has.
func TestSpecification(t *testing.T) {
	specified := specification(t)
	name := regexp.MustCompile(`\{[a-z]+\}`)
	have := map[string]bool{}
	for _, r := range append(served(), unsupported()...) {
		key := r.method + " " + name.ReplaceAllString(r.path, "{}")
		if have[key] {
			t.Errorf("%s is there twice", key)
		}
		have[key] = true
	}
	for key := range specified {
		if key = name.ReplaceAllString(key, "{}"); !have[key] {
			t.Errorf("%s is neither served nor refused", key)
		}
		delete(have, key)
	}
	// What the specification leaves out and clients use all the same.
	for _, key := range []string{
		"GET /networks/", "POST /build/cancel", "POST /grpc",
		"GET /containers/{}/checkpoints", "POST /containers/{}/checkpoints", "DELETE /containers/{}/checkpoints/{}",
	} {
		delete(have, key)
	}
	for key := range have {
		t.Errorf("%s is not in the specification", key)
	}
}

// specification returns the methods and paths of swagger.yaml of the module of the
// API's types.
func specification(t *testing.T) map[string]bool {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/moby/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "swagger.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Paths map[string]map[string]yaml.Node
	}
	if err := yaml.Unmarshal(b, &spec); err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for path, methods := range spec.Paths {
		for method := range methods {
			all[strings.ToUpper(method)+" "+path] = true
		}
	}
	if len(all) < 100 {
		t.Fatalf("the specification has %d operations", len(all))
	}
	return all
}
