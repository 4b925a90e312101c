package web_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

// TestReplicas has people sign in and get keys at three servers that share a database,
// each request at another one: what one has begun the next one goes on with.
func TestReplicas(t *testing.T) {
	dsn, idp := postgrestest.Start(t), berthtest.StartIDP(t)
	var sites []*site
	for range 3 {
		meta, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = meta.Close() })
		s := newSiteOn(t, meta, idp)
		s.serve(false, nil)
		sites = append(sites, s)
	}
	var next atomic.Int64
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sites[next.Add(1)%3].handler.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	s := sites[0]
	s.Server = front

	for range 4 { // who begins where differs
		b := s.signedIn(berthtest.Alice)
		b.want(http.StatusOK, "test/alice@example.com", "Sign out")
		for range 4 {
			b.open("/")
			b.want(http.StatusOK, "test/alice@example.com")
		}
		b.send("/tokens", map[string]string{"note": "laptop"})
		b.want(http.StatusCreated, "berth_", "laptop")
		b.open("/tokens")
		b.want(http.StatusOK, "laptop")
		next.Add(1)
	}

	s.must(sites[1].accounts.Create(t.Context(), accounts.Account{Name: local}, localPassword))
	b := s.browser()
	b.open("/login")
	b.send("/login", map[string]string{"account": local, "password": localPassword})
	for range 4 {
		b.open("/")
		b.want(http.StatusOK, local, "Sign out")
	}
	// Signed in anew after another password: no server still has the last one in mind.
	s.must(sites[2].accounts.SetPassword(t.Context(), local, "another password"))
	for range 3 {
		again := s.browser()
		again.open("/login")
		again.send("/login", map[string]string{"account": local, "password": "another password"})
		for range 3 {
			again.open("/")
			again.want(http.StatusOK, local, "Sign out")
		}
	}
	// The keys that sign sessions are replaced at one server.
	s.must(sites[1].tokens.Rotate(t.Context()))
	for range 3 {
		s.signedIn(berthtest.Alice).want(http.StatusOK, "test/alice@example.com")
	}
}
