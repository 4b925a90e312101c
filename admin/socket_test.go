package admin_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/mem"
)

// listen starts a server on a socket.
func listen(t *testing.T, path string, h http.Handler) *http.Server {
	t.Helper()
	l, err := admin.ListenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return server
}

// The whole API by its client, over a socket whose path is short and one whose
// path is longer than a socket's can be.
func TestClientOverSocket(t *testing.T) {
	for _, dir := range []string{"d", strings.Repeat("long/", 50)} {
		dir = filepath.Join(t.TempDir(), dir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, admin.SocketName)
		f := newFixture(t, mem.NewMeta())
		server := listen(t, path, admin.Local(f.handler))
		if fi, err := os.Stat(path); err != nil || fi.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%v, %v", fi.Mode(), err)
		}
		useAll(t, admin.NewSocketClient(path))
		peer := fmt.Sprintf("uid=%d,pid=%d", os.Getuid(), os.Getpid())
		if a := f.actors[0]; a.Client != peer || a.Account != admin.LocalAccount {
			t.Errorf("actor %+v, want client %s", a, peer)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// useAll uses each method of a client that administers.
func useAll(t *testing.T, c *admin.Client) {
	t.Helper()
	ctx := t.Context()
	check := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	self, err := c.WhoAmI(ctx)
	if err != nil || !self.Admin || self.Account != admin.LocalAccount {
		t.Errorf("%+v, %v", self, err)
	}
	u, err := c.CreateUser(ctx, admin.NewUser{Name: "ci", Robot: true, Groups: []string{"b", "a"}})
	if err != nil || !u.Robot || strings.Join(u.Groups, "") != "ab" || u.Created.IsZero() {
		t.Errorf("%+v, %v", u, err)
	}
	_, err = c.CreateUser(ctx, admin.NewUser{Name: "ci", Robot: true})
	check("twice", err, admin.ErrAccountExists)
	_, err = c.CreateUser(ctx, admin.NewUser{Name: "../a", Robot: true})
	check("bad name", err, admin.ErrAccountInvalid)
	check("password of a robot", c.SetPassword(ctx, "ci", admin.PasswordChange{Password: newPassword}), admin.ErrPasswordInvalid)
	check("password", c.SetPassword(ctx, "alice", admin.PasswordChange{Password: newPassword}), nil)
	u, err = c.ChangeUser(ctx, "ci", admin.UserChange{Groups: new([]string)})
	if err != nil || len(u.Groups) != 0 {
		t.Errorf("%+v, %v", u, err)
	}
	made, err := c.CreateToken(ctx, admin.NewToken{Account: "ci", Grants: []admin.Grant{{Repos: "**", Actions: []string{"push", "pull"}}}, Never: true})
	if err != nil || !strings.HasPrefix(made.Secret, "berth_"+made.ID+"_") || made.Expires != nil || made.Grants[0].Actions[0] != "pull" {
		t.Errorf("%+v, %v", made.ID, err)
	}
	list, err := c.Tokens(ctx, "ci")
	if err != nil || len(list) != 1 || list[0].ID != made.ID || list[0].Secret != "" {
		t.Errorf("%+v, %v", list, err)
	}
	all, err := c.AllTokens(ctx)
	if err != nil || len(all) != 2 || all[0].Account != "alice" {
		t.Errorf("%+v, %v", all, err)
	}
	check("revoke", c.RevokeToken(ctx, made.ID), nil)
	check("revoke twice", c.RevokeToken(ctx, made.ID), admin.ErrTokenUnknown)
	check("rotate", c.RotateSigningKeys(ctx), nil)
	users, err := c.Users(ctx)
	if err != nil || len(users) != 3 || users[1].Name != "ci" {
		t.Errorf("%+v, %v", users, err)
	}
	check("remove", c.RemoveUser(ctx, "ci"), nil)
	_, err = c.User(ctx, "ci")
	check("removed", err, admin.ErrAccountUnknown)
	for _, name := range []string{"", ".", "..", "../tokens", "a\x00"} {
		check("name "+name, c.RemoveUser(ctx, name), admin.ErrAccountUnknown)
	}
}

// A socket that a dead server left is replaced; that of a live one, and what is no
// socket, are left alone.
func TestListenSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, admin.SocketName)
	for _, name := range []string{path, path + ".new"} {
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		stale.SetUnlinkOnClose(false)
		_ = stale.Close()
	}
	first, err := admin.ListenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.ListenSocket(path); !errors.Is(err, admin.ErrLive) {
		t.Errorf("of a live server: %v", err)
	}
	// Its name is given to another: closing it does not take that away.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := admin.ListenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := admin.DialSocket(t.Context(), path); err != nil {
		t.Errorf("the second server: %v", err)
	}
	if second.Addr().String() != path {
		t.Errorf("address %v", second.Addr())
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := admin.ListenSocket(path); err == nil {
		_ = l.Close()
		t.Error("it took the place of a file")
	}
	if text, err := os.ReadFile(path); string(text) != "precious" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := admin.ListenSocket(filepath.Join(dir, "nothing", admin.SocketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}

// What a client meets that is no server of this API.
func TestClientElsewhere(t *testing.T) {
	local, err := registry.NewLocal(t.Context(), mem.NewBlobs(), mem.NewMeta(), registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	text := func(status int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})
	}
	for name, tt := range map[string]struct {
		handler http.Handler
		want    string
	}{
		"a registry without it": {registry.NewServer(local, registry.ServerOptions{}), "no such route"},
		"a proxy":               {text(502, "<html>bad gateway</html>"), "502 Bad Gateway"},
		"nonsense":              {text(200, "hello"), "the server's answer"},
		"half an answer":        {text(200, `{"users":[`), "the server's answer"},
		"an unknown error":      {text(418, `{"errors":[{"code":"TEAPOT","message":"short\u001b[2J"}]}`), "short?[2J"},
	} {
		server := httptest.NewServer(tt.handler)
		if _, err := admin.NewClient(server.Client(), server.URL+"/").Users(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
		server.Close()
	}
}
