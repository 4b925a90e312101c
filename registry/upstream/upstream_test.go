package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/gate"
	"github.com/berth-registry/berth/auth/htpasswd"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/upstream"
	"github.com/berth-registry/berth/storage/mem"
)

const secret = "s3cret-of-hatter"

// passwords writes a file that has the user hatter.
func passwords(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(secret), bcrypt.MinCost)
	ok(t, err)
	path := filepath.Join(t.TempDir(), "htpasswd")
	ok(t, os.WriteFile(path, append([]byte("hatter:"), append(hash, '\n')...), 0o600))
	return path
}

// tokenServer is a registry of ours with the token flow: everybody pulls public/**,
// hatter all.
func tokenServer(t *testing.T, ca *berthtest.CA) (f *front, url string, l *registry.Local) {
	t.Helper()
	l = local(t)
	image(t, l, "public/app", "v1")
	image(t, l, "team/app", "v1")
	meta := mem.NewMeta()
	t.Cleanup(func() { ok(t, meta.Close()) })
	issuer, err := tokens.New(t.Context(), meta, tokens.Options{Service: "registry.test"})
	ok(t, err)
	ctx, stop := context.WithCancel(context.Background())
	users, err := htpasswd.Open(ctx, passwords(t), htpasswd.Options{})
	ok(t, err)
	t.Cleanup(func() { stop(); users.Wait() })
	policy, err := auth.NewPolicy([]auth.Rule{
		{Who: []string{"everyone"}, Repos: []string{"public/**"}, May: auth.Pull},
		{Who: []string{"hatter"}, Repos: []string{"team/**"}, May: auth.Pull | auth.Push},
	})
	ok(t, err)
	live := auth.NewLive(policy)
	g := gate.New(gate.Options{Sources: []auth.Source{users}, Tokens: issuer, Authority: live, Service: "registry.test"})
	mux := http.NewServeMux()
	mux.Handle("/token", g.TokenHandler())
	mux.Handle("/", g.Handler(registry.NewServer(auth.Restrict(l, live, nil), registry.ServerOptions{})))
	f = &front{t: t, next: mux}
	return f, secure(t, ca, f, "127.0.0.1").URL, l
}

func TestDebianRegistryWithPasswords(t *testing.T) {
	ca := berthtest.NewCA(t)
	cert, key := ca.Server("127.0.0.1")
	addr := freeaddr.For(t)
	config := filepath.Join(t.TempDir(), "config.yml")
	ok(t, os.WriteFile(config, []byte("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: "+t.TempDir()+"}, delete: {enabled: true}}\n"+
		"auth: {htpasswd: {realm: test, path: "+passwords(t)+"}}\n"+
		"http: {addr: \""+addr+"\", secret: x, tls: {certificate: "+cert+", key: "+key+"}}\n"), 0o600))
	o := upstream.Options{URL: "https://" + addr, CAFile: ca.File, Username: "hatter", Password: secret}
	berthtest.NewCommand(t, "docker-registry").Daemon(func() error {
		return dial(t, o).Client().Ping(t.Context())
	}, "serve", config)

	u := dial(t, o)
	manifest, blob := image(t, u.Client(), "team/app", "v1")
	_, desc, err := u.Client().Manifest(t.Context(), "team/app", v1)
	ok(t, err)
	if desc.Digest != manifest {
		t.Errorf("got manifest %s, want %s", desc.Digest, manifest)
	}
	data, err := fetch(t, u, "team/app", blob)
	ok(t, err)
	if err := statOf(t.Context(), u.Client(), "team/none"); !errors.Is(err, registry.ErrManifestUnknown) || upstream.IsUnavailable(err) {
		t.Errorf("what is not there: error %v, want MANIFEST_UNKNOWN", err)
	}
	s := u.Stats()
	if s.BytesIn < int64(len(data)) || s.Requests[upstream.NotFound] != 1 || s.Requests[upstream.OK] < 5 || s.Requests[upstream.Failed] != 0 {
		t.Errorf("figures %+v", s)
	}

	for name, change := range map[string]func(*upstream.Options){
		"wrong password": func(o *upstream.Options) { o.Password = "wr0ng" },
		"token":          func(o *upstream.Options) { o.Username, o.Password, o.Token = "", "", "t0ken" },
	} {
		bad := o
		change(&bad)
		u := dial(t, bad)
		err := statOf(t.Context(), u.Client(), "team/app")
		e := unavailable(t, err)
		if e.Denied || !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("%s: got %+v", name, e)
		}
		if u.Unavailable() != nil {
			t.Errorf("%s: the upstream, which is well, is left alone: %v", name, u.Unavailable())
		}
	}
	o.Username, o.Password = "", ""
	if err := statOf(t.Context(), dial(t, o).Client(), "team/app"); !unavailable(t, err).Denied || !errors.Is(err, registry.ErrDenied) {
		t.Errorf("without credentials: error %v, want DENIED", err)
	}
	o.CAFile = ""
	if err := statOf(t.Context(), dial(t, o).Client(), "team/app"); !strings.Contains(unavailable(t, err).Reason, "unknown authority") {
		t.Errorf("of an unknown authority: error %v", err)
	}
}

