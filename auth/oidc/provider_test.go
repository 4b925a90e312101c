package oidc_test

import (
	"context"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/oidc"
	"github.com/berth-registry/berth/e2e/berthtest"
)

func TestSignIn(t *testing.T) {
	idp := berthtest.StartTLSIDP(t)
	for _, tt := range []struct {
		name, user string
		change     func(*oidc.Options)
		account    string
		groups     []string
		refused    string // why, if it is
	}{
		{name: "verified address", user: berthtest.Alice, account: "test/alice@example.com", groups: []string{"admins", "developers"}},
		{name: "address that is not verified", user: berthtest.Bob, account: "test/id-bob"},
		{
			name: "claim of choice", user: berthtest.Alice, account: "test/alice", groups: []string{"admins", "developers"},
			change: func(o *oidc.Options) { o.AccountClaim = "preferred_username" },
		},
		{
			name: "prefix of choice", user: berthtest.Alice, account: "acme:alice@example.com", groups: []string{"admins", "developers"},
			change: func(o *oidc.Options) { o.Prefix = "acme:" },
		},
		{
			name: "no prefix", user: berthtest.Alice, account: "alice@example.com",
			change: func(o *oidc.Options) { o.NoPrefix, o.GroupsClaim = true, "nothing" },
		},
		{
			name: "groups in a claim that is text", user: berthtest.Alice, account: "test/alice@example.com", groups: []string{"Liddell"},
			change: func(o *oidc.Options) { o.GroupsClaim = "family_name" },
		},
		{
			name: "somebody else's address", user: berthtest.Bob, refused: "not verified",
			change: func(o *oidc.Options) { o.AccountClaim = "email" },
		},
		{
			name: "no such claim", user: berthtest.Alice, refused: "no claim employee",
			change: func(o *oidc.Options) { o.AccountClaim = "employee" },
		},
		{
			name: "claims that match", user: berthtest.Alice, account: "test/alice@example.com", groups: []string{"admins", "developers"},
			change: func(o *oidc.Options) {
				o.Claims = map[string]string{"groups": "dev*", "email": "*@example.com", "family_name": "Liddell"}
			},
		},
		{
			name: "claims of which one does not match", user: berthtest.Alice, refused: "not those that the configuration wants",
			change: func(o *oidc.Options) { o.Claims = map[string]string{"groups": "admins", "hd": "*"} },
		},
		{name: "subject that is no name", user: berthtest.Mallory, refused: "cannot be an account's name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, newProvider(t, idp, tt.change))
			id, err := c.provider.Exchange(t.Context(), c.redirect(), c.signIn(idp, tt.user), nonce, verifier)
			if tt.refused != "" {
				wantError(t, err, auth.ErrWrong, tt.refused, idp.Secret, verifier)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if id.Account != tt.account || !reflect.DeepEqual(id.Groups, tt.groups) || id.Source != "oidc:test" || id.Key != "" || id.Grants != nil {
				t.Errorf("got %+v", id)
			}
			if id.Claims["sub"] != "id-"+tt.user || id.Claims["iss"] != idp.Issuer || id.Claims["nonce"] != "" || id.Claims["aud"] != "" {
				t.Errorf("claims %v", id.Claims)
			}
		})
	}
}

// A code is of use once, with its own verifier, nonce and redirect.
func TestSignInAttacks(t *testing.T) {
	idp := berthtest.StartIDP(t)
	p := newProvider(t, idp, nil)
	c := newClient(t, p)
	exchange := func(redirect, code, nonce, verifier string) error {
		_, err := p.Exchange(t.Context(), redirect, code, nonce, verifier)
		return err
	}
	code := c.signIn(idp, berthtest.Alice)
	if err := exchange(c.redirect(), code, nonce, verifier); err != nil {
		t.Fatal(err)
	}
	wantError(t, exchange(c.redirect(), code, nonce, verifier), auth.ErrWrong, "code", code, idp.Secret)
	wantError(t, exchange(c.redirect(), "made-up", nonce, verifier), auth.ErrWrong, "code", "made-up")
	wantError(t, exchange(c.redirect(), "", nonce, verifier), auth.ErrWrong, "code")
	wantError(t, exchange(c.redirect(), c.signIn(idp, berthtest.Alice), "another", verifier), auth.ErrWrong, "nonce")
	wantError(t, exchange(c.redirect(), c.signIn(idp, berthtest.Alice), "", verifier), auth.ErrWrong, "nonce")
	wantError(t, exchange(c.redirect(), c.signIn(idp, berthtest.Alice), nonce, strings.Repeat("x", 50)), auth.ErrWrong, "code")
	wantError(t, exchange("http://127.0.0.1:1/oidc/test/callback", c.signIn(idp, berthtest.Alice), nonce, verifier), auth.ErrWrong, "code")

	// The registry's own secret is wrong: that is not the user's fault.
	wrong := newProvider(t, idp, func(o *oidc.Options) { o.ClientSecret = "not-the-secret" })
	_, err := wrong.Exchange(t.Context(), c.redirect(), c.signIn(idp, berthtest.Alice), nonce, verifier)
	wantError(t, err, oidc.ErrUnavailable, "refuses the registry", "not-the-secret")
}

