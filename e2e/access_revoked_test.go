package e2e

import (
	"crypto/rand"
	"net/http"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

const revokedPolicy = `- {who: ["group:dev"], repos: ["team/**"], may: [pull, push]}`

// holder is somebody with all that the registry gives out.
type holder struct {
	name    string
	login   []string // password or key
	token   []string
	refresh string
}

// hold makes an account, or takes the key of one, and gets tokens for it, which are
// good.
func (g *guarded) hold(name string, login []string) holder {
	g.t.Helper()
	got := g.token(login, "repository:team/web:pull,push")
	h := holder{name, login, g.bearer(got.Token), got.Refresh}
	g.holds(h, http.StatusNotFound, http.StatusOK)
	return h
}

const heldPath, heldScope = "/v2/team/web/manifests/none", "repository:team/web:pull"

// holds checks what a holder's credentials are good for: the status of a request, and
// that of a refresh.
func (g *guarded) holds(h holder, status, refreshed int) {
	g.t.Helper()
	for what, header := range map[string][]string{"login": h.login, "token": h.token} {
		if a := must(g.wire.do("GET", heldPath, nil, header...))(g.t); a.status != status {
			g.t.Errorf("%s of %s: %s: want %d", what, h.name, a, status)
		}
	}
	if a := g.refresh(h.refresh, heldScope); a.status != refreshed {
		g.t.Errorf("refresh token of %s: %s: want %d", h.name, a, refreshed)
	} else if a.status == http.StatusOK {
		g.send(g.bearer(g.tokens(a).Token), status, "GET", heldPath, nil)
	}
}

// revokedWorld has one holder for each way in which things end.
type revokedWorld struct {
	*guarded
	stays, keyStays, removed, disabled, changed, key holder
	keyID                                            string
}

func newRevokedWorld(t *testing.T) *revokedWorld {
	t.Helper()
	r := &revokedWorld{guarded: startGuarded(t, berthtest.Options{}, "", revokedPolicy)}
	for name, h := range map[string]*holder{"stays": &r.stays, "removed": &r.removed, "disabled": &r.disabled, "changed": &r.changed} {
		*h = r.hold(name, r.basic(name, r.user(name, "dev")))
	}
	_, kept := r.guarded.key("stays", "team/**:pull")
	r.keyStays = r.hold("key that stays", r.basic("token", kept))
	id, key := r.guarded.key("stays", "team/**:pull")
	r.keyID, r.key = id, r.hold("key", r.bearer(key))
	return r
}

// revoke ends what is to end.
func (r *revokedWorld) revoke() {
	r.t.Helper()
	r.Berth("user", "rm", "removed").Run()
	r.Berth("user", "set", "disabled", "--disable").Run()
	r.Berth("user", "passwd", "changed", "--password-stdin").Input(r.secret("the password of changed", "pw-"+rand.Text()) + "\n").Run()
	r.Berth("token", "rm", r.keyID).Run()
}

// check checks that what has ended has, and nothing else.
func (r *revokedWorld) check() {
	r.t.Helper()
	for _, h := range []holder{r.removed, r.disabled, r.changed, r.key} {
		r.holds(h, http.StatusUnauthorized, http.StatusUnauthorized)
	}
	for _, h := range []holder{r.stays, r.keyStays} {
		r.holds(h, http.StatusNotFound, http.StatusOK)
	}
}

// TestAccessRevoked takes from people what they have: it is of no use from the next
// request on, whatever the server remembers, and after it was killed, too. What
// nobody has taken away goes on.
func TestAccessRevoked(t *testing.T) {
	t.Parallel()
	r := newRevokedWorld(t)
	r.revoke()
	r.check()

	r.Kill()
	r.Restart()
	r.check()

	// Somebody of the same name is not the same.
	r.holdsNothing(r.removed, r.user("removed", "dev"))
	r.Berth("user", "set", "disabled", "--enable").Run()
	if a := r.refresh(r.disabled.refresh, heldScope); a.status != http.StatusUnauthorized {
		t.Errorf("refresh token of somebody who was disabled meanwhile: %s", a)
	}
}

// holdsNothing checks that what was of an account is of no use to its next owner.
func (r *revokedWorld) holdsNothing(h holder, password string) {
	r.t.Helper()
	r.holds(h, http.StatusUnauthorized, http.StatusUnauthorized)
	r.hold(h.name, r.basic(h.name, password))
}

// TestAccessRotation has another key sign from now on: nobody is logged out by it,
// nor by the end of the process.
func TestAccessRotation(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, berthtest.Options{}, "", revokedPolicy)
	login := g.basic("alice", g.user("alice", "dev"))
	keys := map[string]bool{}
	var all []holder
	for range 3 {
		h := g.hold("alice", login)
		head, _, _ := strings.Cut(strings.TrimPrefix(h.token[1], "Bearer "), ".")
		keys[head] = true
		all = append(all, h)
		g.Berth("token", "rotate-keys").Run()
		for _, h := range all {
			g.holds(h, http.StatusNotFound, http.StatusOK)
		}
	}
	if len(keys) != 3 {
		t.Errorf("after 3 rotations, %d keys have signed", len(keys))
	}
	g.Kill()
	g.Restart()
	for _, h := range all {
		g.holds(h, http.StatusNotFound, http.StatusOK)
	}
}

// TestAccessExpiry has tokens end by themselves.
func TestAccessExpiry(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, berthtest.Options{}, "auth: {tokens: {ttl: 1s, refresh_ttl: 1s}}", revokedPolicy)
	login := g.basic("alice", g.user("alice", "dev"))
	got := g.token(login, "repository:team/web:pull,push")
	var a answer
	waitFor(t, "end of the token", func() bool {
		a = must(g.wire.do("GET", heldPath, nil, g.bearer(got.Token)...))(t)
		return a.status != http.StatusNotFound
	})
	if c := a.header.Get("WWW-Authenticate"); a.status != http.StatusUnauthorized || !strings.Contains(c, `error="invalid_token"`) {
		t.Errorf("a token that has expired: %s %q", a, c)
	}
	// Each use makes it last longer, but not for ever.
	waitFor(t, "end of the refresh token", func() bool {
		a = g.refresh(got.Refresh, heldScope)
		if a.status == http.StatusOK {
			g.tokens(a)
		}
		return a.status != http.StatusOK
	})
	if a.status != http.StatusUnauthorized || !strings.Contains(string(a.body), "invalid_grant") {
		t.Errorf("a refresh token that has expired: %s", a)
	}
}