func TestTokens(t *testing.T) {
	ca := berthtest.NewCA(t)
	f, url, _ := tokenServer(t, ca)
	o := upstream.Options{URL: url, CAFile: ca.File}

	u := dial(t, o)
	f.answers(func(w http.ResponseWriter, r *http.Request) bool { // as Docker Hub does
		if r.URL.Path == "/token" || r.Header.Get("Authorization") != "" {
			return false
		}
		challenge := `Bearer realm="` + url + `/token",service="registry.test",scope="repository:public/app:pull"`
		return always(http.StatusUnauthorized, map[string]string{"Www-Authenticate": challenge}, "")(w, r)
	})
	for range 3 {
		ok(t, statOf(t.Context(), u.Client(), "public/app"))
	}
	f.answers(nil)
	same(t, "anonymous", paths(f.asked()), []string{
		"HEAD /v2/public/app/manifests/v1", "GET /token", "HEAD /v2/public/app/manifests/v1",
		"HEAD /v2/public/app/manifests/v1", "HEAD /v2/public/app/manifests/v1",
	})
	err := statOf(t.Context(), u.Client(), "team/app")
	if e := unavailable(t, err); !e.Denied || e.Limited || !errors.Is(err, registry.ErrDenied) || !strings.Contains(err.Error(), "mirror hub: ") {
		t.Errorf("what is not public: error %v", err)
	}
	f.asked()

	o.Username, o.Password = "hatter", secret
	u = dial(t, o)
	ok(t, statOf(t.Context(), u.Client(), "team/app"))
	asked := f.asked()
	same(t, "password", paths(asked), []string{"HEAD /v2/team/app/manifests/v1", "GET /token", "HEAD /v2/team/app/manifests/v1"})
	if user, pass, _ := asked[1].BasicAuth(); user != "hatter" || pass != secret || asked[1].URL.Query().Get("scope") != "repository:team/app:pull" {
		t.Errorf("asked for the token with %s, scope %q", user, asked[1].URL.Query().Get("scope"))
	}
	o.Password = "wr0ng"
	err = statOf(t.Context(), dial(t, o).Client(), "team/app")
	if e := unavailable(t, err); e.Denied || !strings.Contains(e.Reason, "this registry's credentials were refused") || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("wrong password: error %v", err)
	}
	o.Password = secret

	identity, bearer := offline(t, ca, url)
	f.asked()
	o.Username, o.Password = "<token>", identity
	ok(t, statOf(t.Context(), dial(t, o).Client(), "team/app"))
	same(t, "identity token", paths(f.asked()), []string{"HEAD /v2/team/app/manifests/v1", "POST /token", "HEAD /v2/team/app/manifests/v1"})
	o.Username, o.Password, o.Token = "", "", bearer
	ok(t, statOf(t.Context(), dial(t, o).Client(), "team/app"))
	same(t, "registry token", paths(f.asked()), []string{"HEAD /v2/team/app/manifests/v1", "HEAD /v2/team/app/manifests/v1"})
}

