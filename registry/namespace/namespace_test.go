package namespace_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/namespace"
)

const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

var mirrors = []namespace.Mirror{
	{Prefix: "hub", Namespaces: []string{"docker.io"}, Hub: true, Default: true},
	{Prefix: "cache/ghcr", Namespaces: []string{"ghcr.io", "alias.example.com:444"}},
}

// seen asks the handler and returns the path that came through, the namespace that
// was answered, and the error that the request is to be refused with.
func seen(t *testing.T, method, target string) (path, ns string, refused error) {
	t.Helper()
	registryOf := registry.NewServer(nil, registry.ServerOptions{Observe: func(_ context.Context, r registry.Record) { refused = r.Err }})
	h := namespace.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.EscapedPath()
		if r.URL.Path != strings.ReplaceAll(path, "%3A", ":") {
			t.Errorf("%s has the path %q and the raw path %q", target, r.URL.Path, path)
		}
		if strings.Contains(target, "unknown.example.com") {
			registryOf.ServeHTTP(w, r)
		}
	}), namespace.Options{
		Mirrors: mirrors, Own: []string{"registry.example.com"},
		Has: func(_ context.Context, repo string) bool { return repo == "team/app" || repo == "here" },
	})
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, target, http.NoBody)
	r.Host = "internal:5000"
	h.ServeHTTP(w, r)
	return path, w.Header().Get("OCI-Namespace"), refused
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ method, target, path, ns string }{
		{"GET", "/v2/library/nginx/manifests/latest?ns=docker.io", "/v2/hub/library/nginx/manifests/latest", "docker.io"},
		{"HEAD", "/v2/nginx/manifests/latest?ns=Docker.IO", "/v2/hub/library/nginx/manifests/latest", "Docker.IO"},
		{"GET", "/v2/nginx/blobs/" + digest + "?ns=docker.io", "/v2/hub/library/nginx/blobs/" + digest, "docker.io"},
		{"HEAD", "/v2/nginx/blobs/" + digest + "?ns=docker.io", "/v2/hub/library/nginx/blobs/" + digest, "docker.io"},
		{"GET", "/v2/nginx/blobs/sha256%3A" + digest[7:] + "?ns=docker.io", "/v2/hub/library/nginx/blobs/sha256%3A" + digest[7:], "docker.io"},
		{"GET", "/v2/a/b/c/tags/list?n=5&ns=ghcr.io", "/v2/cache/ghcr/a/b/c/tags/list", "ghcr.io"},
		{"GET", "/v2/a/referrers/" + digest + "?ns=alias.example.com:444", "/v2/cache/ghcr/a/referrers/" + digest, "alias.example.com:444"},
		// what is here already, whatever a mirror has
		{"GET", "/v2/team/app/manifests/v1?ns=docker.io", "/v2/hub/team/app/manifests/v1", "docker.io"},
		{"GET", "/v2/team/app/manifests/v1", "/v2/team/app/manifests/v1", ""},
		{"GET", "/v2/team/app/manifests/v1?ns=registry.example.com", "/v2/team/app/manifests/v1", ""},
		{"GET", "/v2/team/app/manifests/v1?ns=internal:5000", "/v2/team/app/manifests/v1", ""},
		// Docker's registry-mirrors
		{"GET", "/v2/library/nginx/manifests/latest", "/v2/hub/library/nginx/manifests/latest", ""},
		{"HEAD", "/v2/nginx/manifests/latest", "/v2/hub/library/nginx/manifests/latest", ""},
		{"GET", "/v2/nginx/blobs/" + digest, "/v2/hub/library/nginx/blobs/" + digest, ""},
		{"HEAD", "/v2/nginx/blobs/" + digest, "/v2/nginx/blobs/" + digest, ""}, // somebody pushes
		{"GET", "/v2/hub/library/nginx/manifests/latest", "/v2/hub/library/nginx/manifests/latest", ""},
		{"GET", "/v2/hub/manifests/latest", "/v2/hub/library/hub/manifests/latest", ""},
		// short names of Docker Hub
		{"GET", "/v2/hub/nginx/manifests/latest", "/v2/hub/library/nginx/manifests/latest", ""},
		{"HEAD", "/v2/hub/nginx/blobs/" + digest, "/v2/hub/library/nginx/blobs/" + digest, ""},
		{"GET", "/v2/hub/nginx/blobs/sha256%3A" + digest[7:], "/v2/hub/library/nginx/blobs/sha256%3A" + digest[7:], ""},
		{"GET", "/v2/hub/nginx/tags/list?n=5", "/v2/hub/library/nginx/tags/list", ""},
		{"GET", "/v2/hub/nginx/manifests/latest?ns=internal:5000", "/v2/hub/library/nginx/manifests/latest", ""},
		{"GET", "/v2/hub/hub/manifests/latest", "/v2/hub/library/hub/manifests/latest", ""},
		{"GET", "/v2/hub/team/app/manifests/latest", "/v2/hub/team/app/manifests/latest", ""},
		{"GET", "/v2/cache/ghcr/app/manifests/latest", "/v2/cache/ghcr/app/manifests/latest", ""},
		{"DELETE", "/v2/hub/nginx/manifests/latest", "/v2/hub/nginx/manifests/latest", ""},
		// no reading of a repository
		{"GET", "/v2/?ns=docker.io", "/v2/", ""},
		{"GET", "/v2/_catalog?ns=docker.io", "/v2/_catalog", ""},
		{"PUT", "/v2/nginx/manifests/latest?ns=docker.io", "/v2/nginx/manifests/latest", ""},
		{"POST", "/v2/nginx/blobs/uploads/", "/v2/nginx/blobs/uploads/", ""},
		{"DELETE", "/v2/nginx/manifests/latest?ns=docker.io", "/v2/nginx/manifests/latest", ""},
		{"GET", "/healthz?ns=docker.io", "/healthz", ""},
		{"GET", "/v2/a/manifests/../../x?ns=docker.io", "/v2/a/manifests/../../x", ""}, // refused by others
		{"GET", "/v2/nginx/manifests/latest?ns=docker.io&%zz", "/v2/nginx/manifests/latest", ""},
	} {
		path, ns, _ := seen(t, c.method, c.target)
		if path != c.path || ns != c.ns {
			t.Errorf("%s %s came as %s of %q, want %s of %q", c.method, c.target, path, ns, c.path, c.ns)
		}
	}
}

