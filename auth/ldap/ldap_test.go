package ldap_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/ldap"
	"github.com/berth-registry/berth/internal/freeaddr"
)

func TestLDAP(t *testing.T) {
	s := start(t)
	t.Run("Login", func(t *testing.T) { testLogin(t, s) })
	t.Run("Hostile", func(t *testing.T) { testHostile(t, s) })
	t.Run("Groups", func(t *testing.T) { testGroups(t, s) })
	t.Run("Transports", func(t *testing.T) { testTransports(t, s) })
	t.Run("Anonymous", func(t *testing.T) { testAnonymous(t, s) })
	t.Run("Failures", func(t *testing.T) { testFailures(t, s) })
	t.Run("Bounded", func(t *testing.T) { testBounded(t, s) })
	t.Run("Refresh", func(t *testing.T) { testRefresh(t, s) })
	t.Run("Restart", func(t *testing.T) { testRestart(t, s) })
	t.Run("Stopped", func(t *testing.T) { testStopped(t, s) })
}

// login wants an account to be let in.
func login(t *testing.T, src *ldap.Source, account, password string) *auth.Identity {
	t.Helper()
	id, err := src.Login(t.Context(), account, password)
	if err != nil {
		t.Fatalf("login of %q: %v", account, err)
	}
	return id
}

// failure wants a login to fail otherwise than by the account or the password, and
// returns the text of its error.
func failure(t *testing.T, src *ldap.Source, account, password string) string {
	t.Helper()
	id, err := src.Login(t.Context(), account, password)
	if err == nil || errors.Is(err, auth.ErrUnknown) || errors.Is(err, auth.ErrWrong) {
		t.Fatalf("login of %q: %+v, %v; want a failure", account, id, err)
	}
	for _, secret := range []string{servePass, alicePass, adminPass} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("error %q tells a password", err)
		}
	}
	return err.Error()
}

func testLogin(t *testing.T, s *slapd) {
	src := source(t, s.options())
	id := login(t, src, "alice", alicePass)
	if id.Account != "alice" || id.Source != "ldap" || src.Name() != "ldap" || !slices.Equal(id.Groups, []string{"dev", "ops"}) || id.Grants != nil || id.Epoch == "" {
		t.Errorf("alice is %+v", id)
	}
	if !src.Current(id) || src.Current(&auth.Identity{Account: "alice", Source: "htpasswd"}) {
		t.Error("a source vouches for its own identities, and for no others")
	}
	// However somebody writes a name, it is the one that the directory has.
	for _, name := range []string{"ALICE", "Alice", " alice "} {
		if id := login(t, src, name, alicePass); id.Account != "alice" {
			t.Errorf("%q is %+v", name, id)
		}
	}
	if id := login(t, src, "jürgen", "jürgen's"); id.Account != "jürgen" || id.Groups != nil {
		t.Errorf("jürgen is %+v", id)
	}
	for _, tt := range []struct {
		account, password string
		want              error
	}{
		{"alice", "bob's", auth.ErrWrong},
		{"alice", alicePass + " ", auth.ErrWrong},
		{"alice", "", auth.ErrWrong},
		{"alice", alicePass + "\x00", auth.ErrWrong},
		{"alice", strings.Repeat("x", 1<<20), auth.ErrWrong},
		{"carol", "", auth.ErrWrong},
		{"carol", "any", auth.ErrWrong},
		{"nobody", "any", auth.ErrUnknown},
		{"berth", servePass, auth.ErrUnknown}, // not below the base
	} {
		if id, err := src.Login(t.Context(), tt.account, tt.password); !errors.Is(err, tt.want) {
			t.Errorf("%q, %.20q: %+v, %v; want %v", tt.account, tt.password, id, err, tt.want)
		}
	}
	// A connection that somebody has logged in by is not theirs.
	for range 3 {
		login(t, src, "bob", "bob's")
		if id := login(t, src, "alice", alicePass); len(id.Groups) != 2 {
			t.Errorf("alice is %+v", id)
		}
	}
}