// offline gets an identity token and a registry token of hatter.
func offline(t *testing.T, ca *berthtest.CA, url string) (identity, bearer string) {
	t.Helper()
	var answer struct {
		Token   string `json:"token"`
		Refresh string `json:"refresh_token"`
	}
	getJSON(t, ca, url+"/token?offline_token=true&service=registry.test&scope=repository:team/app:pull", &answer)
	return answer.Refresh, answer.Token
}

// A client that goes away while it fetches the token must not take the others
// with it.
func TestTokenOfOneThatGivesUp(t *testing.T) {
	ca := berthtest.NewCA(t)
	f, url, _ := tokenServer(t, ca)
	u := dial(t, upstream.Options{URL: url, CAFile: ca.File, Username: "hatter", Password: secret})
	asks, goOn := make(chan struct{}, 10), make(chan struct{})
	f.answers(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			asks <- struct{}{}
			select {
			case <-goOn:
			case <-r.Context().Done():
			}
		}
		return false
	})
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- statOf(ctx, u.Client(), "team/app") }()
	<-asks
	go func() { second <- statOf(t.Context(), u.Client(), "team/app") }()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) || upstream.IsUnavailable(err) {
		t.Errorf("the one that gave up: error %v, want canceled", err)
	}
	<-asks
	close(goOn)
	ok(t, <-second)
	if s := u.Stats(); s.Requests[upstream.Cancelled] != 1 || s.Requests[upstream.Failed] != 0 {
		t.Errorf("figures %+v", s)
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]upstream.Options{
		"no URL":            {},
		"other scheme":      {URL: "ftp://a.example"},
		"password in it":    {URL: "https://hatter:" + secret + "@a.example"},
		"not valid":         {URL: "https://" + secret + "\x7f"},
		"query":             {URL: "https://a.example/?token=" + secret},
		"no password":       {URL: "a.example", Username: secret},
		"no user":           {URL: "a.example", Password: secret},
		"two ways":          {URL: "a.example", Username: "hatter", Password: secret, Token: secret},
		"other provider":    {URL: "a.example", Provider: "xyz"},
		"not of AWS":        {URL: "a.example", Provider: "ecr"},
		"helper's path":     {URL: "a.example", CredentialHelper: "../x"},
		"helper not there":  {URL: "a.example", CredentialHelper: "not-installed-here"},
		"no authorities":    {URL: "a.example", CAFile: filepath.Join(t.TempDir(), "none")},
		"proxy's scheme":    {URL: "a.example", Proxy: "ftp://x:" + secret + "@y"},
		"proxy's not valid": {URL: "a.example", Proxy: "http://" + secret + "\x7f"},
	} {
		if _, err := upstream.New(o); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got error %v, want one without the secret", name, err)
		}
	}
	o := upstream.Options{Name: "hub", URL: "docker.io", Username: "hatter", Password: secret}
	u, err := upstream.New(o)
	if err != nil || u.Name() != "hub" || u.Unavailable() != nil {
		t.Fatalf("Docker Hub: %v", err)
	}
	var logs strings.Builder
	for _, h := range []slog.Handler{slog.NewTextHandler(&logs, nil), slog.NewJSONHandler(&logs, nil)} {
		slog.New(h).Info("hub", "options", o, "of", &o, "upstream", u)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		fmt.Fprintf(&logs, verb+" "+verb+" "+verb+"\n", o, &o, u)
	}
	if strings.Contains(logs.String(), secret) || strings.Count(logs.String(), "upstream hub") < 17 {
		t.Errorf("printed and logged: %s", logs.String())
	}
}
