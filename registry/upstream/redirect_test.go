package upstream_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/registry/upstream"
)

// storage serves one blob, and keeps what was asked.
func storage(t *testing.T) (*front, digest.Digest) {
	t.Helper()
	const data = "a blob at a CDN"
	return &front{t: t, next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", noTime, strings.NewReader(data))
	})}, digest.FromString(data)
}

// redirecting wants a password for everything, sets a cookie, and redirects blobs.
func redirecting(t *testing.T, to func(*http.Request) string) *front {
	t.Helper()
	return &front{t: t, next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "cookie", Path: "/"})
		if _, _, is := r.BasicAuth(); !is {
			w.Header().Set("Www-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Location", to(r))
		w.WriteHeader(http.StatusTemporaryRedirect)
	})}
}

func TestRedirectsCarryNothing(t *testing.T) {
	ca := berthtest.NewCA(t)
	cdn, d := storage(t)
	server := secure(t, ca, cdn, "127.0.0.1", "localhost")
	for name, target := range map[string]string{
		"other port": server.URL,
		"other host": strings.Replace(server.URL, "127.0.0.1", "localhost", 1),
	} {
		t.Run(name, func(t *testing.T) {
			f := redirecting(t, func(*http.Request) string { return target + "/blob?X-Amz-Signature=abc" })
			u := dial(t, upstream.Options{URL: secure(t, ca, f, "127.0.0.1").URL, CAFile: ca.File, Username: "hatter", Password: secret})
			r, _, err := u.Client().Blob(t.Context(), "a", d)
			ok(t, err)
			defer r.Close()
			_, err = r.Seek(2, io.SeekStart)
			ok(t, err)
			if data, err := io.ReadAll(r); err != nil || string(data) != "blob at a CDN" {
				t.Errorf("got %q, %v", data, err)
			}
			asked := cdn.asked()
			if len(asked) != 2 || asked[1].Header.Get("Range") != "bytes=2-" {
				t.Errorf("asked %d times", len(asked))
			}
			for _, r := range asked {
				for _, h := range []string{"Authorization", "Cookie", "Referer"} {
					if got := r.Header.Get(h); got != "" {
						t.Errorf("%s arrived at the storage: %s", h, got)
					}
				}
			}
			for _, r := range f.asked() {
				if r.Header.Get("Cookie") != "" {
					t.Error("a cookie came back")
				}
			}
		})
	}
}

func TestRedirectsThatAreNotFollowed(t *testing.T) {
	ca := berthtest.NewCA(t)
	plain, d := storage(t)
	server := httptest.NewServer(plain)
	defer server.Close()
	hops := func(r *http.Request) int {
		n := 0
		_, _ = fmt.Sscan(r.URL.Query().Get("n"), &n)
		return n
	}
	for name, tt := range map[string]struct {
		to   func(*http.Request) string
		want string
	}{
		"without TLS": {func(*http.Request) string { return server.URL + "/?sig=abc" }, "redirects from https to http"},
		"a file":      {func(*http.Request) string { return "file:///etc/passwd" }, "redirects from https to file"},
		"a password":  {func(r *http.Request) string { return "https://x:y@" + r.Host + "/" }, "with a password"},
		"metadata":    {func(*http.Request) string { return "https://169.254.169.254/latest?sig=abc" }, "is of a private network"},
		"endless": {func(r *http.Request) string {
			return fmt.Sprintf("https://%s/?n=%d", r.Host, hops(r)+1)
		}, "redirects without end"},
		"nowhere": {func(*http.Request) string { return "https://[::bad/?sig=abc" }, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			f := redirecting(t, tt.to)
			u := dial(t, upstream.Options{URL: secure(t, ca, f, "127.0.0.1").URL, CAFile: ca.File, Username: "hatter", Password: secret, Retries: -1})
			_, err := fetch(t, u, "a", d)
			if e := unavailable(t, err); !strings.Contains(e.Reason, tt.want) || strings.Contains(err.Error(), "abc") {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
			if len(plain.asked()) != 0 {
				t.Error("the storage was asked")
			}
			if n := len(f.asked()); name == "endless" && n != 12 { // one for the challenge, one, ten redirects
				t.Errorf("asked %d times, want 12", n)
			}
		})
	}
}

