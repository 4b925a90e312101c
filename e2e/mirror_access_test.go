package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
)

const mirrorPolicy = `
- {who: [alice], repos: ["far/**"], may: [pull]}
- {who: [anonymous], repos: ["far/open/**"], may: [pull, fetch]}
- {who: [anonymous], repos: ["far/public/**"], may: [pull]}
`

// TestMirrorAccess checks who may pull through a mirror, and who may have it ask its
// upstream; by the mirror's names, by ?ns= and as Docker's registry-mirrors. Nothing
// tells of the mirror's credentials.
func TestMirrorAccess(t *testing.T) {
	t.Parallel()
	u := startTokenUpstream(t)
	metrics := freeaddr.For(t)
	g := startGuarded(t, berthtest.Options{Args: []string{"--metrics-addr", metrics}}, "mirrors:\n"+u.entry("far", quick+", registry_mirror: true"), mirrorPolicy)
	for _, s := range u.secrets {
		g.secret("a secret of the upstream", s)
	}
	g.secret("the query of a redirect", "secret-of-the-url")
	u.proxy.Do(func(r *http.Request) berthtest.Fault { return berthtest.Fault{Redirect: isBlob(r)} })
	alice := g.basic("alice", g.user("alice"))
	bob := g.basic("bob", g.user("bob"))
	names := func(repo, rest string) []string { // the ways to ask for what is in a repository of the upstream
		return []string{"/v2/far/" + repo + rest, "/v2/" + repo + rest + "?ns=" + u.proxy.Addr, "/v2/" + repo + rest}
	}
	var said []answer
	ask := func(who []string, path string, want ...int) {
		t.Helper()
		a := must(g.wire.do("GET", path, nil, who...))(t)
		said = append(said, a)
		if !slices.Contains(want, a.status) {
			t.Errorf("GET %s as %.9q: %s, want %v", path, strings.Join(who, " "), a, want)
		}
	}
	images := map[string]mirrorImage{}
	for _, repo := range []string{"public/app", "open/app", "secret/app"} {
		images[repo] = u.push(repo, "v1", 1000)
	}
	u.proxy.Requests()
	pulls := func(who []string, img mirrorImage, status ...int) {
		t.Helper()
		for _, path := range names(img.repo, "/manifests/"+img.tag) {
			ask(who, path, status...)
		}
		for _, d := range img.blobs {
			for _, path := range names(img.repo, "/blobs/"+d.String()) {
				ask(who, path, status...)
			}
		}
	}
	refused := []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusForbidden}
	for _, repo := range []string{"public/app", "secret/app"} { // who must not spend the mirror's credentials
		pulls(nil, images[repo], http.StatusUnauthorized)
		pulls(bob, images[repo], refused...)
	}
	if r := u.proxy.Requests(); len(r) > 0 {
		t.Errorf("the upstream was asked for those who may not: %q", r)
	}
	pulls(nil, images["open/app"], http.StatusOK)
	for _, repo := range []string{"public/app", "secret/app"} {
		pulls(alice, images[repo], http.StatusOK)
	}
	time.Sleep(30 * time.Millisecond) // the tag is to be asked for again
	u.proxy.Requests()
	pulls(nil, images["public/app"], http.StatusOK)
	pulls(nil, images["secret/app"], http.StatusUnauthorized)
	pulls(bob, images["secret/app"], refused...)
	if r := u.proxy.Requests(); len(r) > 0 {
		t.Errorf("the upstream was asked for those who may not: %q", r)
	}
	token := g.bearer(g.token(nil, "repository:secret/app:pull", "repository:far/secret/app:pull").Token)
	pulls(token, images["secret/app"], refused...)
	token = g.bearer(g.token(alice, "repository:public/app:pull").Token) // as Docker asks for registry-mirrors
	pulls(token, images["public/app"], http.StatusOK)
	pulls(token, images["secret/app"], refused...)

	// Nobody pushes into a mirror, and who tries is told so.
	a := must(g.wire.do("POST", "/v2/far/public/app/blobs/uploads/", nil, g.root...))(t)
	if a.status != http.StatusForbidden || !strings.Contains(string(a.body), "mirror") {
		t.Errorf("a push into a mirror: %s", a)
	}
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusInternalServerError, http.StatusTooManyRequests} {
		u.proxy.Do(func(*http.Request) berthtest.Fault { return berthtest.Fault{Status: status} })
		said = append(said, a, must(g.wire.do("GET", fmt.Sprint("/v2/far/open/none/manifests/v", status), nil))(t))
	}
	said = append(said, must(g.wire.do("GET", "http://"+metrics+"/metrics", nil))(t))
	if !strings.Contains(string(said[len(said)-1].body), `berth_mirror_upstream_bytes{mirror="far"}`) {
		t.Errorf("the metrics do not tell of the mirror: %s", said[len(said)-1])
	}
	logins := u.proxy.Logins()
	if len(logins) == 0 {
		t.Error("the upstream was asked without credentials")
	}
	for _, login := range logins {
		_, secret, _ := strings.Cut(login, " ")
		g.secret("a token of the upstream", secret)
	}
	for _, a := range said {
		for secret, what := range g.secrets {
			if text := fmt.Sprint(a.header, string(a.body)); what != "the header of alice" && strings.Contains(text, secret) {
				t.Errorf("%s is in the answer %s %v", what, a, a.header)
			}
		}
	}
}