// Names that would mean something in a filter or a DN are names.
func testHostile(t *testing.T, s *slapd) {
	o := s.options()
	o.UserFilter = "(&(objectClass=inetOrgPerson)(|(uid=%s)(mail=%s)))"
	src := source(t, o)
	for _, account := range []string{
		"*", "a*", "alic*", "*)(uid=*", "alice)(|(uid=*", `alice)(uid=*))(|(uid=*`, `\61lice`, "alice\x00", "\x00", `\00`, "(", ")", `\`, `\2a`,
		"uid=alice", "uid=alice,ou=people," + suffix, "%s", "%u", "alice,ou", "a\xffb", "\xff", "alice\n", "", " ", "аlice", // the last has a Cyrillic letter
		strings.Repeat("a", 10<<10), strings.Repeat("*", 200), strings.Repeat("é", 128),
	} {
		for _, password := range []string{alicePass, "star's", "*"} {
			if id, err := src.Login(t.Context(), account, password); !errors.Is(err, auth.ErrUnknown) {
				t.Errorf("%.40q: %+v, %v; want nobody", account, id, err)
			}
		}
	}
	if id := login(t, src, "a*b(c)", "star's"); id.Account != "a*b(c)" || !slices.Equal(id.Groups, []string{"star"}) {
		t.Errorf("the account a*b(c) is %+v", id)
	}
	if id := login(t, src, "alice@example.org", alicePass); id.Account != "alice" {
		t.Errorf("alice's address is %+v", id)
	}
	if text := failure(t, src, "shared@example.org", "bob's"); !strings.Contains(text, "several entries") {
		t.Errorf("an address of two: %s", text)
	}
	if text := failure(t, src, "dora", "dora's"); !strings.Contains(text, "2 values") {
		t.Errorf("an entry of two names: %s", text)
	}
}

func testGroups(t *testing.T, s *slapd) {
	o := s.options()
	o.GroupFilter, o.GroupAttr = "(memberUid=%u)", "CN" // attributes have no case
	if id := login(t, source(t, o), "BOB", "bob's"); !slices.Equal(id.Groups, []string{"unix"}) {
		t.Errorf("bob is in %q", id.Groups)
	}
	o.GroupFilter = "(|(member=%s)(memberUid=%u))"
	if id := login(t, source(t, o), "bob", "bob's"); !slices.Equal(id.Groups, []string{"dev", "unix"}) {
		t.Errorf("bob is in %q", id.Groups)
	}
	o.GroupBase = ""
	if id := login(t, source(t, o), "bob", "bob's"); id.Groups != nil {
		t.Errorf("without groups bob is in %q", id.Groups)
	}
	o.GroupBase = "ou=nowhere," + suffix
	failure(t, source(t, o), "bob", "bob's")
	o = s.options()
	o.UserFilter = "(&(uid=%s)(!(uid=bob)))"
	if _, err := source(t, o).Login(t.Context(), "bob", "bob's"); !errors.Is(err, auth.ErrUnknown) {
		t.Errorf("bob, whom the filter leaves out: %v", err)
	}
	o = s.options()
	o.AccountAttr = "mail"
	if id := login(t, source(t, o), "alice@example.org", alicePass); id.Account != "alice@example.org" {
		t.Errorf("by address, alice is %+v", id)
	}
}

func testTransports(t *testing.T, s *slapd) {
	starttls, ldaps, ldapi := s.options(), s.options(), s.options()
	starttls.StartTLS, starttls.CA = true, s.ca
	ldaps.URL, ldaps.CA = s.tls, s.ca
	ldapi.URL = s.unix
	for _, o := range []ldap.Options{s.options(), starttls, ldaps, ldapi} {
		src := source(t, o)
		login(t, src, "alice", alicePass)
		login(t, src, "bob", "bob's")
	}
	ldapi.URL = "ldapi://" + filepath.Join(s.dir, "socket")
	login(t, source(t, ldapi), "alice", alicePass)

	// A server that nobody vouches for gets no password.
	for _, o := range []ldap.Options{starttls, ldaps} {
		for _, ca := range []string{filepath.Join(s.dir, "other.pem"), ""} {
			o.CA = ca
			if text := failure(t, source(t, o), "alice", alicePass); !strings.Contains(text, "certificate") {
				t.Errorf("%s: %s", o.URL, text)
			}
		}
		o.CA, o.URL = s.ca, strings.Replace(o.URL, "127.0.0.1", "localhost", 1)
		if text := failure(t, source(t, o), "alice", alicePass); !strings.Contains(text, "localhost") {
			t.Errorf("%s: %s", o.URL, text)
		}
	}
	o := s.options()
	o.URL = strings.Replace(s.tls, "ldaps", "ldap", 1) // TLS where it is not expected
	o.Timeout = 2 * time.Second
	failure(t, source(t, o), "alice", alicePass)
}

// A server that does not do StartTLS gets nothing without it.
func TestNoTLSNoPassword(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 1024)
		n, _ := c.Read(buf)
		// An extended response that refuses: protocolError.
		_, _ = c.Write([]byte{0x30, 0x0c, 0x02, 0x01, 0x01, 0x78, 0x07, 0x0a, 0x01, 0x02, 0x04, 0x00, 0x04, 0x00})
		rest, _ := io.ReadAll(c)
		heard <- append(buf[:n], rest...)
	}()
	src := source(t, ldap.Options{URL: "ldap://" + l.Addr().String(), StartTLS: true, UserBase: suffix, BindDN: service, BindPassword: servePass})
	failure(t, src, "alice", alicePass)
	if got := string(<-heard); !strings.Contains(got, "1.3.6.1.4.1.1466.20037") || strings.Contains(got, "alice") || strings.Contains(got, servePass) {
		t.Errorf("the server heard %q", got)
	}
}

func testAnonymous(t *testing.T, s *slapd) {
	o := s.options()
	o.BindDN, o.BindPassword = "", ""
	// Groups that cannot be read are not the same as none.
	if text := failure(t, source(t, o), "alice", alicePass); !strings.Contains(text, "groups") {
		t.Errorf("without access to groups: %s", text)
	}
	o.GroupBase = ""
	src := source(t, o)
	for range 2 { // on a connection that was somebody's, too
		if id := login(t, src, "alice", alicePass); id.Account != "alice" || id.Groups != nil {
			t.Errorf("alice is %+v", id)
		}
	}
}

func testFailures(t *testing.T, s *slapd) {
	o := s.options()
	o.BindPassword = "wrong"
	if text := failure(t, source(t, o), "alice", alicePass); !strings.Contains(text, "bind as the service") {
		t.Errorf("wrong password of the service: %s", text)
	}
	o = s.options()
	o.UserBase = "ou=nowhere," + suffix
	failure(t, source(t, o), "alice", alicePass)
	o = s.options()
	o.URL = "ldap://" + freeaddr.For(t)
	failure(t, source(t, o), "alice", alicePass)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := source(t, s.options()).Login(ctx, "alice", alicePass); !errors.Is(err, context.Canceled) {
		t.Errorf("without a caller: %v", err)
	}
}

func testRefresh(t *testing.T, s *slapd) {
	src, root := source(t, s.options()), s.admin()
	modify := func(dn string, change func(*goldap.ModifyRequest)) {
		t.Helper()
		r := goldap.NewModifyRequest(dn, nil)
		change(r)
		if err := root.Modify(r); err != nil {
			t.Fatal(err)
		}
	}
	add := func(password string) {
		t.Helper()
		r := goldap.NewAddRequest("uid=eve,ou=people,"+suffix, nil)
		r.Attribute("objectClass", []string{"inetOrgPerson"})
		for _, attr := range []string{"uid", "cn", "sn"} {
			r.Attribute(attr, []string{"eve"})
		}
		r.Attribute("userPassword", []string{password})
		if err := root.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	remove := func() {
		t.Helper()
		if err := root.Del(goldap.NewDelRequest("uid=eve,ou=people,"+suffix, nil)); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(id *auth.Identity, why string) {
		t.Helper()
		if got, err := src.Refresh(t.Context(), id); !errors.Is(err, auth.ErrUnknown) {
			t.Errorf("%s: %+v, %v", why, got, err)
		}
	}
	add("eve's")
	id := login(t, src, "eve", "eve's")
	group := "cn=dev,ou=groups," + suffix
	modify(group, func(r *goldap.ModifyRequest) { r.Add("member", []string{"uid=eve,ou=people," + suffix}) })
	fresh, err := src.Refresh(t.Context(), id)
	if err != nil || fresh.Account != "eve" || fresh.Epoch != id.Epoch || !slices.Equal(fresh.Groups, []string{"dev"}) {
		t.Errorf("in a new group, eve is %+v, %v", fresh, err)
	}
	modify(group, func(r *goldap.ModifyRequest) { r.Delete("member", []string{"uid=eve,ou=people," + suffix}) })

	remove()
	gone(id, "without an entry")
	add("eve's")
	gone(id, "another entry of the same name")
	id = login(t, src, "eve", "eve's")
	// The time that a password was changed at has seconds: a change within the one
	// of the login before is not seen.
	sameSecond := time.Now().Add(10 * time.Second)
	for again := id.Epoch; again == id.Epoch; again = login(t, src, "eve", "new").Epoch {
		modify("uid=eve,ou=people,"+suffix, func(r *goldap.ModifyRequest) { r.Replace("userPassword", []string{"new"}) })
		if time.Now().After(sameSecond) {
			t.Fatal("a change of the password is never seen")
		}
	}
	gone(id, "with another password")
	byKey := &auth.Identity{Account: "eve", Source: "ldap", Key: "k"}
	if fresh, err := src.Refresh(t.Context(), byKey); err != nil || fresh.Account != "eve" {
		t.Errorf("by an API key, eve is %+v, %v", fresh, err)
	}
	remove()
	gone(byKey, "an API key of who is gone")
	gone(&auth.Identity{Account: "EVE*", Source: "ldap"}, "a name that is none")
	gone(&auth.Identity{Account: "alice", Source: "htpasswd"}, "an identity of another source")
}