// TestDefaultAway checks that who looks for what it is about to push does not depend on
// the upstream of the default mirror, and that who pulls is told of it.
func TestDefaultAway(t *testing.T) {
	for _, c := range []struct {
		method, target string
		status, want   int // of the mirror; of the answer
	}{
		{"HEAD", "/v2/mine/app/manifests/v1", 503, 404},
		{"HEAD", "/v2/mine/app/manifests/v1", 429, 404},
		{"HEAD", "/v2/mine/app/manifests/v1", 200, 200},
		{"HEAD", "/v2/mine/app/manifests/v1", 404, 404},
		{"HEAD", "/v2/mine/app/manifests/v1", 401, 401},
		{"GET", "/v2/mine/app/manifests/v1", 503, 503},
		{"HEAD", "/v2/mine/app/manifests/v1?ns=docker.io", 503, 503},
		{"HEAD", "/v2/hub/mine/app/manifests/v1", 503, 503},
	} {
		asked := 0
		h := namespace.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			status := http.StatusNotFound
			if strings.HasPrefix(r.URL.Path, "/v2/hub/") {
				status = c.status
				w.Header().Set("Docker-Content-Digest", digest)
			}
			w.WriteHeader(status)
		}), namespace.Options{Mirrors: mirrors, Has: func(context.Context, string) bool { return false }})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.target, http.NoBody))
		if w.Code != c.want {
			t.Errorf("%s %s with a mirror that answers %d: %d, want %d", c.method, c.target, c.status, w.Code, c.want)
		}
		if told := w.Header().Get("Docker-Content-Digest") != ""; told != (c.want == c.status) || asked > 2 {
			t.Errorf("%s %s with a mirror that answers %d: the header is there is %v, asked %d times", c.method, c.target, c.status, told, asked)
		}
	}
}

