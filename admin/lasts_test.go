package admin_test

import (
	"net/http"
	"testing"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/auth"
)

// TestKeyOfWhatEnds has it that who came with something that ends, such as a
// certificate, makes no key that could outlive it.
func TestKeyOfWhatEnds(t *testing.T) {
	f := newFixture(t, stores["mem"](t))
	policy, err := auth.NewPolicy(rules)
	if err != nil {
		t.Fatal(err)
	}
	f.handler = admin.New(admin.Options{
		Accounts: f.store, Authority: policy, Lasts: func(id *auth.Identity) bool { return id.Source != "certificate" },
	})
	const body = `{"grants":[{"repos":"a","actions":["pull"]}],"never":true}`
	for source, want := range map[string]int{"certificate": http.StatusForbidden, "ldap": http.StatusCreated} {
		w := serve(f.as(&auth.Identity{Account: "carol", Source: source}), request(http.MethodPost, admin.Prefix+"tokens", body))
		if w.Code != want {
			t.Errorf("%s: %d %s, want %d", source, w.Code, w.Body, want)
		}
	}
}
