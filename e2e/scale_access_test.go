package e2e

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestScaleAccess has what one server gives out be good on the others, and what is
// taken away on one be of no use on the others soon.
func TestScaleAccess(t *testing.T) {
	t.Parallel()
	all := startGuardedReplicas(t, 3, `- {who: ["group:dev"], repos: ["team/**"], may: [pull, push]}`)
	a, others := all[0], all[1:]
	login := a.basic("alice", a.user("alice", "dev"))
	id, key := a.key("alice", "team/**:pull,push")
	token := a.token(login, "repository:team/web:pull,push")
	for _, b := range all {
		b.send(a.bearer(token.Token), http.StatusNotFound, "GET", heldPath, nil)
		b.send(a.bearer(key), http.StatusNotFound, "GET", heldPath, nil)
		b.send(login, http.StatusNotFound, "GET", heldPath, nil)
		b.send(nil, http.StatusUnauthorized, "GET", heldPath, nil)
		if got := b.refresh(token.Refresh, heldScope); got.status != http.StatusOK {
			t.Errorf("a refresh token of another server: %s", got)
		}
	}

	// A key that is revoked, an account that is disabled, a password that is changed.
	a.Berth("token", "rm", id).Run()
	for _, b := range others {
		b.refusedSoon("a revoked key", b.bearer(key))
	}
	// A new signing key: nobody is logged out.
	a.Berth("token", "rotate-keys").Run()
	again := a.token(login, "repository:team/web:pull,push")
	for _, b := range others {
		b.send(a.bearer(again.Token), http.StatusNotFound, "GET", heldPath, nil)
		b.send(a.bearer(token.Token), http.StatusNotFound, "GET", heldPath, nil)
	}
	others[0].Berth("user", "set", "alice", "--disable").Run()
	for _, b := range all {
		b.refusedSoon("a disabled account's password", login)
		b.refusedSoon("a disabled account's token", b.bearer(again.Token))
	}
}

// startGuardedReplicas starts servers with access control that share their stores. Their
// account root may do everything.
func startGuardedReplicas(t *testing.T, n int, policy string) (all []*guarded) {
	t.Helper()
	config := fmt.Sprintf("policy:\n- {who: [root], repos: [\"**\"], may: [pull, push, delete, admin]}\n%s\n", policy)
	r := berthtest.StartReplicas(t, n, berthtest.Options{Config: config})
	password := "pw-" + rand.Text()
	r.Servers[0].Berth("user", "add", "root", "--password-stdin").Input(password + "\n").Run()
	for _, s := range r.Servers {
		g := &guarded{t: t, Server: s, wire: newWire(s.URL), secrets: map[string]string{}}
		g.root = g.basic("root", password)
		all = append(all, g)
	}
	return all
}

// soon is how long a server may go on believing in what was taken away on another.
const soon = 2 * time.Second

// refusedSoon checks that a server refuses credentials, within the time that it may
// take to learn of it.
func (g *guarded) refusedSoon(what string, header []string) {
	g.t.Helper()
	began := time.Now()
	for {
		a := must(g.wire.do("GET", heldPath, nil, header...))(g.t)
		after := time.Since(began)
		if a.status == http.StatusUnauthorized {
			g.t.Logf("%s was refused after %v", what, after.Round(time.Millisecond))
			return
		}
		if after > soon {
			g.t.Errorf("%s is still answered with %d after %v", what, a.status, after)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