func TestAlias(t *testing.T) {
	for repo, want := range map[string]string{
		"nginx": "hub/library/nginx", "library/nginx": "hub/library/nginx", "hub/nginx": "hub/library/nginx", "acme/app": "hub/acme/app",
		"hub/library/nginx": "", "hub/acme/app": "", "cache/ghcr/app": "", "hub": "hub/library/hub",
	} {
		if got := namespace.Alias(mirrors)(repo); got != want {
			t.Errorf("%s is also %q, want %q", repo, got, want)
		}
	}
	if got := namespace.Alias(mirrors[1:])("nginx"); got != "" {
		t.Errorf("without registry-mirrors, nginx is also %q", got)
	}
}

// TestUnknownNamespace checks that what has the same name here is not given for what
// somebody else has.
func TestUnknownNamespace(t *testing.T) {
	_, ns, err := seen(t, "GET", "/v2/here/manifests/latest?ns=unknown.example.com")
	if ns != "" || err == nil || !strings.Contains(err.Error(), `no mirror of this registry has the namespace "unknown.example.com"`) {
		t.Errorf("answered for %q: %v", ns, err)
	}
	if _, _, err = seen(t, "GET", "/v2/here/manifests/latest?ns=unknown.example.com"+strings.Repeat("x", 5000)); err == nil || len(err.Error()) > 300 {
		t.Errorf("a long namespace is refused with %v", err)
	}
}

// FuzzNames checks that a rewritten request asks for the same thing of the
// repository below the prefix.
func FuzzNames(f *testing.F) {
	f.Add("/v2/library/nginx/manifests/latest", "ns=docker.io")
	f.Add("/v2/n%67inx/tags/list", "ns=ghcr.io&n=1")
	f.Add("/v2/a/blobs/"+digest, "")
	f.Add("/v2/hub/n%67inx/tags/list", "")
	f.Add("/v2/h%75b/nginx/tags/list", "")
	f.Fuzz(func(t *testing.T, path, query string) {
		before, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		before.URL.Path, before.URL.RawQuery = path, query
		if u, err := before.URL.Parse(path); err == nil && u.Host == "x" {
			before.URL.Path, before.URL.RawPath = u.Path, u.RawPath
		}
		want, err := registry.Parse(http.MethodGet, before.URL.EscapedPath(), query)
		if err != nil {
			return
		}
		namespace.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			got, err := registry.Parse(http.MethodGet, r.URL.EscapedPath(), r.URL.RawQuery)
			if err != nil {
				if len(want.Repo) > 255-len("/cache/ghcr/library") {
					return // too long below the prefix
				}
				t.Fatalf("%s?%s: %v", path, query, err)
			}
			for _, prefix := range []string{"", "hub/", "hub/library/", "cache/ghcr/"} {
				if got.Repo == prefix+want.Repo {
					got.Repo = want.Repo
					break
				}
			}
			if short, ok := strings.CutPrefix(want.Repo, "hub/"); ok && got.Repo == "hub/library/"+short {
				got.Repo = want.Repo
			}
			if got.Repo != want.Repo || got.Kind != want.Kind || got.Ref != want.Ref || got.Digest != want.Digest {
				t.Errorf("%s?%s asks for %+v, and then for %+v", path, query, want, got)
			}
		}), namespace.Options{Mirrors: mirrors, Has: func(context.Context, string) bool { return false }}).ServeHTTP(httptest.NewRecorder(), before)
	})
}