func TestAuthURL(t *testing.T) {
	idp := berthtest.StartIDP(t)
	p := newProvider(t, idp, func(o *oidc.Options) { o.Scopes = []string{"email", "groups"} })
	to, err := p.AuthURL(t.Context(), "https://registry/oidc/test/callback", state, nonce, verifier)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"response_type": "code", "client_id": idp.ClientID, "redirect_uri": "https://registry/oidc/test/callback",
		"state": state, "nonce": nonce, "code_challenge_method": "S256", "scope": "openid email groups",
	}
	for name, value := range want {
		if got := u.Query().Get(name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
	if strings.Contains(to, verifier) || strings.Contains(to, idp.Secret) || u.Query().Get("code_challenge") == "" {
		t.Errorf("the URL tells a secret, or has no challenge: %s", to)
	}
}

// The registry starts while the provider is down, and goes on when it is back.
func TestProviderDown(t *testing.T) {
	idp := berthtest.StartIDP(t)
	idp.Stop()
	var c clock
	p := newProvider(t, idp, func(o *oidc.Options) { o.Now = c.now })
	_, err := p.AuthURL(t.Context(), "http://127.0.0.1/oidc/test/callback", state, nonce, verifier)
	wantError(t, err, oidc.ErrUnavailable, idp.Issuer)
	idp.Start()
	c.pass(2 * time.Second)
	back := newClient(t, p)
	code := back.signIn(idp, berthtest.Alice)

	// It goes down between the browser's way there and back.
	idp.Stop()
	_, err = p.Exchange(t.Context(), back.redirect(), code, nonce, verifier)
	wantError(t, err, oidc.ErrUnavailable, idp.Issuer, code, idp.Secret, verifier)

	// What is known stands in for a day while it is down.
	c.pass(20 * time.Hour)
	if _, err := p.AuthURL(t.Context(), back.redirect(), state, nonce, verifier); err != nil {
		t.Error(err)
	}
	c.pass(5 * time.Hour)
	_, err = p.AuthURL(t.Context(), back.redirect(), state, nonce, verifier)
	wantError(t, err, oidc.ErrUnavailable, idp.Issuer)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.pass(5 * time.Second)
	_, err = p.AuthURL(ctx, back.redirect(), state, nonce, verifier)
	wantError(t, err, oidc.ErrUnavailable, "")
}

func TestProviderSource(t *testing.T) {
	o := oidc.Options{Name: "test", Issuer: "https://a.example", ClientID: "berth"}
	one, err := oidc.NewProvider(o)
	if err != nil {
		t.Fatal(err)
	}
	s := one.Source()
	if _, err := s.Login(t.Context(), "test/alice", ""); err != auth.ErrUnknown { //nolint:errorlint // exactly this one
		t.Errorf("login by password: %v", err)
	}
	for _, tt := range []struct {
		id   auth.Identity
		want bool
	}{
		{auth.Identity{Account: "a", Source: "oidc:test"}, false},
		{auth.Identity{Account: "a", Source: "oidc:test", Epoch: "x"}, false},
		{auth.Identity{Account: "a", Source: "oidc:test", Key: "k"}, true},
		{auth.Identity{Account: "a", Source: "oidc:other", Key: "k"}, false},
		{auth.Identity{Account: "a", Source: "test", Key: "k"}, false},
	} {
		if got := s.Current(&tt.id); got != tt.want {
			t.Errorf("%+v is current: %v", tt.id, got)
		}
	}
}

func TestProviderOptions(t *testing.T) {
	good := oidc.Options{Name: "test", Issuer: "https://a.example", ClientID: "berth"}
	for name, change := range map[string]func(*oidc.Options){
		"name":               func(o *oidc.Options) { o.Name = "a/b" },
		"no name":            func(o *oidc.Options) { o.Name = "" },
		"long name":          func(o *oidc.Options) { o.Name = strings.Repeat("a", 65) },
		"client":             func(o *oidc.Options) { o.ClientID = "" },
		"http":               func(o *oidc.Options) { o.Issuer = "http://a.example" },
		"no URL":             func(o *oidc.Options) { o.Issuer = "a.example" },
		"user in URL":        func(o *oidc.Options) { o.Issuer = "https://u:p@a.example" },
		"query in URL":       func(o *oidc.Options) { o.Issuer = "https://a.example?b" },
		"file":               func(o *oidc.Options) { o.Issuer = "file:///etc/passwd" },
		"http like loopback": func(o *oidc.Options) { o.Issuer = "http://localhost.a.example" },
		"an empty claim":     func(o *oidc.Options) { o.Claims = map[string]string{"hd": ""} },
		"two prefixes":       func(o *oidc.Options) { o.Prefix, o.NoPrefix = "a/", true },
		"strange prefix":     func(o *oidc.Options) { o.Prefix = "a b/" },
		"CA":                 func(o *oidc.Options) { o.CA = "/dev/null" },
		"no CA":              func(o *oidc.Options) { o.CA = "/nowhere" },
	} {
		o := good
		change(&o)
		if _, err := oidc.NewProvider(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, issuer := range []string{"https://a.example/realm/x", "https://a.example/", "http://127.0.0.1:80", "http://[::1]:80", "http://localhost"} {
		o := good
		o.Issuer = issuer
		if _, err := oidc.NewProvider(o); err != nil {
			t.Errorf("%s: %v", issuer, err)
		}
	}
}
