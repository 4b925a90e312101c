package auth

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// serve answers a request of id to a registry.
func serve(r registry.Registry, id *Identity, method, path string, header http.Header) *http.Response {
	req := httptest.NewRequest(method, path, http.NoBody)
	maps.Copy(req.Header, header)
	req.Header.Set("X-Request-Id", "test")
	req = req.WithContext(as(req.Context(), id))
	w := httptest.NewRecorder()
	registry.NewServer(r, registry.ServerOptions{}).ServeHTTP(w, req)
	res := w.Result()
	res.Request = req
	return res
}

// text is all that a client sees of an answer.
func text(t *testing.T, res *http.Response) string {
	t.Helper()
	var b strings.Builder
	if err := res.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// To somebody who may not pull it, each route answers for a repository as for one
// that is not there, byte for byte.
func TestHiddenIsMissingOverHTTP(t *testing.T) {
	local := newLocal(t)
	blob, manifest := fill(t, local, "secret/here")
	r := Restrict(local, policy(t, allow("alice", "open/** secret/gone", Pull)), nil)
	gone := digest.FromString("gone")
	paths := []string{"tags/list", "tags/list?n=1", "tags/list?n=0", "tags/list?n=x", "tags/list?last=v0", "tags/list?n=1&last=zz"}
	for _, d := range []digest.Digest{blob, manifest, gone} {
		paths = append(paths, "blobs/"+string(d), "manifests/"+string(d), "referrers/"+string(d), "referrers/"+string(d)+"?artifactType=x")
	}
	paths = append(paths, "manifests/v1", "manifests/v2", "manifests/sha256:bad", "manifests/.bad", "blobs/bad", "referrers/bad", "blobs/uploads/x", "blobs/uploads/")
	headers := []http.Header{
		{},
		{"Range": {"bytes=0-0"}},
		{"Range": {"bytes=99-"}},
		{"If-None-Match": {`"` + string(manifest) + `"`}},
		{"Accept": {"application/vnd.docker.distribution.manifest.v2+json"}},
	}
	for _, path := range paths {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			for _, h := range headers {
				hidden := text(t, serve(r, alice, method, "/v2/secret/here/"+path, h))
				missing := strings.ReplaceAll(text(t, serve(r, alice, method, "/v2/secret/gone/"+path, h)), "secret/gone", "secret/here")
				if hidden != missing {
					t.Errorf("%s %s %v: hidden\n%s\nmissing\n%s", method, path, h, hidden, missing)
				}
			}
		}
	}
}

// A challenge gets to the client.
func TestChallengeOverHTTP(t *testing.T) {
	local := newLocal(t)
	fill(t, local, "team/app")
	r := Restrict(local, policy(t, allow("alice", "**", Pull)), nil)
	scoped := &Identity{Account: "alice", Scoped: true, Grants: []Grant{}}
	for id, insufficient := range map[*Identity]bool{Anonymous: false, scoped: true} {
		for _, path := range []string{"/v2/team/app/manifests/v1", "/v2/team/gone/tags/list"} {
			name := strings.Join(strings.Split(path, "/")[2:4], "/")
			res := serve(r, id, http.MethodGet, path, nil)
			want := fmt.Sprintf("Test scope=%q insufficient=%v", "repository:"+name+":pull", insufficient)
			if got := res.Header["Www-Authenticate"]; res.StatusCode != http.StatusUnauthorized || len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s %q, want 401 and %q", path, res.Status, got, want)
			}
			if body := text(t, res); !strings.Contains(body, `"UNAUTHORIZED"`) {
				t.Errorf("%s: %s", path, body)
			}
		}
	}
}