// An upstream that is asked through a proxy has no address that tells how near
// what it leads to may be.
func TestRedirectsThroughAProxy(t *testing.T) {
	inside, d := storage(t)
	target := httptest.NewServer(inside)
	defer target.Close()
	f := redirecting(t, func(*http.Request) string { return target.URL + "/" })
	registry := httptest.NewServer(f)
	defer registry.Close()
	proxied := &front{t: t, next: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", r.In.Host
		if r.In.Host == "registry.example" {
			r.Out.URL.Host = strings.TrimPrefix(registry.URL, "http://")
		}
	}}}
	proxy := httptest.NewServer(proxied)
	defer proxy.Close()
	u := dial(t, upstream.Options{
		URL: "http://registry.example", Username: "hatter", Password: secret,
		Proxy: strings.Replace(proxy.URL, "http://", "http://someone:passw0rd@", 1),
	})
	_, err := fetch(t, u, "a", d)
	if e := unavailable(t, err); !strings.Contains(e.Reason, "of a private network") || strings.Contains(err.Error(), "passw0rd") {
		t.Errorf("got error %v", err)
	}
	if len(inside.asked()) != 0 {
		t.Error("what is inside was asked")
	}
	for _, r := range proxied.asked() {
		if r.Host != "registry.example" || r.Header.Get("Proxy-Authorization") == "" {
			t.Errorf("the proxy was asked for %s", r.Host)
		}
	}
}

func TestTokenServersThatAreNotAsked(t *testing.T) {
	ca := berthtest.NewCA(t)
	spy := &front{t: t, next: http.NotFoundHandler()}
	plain := httptest.NewServer(spy)
	defer plain.Close()
	other := secure(t, ca, spy, "127.0.0.1")
	var realm string
	f := &front{t: t, next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, other.URL+"/token", http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("Www-Authenticate", `Bearer realm="`+realm+`",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})}
	server := secure(t, ca, f, "127.0.0.1")
	o := upstream.Options{URL: server.URL, CAFile: ca.File, Username: "hatter", Password: secret, Retries: -1}
	for _, realm = range []string{plain.URL + "/token", "http://169.254.169.254/", "https://169.254.169.254/", "file:///etc/passwd", "://", ""} {
		e := unavailable(t, stat(t, dial(t, o)))
		if strings.HasPrefix(realm, "http:") && !strings.Contains(e.Reason, "names a token server that is not asked") {
			t.Errorf("realm %q: %+v", realm, e)
		}
		if n := len(spy.asked()); n != 0 {
			t.Errorf("realm %q: asked %d times", realm, n)
		}
	}
	realm = server.URL + "/away"
	fails(t, stat(t, dial(t, o)))
	for _, r := range spy.asked() {
		if r.Header.Get("Authorization") != "" {
			t.Error("the password followed a redirect of the token server")
		}
	}
	o.Username, o.Password = "<token>", secret
	fails(t, stat(t, dial(t, o)))
	if len(spy.asked()) != 0 {
		t.Error("the identity token followed a redirect of the token server")
	}
}

// A URL that storage has signed may end before it is used; the upstream signs
// another.
func TestStorageThatRefuses(t *testing.T) {
	cdn, d := storage(t)
	server := httptest.NewServer(cdn)
	defer server.Close()
	refuses := true
	cdn.answers(func(w http.ResponseWriter, r *http.Request) bool {
		defer func() { refuses = false }()
		return refuses && always(http.StatusForbidden, nil, "expired")(w, r)
	})
	f := redirecting(t, func(*http.Request) string { return server.URL })
	registry := httptest.NewServer(f)
	defer registry.Close()
	u := dial(t, upstream.Options{URL: registry.URL, Username: "hatter", Password: secret})
	_, err := fetch(t, u, "a", d)
	ok(t, err)
	if n := len(cdn.asked()); n != 2 {
		t.Errorf("the storage was asked %d times, want twice", n)
	}
}

// An upload that goes on at another host goes on without credentials.
func TestUploadsElsewhere(t *testing.T) {
	spy := &front{t: t, next: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Www-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})}
	other := httptest.NewServer(spy)
	defer other.Close()
	f := &front{t: t, next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, is := r.BasicAuth(); !is {
			w.Header().Set("Www-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Location", other.URL+"/upload")
		w.WriteHeader(http.StatusAccepted)
	})}
	server := httptest.NewServer(f)
	defer server.Close()
	u := dial(t, upstream.Options{URL: server.URL, Username: "hatter", Password: secret})
	_, err := u.Client().PushBlob(t.Context(), "a", digest.FromString("x"), strings.NewReader("x"))
	fails(t, err)
	asked := spy.asked()
	if len(asked) == 0 {
		t.Error("the other host was not asked")
	}
	for _, r := range asked {
		if r.Header.Get("Authorization") != "" {
			t.Error("the other host got the password")
		}
	}
}
