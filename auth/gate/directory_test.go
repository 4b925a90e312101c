package gate_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/gate"
)

// directory is a source that takes no account of case, as LDAP does, and of which
// an account can be asked without its password.
type directory struct {
	accounts map[string]string // passwords
	group    string
	down     atomic.Bool
}

func (*directory) Name() string                   { return "directory" }
func (*directory) Current(id *auth.Identity) bool { return id.Source == "directory" }

func (d *directory) find(account string) (*auth.Identity, error) {
	account = strings.ToLower(account)
	switch _, ok := d.accounts[account]; {
	case d.down.Load():
		return nil, errors.New("down")
	case !ok:
		return nil, auth.ErrUnknown
	}
	return &auth.Identity{Account: account, Source: "directory", Groups: []string{d.group}, Epoch: "of a password"}, nil
}

func (d *directory) Login(_ context.Context, account, password string) (*auth.Identity, error) {
	id, err := d.find(account)
	if err == nil && d.accounts[id.Account] != password {
		err = auth.ErrWrong
	}
	return id, err
}

func (d *directory) Refresh(_ context.Context, id *auth.Identity) (*auth.Identity, error) {
	return d.find(id.Account)
}

func directoryWorld(t *testing.T, d *directory) *world {
	return newWorld(t, func(_ *world, o *gate.Options) { o.Sources = append(o.Sources, d) })
}

// Who writes the name in another way does not become the account of that name that
// a source before the directory has.
func TestNobodyIsAnotherByAnAlias(t *testing.T) {
	t.Parallel()
	w := directoryWorld(t, &directory{accounts: map[string]string{"alice": "of the directory", "hatter": "of the directory", "dora": "dora's"}})
	for _, account := range []string{"alice", "Alice", "ALICE", "Hatter"} {
		if r := w.get("/", basic(account, "of the directory")); r.status != http.StatusUnauthorized {
			t.Errorf("%s of the directory: status %d: %s", account, r.status, r.body)
		}
	}
	if who := w.get("/", basic("Dora", "dora's")).told(t); who.Account != "dora" {
		t.Errorf("Dora is %+v", who)
	}
	if who := w.get("/", basic("alice", alicePass)).told(t); who.Source != accounts.Source {
		t.Errorf("alice is %+v", who)
	}
}

// Who was there first keeps nothing when an account of the name is made, for
// somebody else, where it comes before: neither a session nor a key nor tokens.
func TestNobodyIsAnotherWhoComesLater(t *testing.T) {
	t.Parallel()
	w := directoryWorld(t, &directory{accounts: map[string]string{"deploy": "deploy's"}})
	_, key := w.key(accounts.NewKey{Account: "deploy", Source: "directory"})
	refresh := w.get("/token?offline_token=true", basic("deploy", "deploy's")).field(t, "refresh_token")
	token := w.token(basic("deploy", "deploy's"))
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}
	all := map[string]func() reply{
		"password":      func() reply { return w.get("/", basic("deploy", "deploy's")) },
		"API key":       func() reply { return w.get("/", basic("deploy", key)) },
		"token":         func() reply { return w.get("/", "Bearer "+token) },
		"refresh token": func() reply { return w.post(form) },
	}
	for name, use := range all {
		if r := use(); r.status != http.StatusOK {
			t.Errorf("%s: status %d", name, r.status)
		}
	}
	ok(t, w.store.Create(t.Context(), accounts.Account{Name: "deploy", Robot: true, Groups: []string{"devs"}}, ""))
	for name, use := range all {
		if r := use(); r.status != http.StatusUnauthorized {
			t.Errorf("%s of the directory's deploy, when there is another: status %d", name, r.status)
		}
	}
	_, key = w.key(accounts.NewKey{Account: "deploy"})
	if who := w.get("/", basic("deploy", key)).told(t); who.Source != accounts.Source {
		t.Errorf("the new deploy is %+v", who)
	}
}

// slow is a store in which a password takes until the test ends.
type slow struct {
	*accounts.Store
	began, end chan struct{}
}

func (s slow) Login(context.Context, string, string) (*auth.Identity, error) {
	s.began <- struct{}{}
	<-s.end
	return nil, auth.ErrWrong
}

// A flood of passwords keeps no API key waiting.
func TestKeysDoNotWaitForPasswords(t *testing.T) {
	t.Parallel()
	places := runtime.GOMAXPROCS(0) // as many are checked at a time
	began, end := make(chan struct{}, places+1), make(chan struct{})
	w := newWorld(t, func(w *world, o *gate.Options) {
		s := slow{w.store, began, end}
		o.Sources, o.Keys = []auth.Source{s}, s
	})
	_, key := w.key(accounts.NewKey{Account: "robot"})
	var flood sync.WaitGroup
	for i := range places + 1 {
		flood.Go(func() {
			_, _ = w.gate.Login(context.Background(), fmt.Sprintf("192.0.2.%d", i), "alice", fmt.Sprint("wrong", i))
		})
	}
	for range places {
		<-began
	}
	if who := w.get("/", basic("robot", key)).told(t); who.Account != "robot" {
		t.Errorf("robot is %+v", who)
	}
	close(end)
	flood.Wait()
}

// An API key of somebody whom a directory knows is in the groups of today, can be
// had tokens for, and is of no use when the directory knows its owner no more.
func TestKeysFollowTheDirectory(t *testing.T) {
	t.Parallel()
	d := &directory{accounts: map[string]string{"dora": "dora's"}, group: "new"}
	w := directoryWorld(t, d)
	_, key := w.key(accounts.NewKey{Account: "dora", Source: "directory", Groups: []string{"old"}, Grants: []auth.Grant{{Repos: "team/*", Actions: auth.Pull}}})
	if who := w.get("/", basic("dora", key)).told(t); !slices.Equal(who.Groups, []string{"new"}) || len(who.Grants) != 1 {
		t.Errorf("dora is %+v", who)
	}
	refresh := w.get("/token?offline_token=true", basic("dora", key)).field(t, "refresh_token")
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}
	if who := w.get("/", "Bearer "+w.post(form).field(t, "access_token")).told(t); who.Account != "dora" {
		t.Errorf("by a refresh token, dora is %+v", who)
	}
	w.pass(2 * time.Minute)
	d.down.Store(true)
	if r := w.get("/", basic("dora", key)); r.status != http.StatusServiceUnavailable {
		t.Errorf("directory down: status %d", r.status)
	}
	d.down.Store(false)
	delete(d.accounts, "dora")
	if r := w.get("/", basic("dora", key)); r.status != http.StatusUnauthorized {
		t.Errorf("dora has gone: status %d", r.status)
	}
	if r := w.post(form); r.status != http.StatusUnauthorized {
		t.Errorf("dora has gone: a refresh token has status %d", r.status)
	}
}
