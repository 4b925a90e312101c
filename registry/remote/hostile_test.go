package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/remote"
)

// answer is a handler that always answers the same.
func answer(status int, header map[string]string, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // a HEAD has none
	}
}

func TestErrors(t *testing.T) {
	body := func(code string) string {
		return fmt.Sprintf(`{"errors":[{"code":%q,"message":"it says so","detail":"because\u001b[31m"}]}`, code)
	}
	d := digest.FromString("x")
	stat := func(c *remote.Client) error { _, err := c.StatBlob(t.Context(), "a", d); return err }
	blob := func(c *remote.Client) error { _, _, err := c.Blob(t.Context(), "a", d); return err }
	manifest := func(c *remote.Client) error {
		_, _, err := c.Manifest(t.Context(), "a", registry.Reference{Tag: "b"})
		return err
	}
	tags := func(c *remote.Client) error {
		for _, err := range c.Tags(t.Context(), "a", "") {
			return err
		}
		return nil
	}
	remove := func(c *remote.Client) error { return c.DeleteManifest(t.Context(), "a", d) }
	for _, tt := range []struct {
		name   string
		status int
		body   string
		call   func(*remote.Client) error
		want   error // nil: an error that is none of the protocol's
	}{
		{"HEAD", 404, "", stat, registry.ErrBlobUnknown},
		{"no body", 404, "", manifest, registry.ErrManifestUnknown},
		{"no JSON", 404, "<html>", blob, registry.ErrBlobUnknown},
		{"repository", 404, body("NAME_UNKNOWN"), manifest, registry.ErrManifestUnknown},
		{"of a list", 404, body("NAME_UNKNOWN"), tags, registry.ErrNameUnknown},
		{"unknown code", 404, body("NOT_FOUND"), tags, registry.ErrNameUnknown},
		{"other status", 400, body("MANIFEST_UNKNOWN"), manifest, registry.ErrManifestUnknown},
		{"referenced", 405, body("DENIED"), remove, registry.ErrReferenced},
		{"denied", 403, body("DENIED"), remove, registry.ErrDenied},
		{"unauthorized", 401, body("UNAUTHORIZED"), blob, registry.ErrDenied},
		{"not allowed", 405, body("UNSUPPORTED"), remove, registry.ErrMethod},
		{"too many", 429, body("TOOMANYREQUESTS"), blob, registry.ErrUnavailable},
		{"full", 507, "", blob, registry.ErrNoSpace},
		{"broken", 500, body("UNKNOWN"), blob, nil},
		{"strange", 302, "", blob, nil},
		{"endless", 500, strings.Repeat(" ", 1<<20), blob, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.call(client(t, answer(tt.status, nil, tt.body)))
			var known *registry.Error
			switch {
			case err == nil, tt.want != nil && !errors.Is(err, tt.want):
				t.Errorf("got error %v, want %v", err, tt.want)
			case tt.want == nil && errors.As(err, &known):
				t.Errorf("got error %v, want none of the protocol", err)
			case strings.Contains(tt.body, "it says so") && !strings.Contains(err.Error(), "it says so: because"):
				t.Errorf("error %q does not say why", err)
			case strings.ContainsRune(err.Error(), 0x1b):
				t.Errorf("error %q commands the terminal", err)
			}
		})
	}
}

func TestLyingBlobs(t *testing.T) {
	d := digest.FromString("good")
	c := client(t, answer(200, nil, "evil"))
	r, _, err := c.Blob(t.Context(), "a", d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 {
		if _, err := io.ReadAll(r); !errors.Is(err, registry.ErrDigestInvalid) {
			t.Errorf("read other bytes: error %v, want DIGEST_INVALID", err)
		}
	}
	c = client(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "4")
		_, _ = io.WriteString(w, "go") // the connection breaks
	}))
	r, _, err = c.Blob(t.Context(), "a", d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read half the bytes: error %v, want an unexpected end", err)
	}
}

func TestLyingManifests(t *testing.T) {
	good := digest.FromString("good")
	byTag, byDigest := registry.Reference{Tag: "v1"}, registry.Reference{Digest: good}
	for _, tt := range []struct {
		name, header, body string
		ref                registry.Reference
		want               error
	}{
		{"good", string(good), "good", byTag, nil},
		{"good by digest", "", "good", byDigest, nil},
		{"no digest", "", "good", byTag, nil},
		{"sha512", string(digest.SHA512.FromString("good")), "good", byTag, nil},
		{"other bytes", string(good), "evil", byTag, registry.ErrDigestInvalid},
		{"other bytes by digest", string(digest.FromString("evil")), "evil", byDigest, registry.ErrDigestInvalid},
		{"no valid digest", "sha256:../..", "good", byTag, registry.ErrDigestInvalid},
		{"too long", "", strings.Repeat(" ", registry.MaxManifest+1), byTag, registry.ErrManifestTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, answer(200, map[string]string{"Docker-Content-Digest": tt.header, "Content-Type": "a/b; charset=utf-8"}, tt.body))
			_, desc, err := c.Manifest(t.Context(), "a", tt.ref)
			if !errors.Is(err, tt.want) {
				t.Errorf("got error %v, want %v", err, tt.want)
			}
			if err == nil && (desc.MediaType != "a/b" || desc.Size != 4 || desc.Digest.Algorithm().FromString("good") != desc.Digest) {
				t.Errorf("got %+v", desc)
			}
		})
	}
}

// TestLinks lists over pages that are linked in every way that is allowed, and
// some that are not.
func TestLinks(t *testing.T) {
	links := map[string]string{ // to the page behind the last tag of this one
		"":  `</v2/a/tags/list?last=b&n=1>; rel="next"`,
		"b": `<list?last=c>;rel=next`,
		"c": `<?last=d>; title="x"; rel="next"`,
		"d": `<https://evil.example/v2/a/tags/list?last=e>; rel="next"`, // stays at the registry
		"e": `</v2/a/tags/list?last=b>; rel="prev"`,
	}
	c := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last := r.URL.Query().Get("last")
		w.Header().Set("Link", links[last])
		first := byte('a')
		if last != "" {
			first = last[0] + 1
		}
		fmt.Fprintf(w, `{"tags":["%c"]}`, first)
	}))
	var got []string
	for tag, err := range c.Tags(t.Context(), "a", "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, tag)
	}
	if !slices.Equal(got, []string{"a", "c", "d", "e", "f"}) {
		t.Errorf("got tags %q", got)
	}
	c = client(t, answer(200, map[string]string{"Link": `</v2/a/tags/list?n=1000>; rel="next"`}, `{"tags":["a"]}`))
	for _, err := range c.Tags(t.Context(), "a", "") { // ends, though the list leads to itself
		if err != nil {
			t.Error(err)
		}
	}
	c = client(t, answer(200, nil, "{"))
	for _, err := range c.Tags(t.Context(), "a", "") {
		if err == nil {
			t.Error("list that is no JSON: no error")
		}
	}
}

// opaqueUploads is a registry that names upload sessions by URLs which nobody
// can guess and which change with each chunk, as old ones do.
type opaqueUploads struct {
	mu   sync.Mutex
	at   int
	sent bytes.Buffer
	done digest.Digest
}

func (u *opaqueUploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if r.Method != http.MethodPost && (r.URL.Path != "/upload" || r.URL.Query().Get("state") != strconv.Itoa(u.at)) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = io.Copy(&u.sent, r.Body) // the test sees what is missing
	u.at++
	w.Header().Set("Location", fmt.Sprintf("http://%s/upload?state=%d", r.Host, u.at))
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(u.sent.Len()-1, 0)))
	switch r.Method {
	case http.MethodPut:
		u.done = digest.Digest(r.URL.Query().Get("digest"))
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusAccepted)
	}
}

func TestOpaqueUploads(t *testing.T) {
	u := &opaqueUploads{}
	c := client(t, u)
	data := strings.Repeat("data", 1000)
	if _, err := c.PushBlob(t.Context(), "a", digest.FromString(data), struct{ io.Reader }{strings.NewReader(data)}); err != nil {
		t.Fatal(err)
	}
	if u.sent.String() != data || u.done != digest.FromString(data) {
		t.Errorf("registry got %d bytes for %s", u.sent.Len(), u.done)
	}
}

// TestSequentialReadIsOneRequest counts what a reader asks for.
func TestSequentialReadIsOneRequest(t *testing.T) {
	data := strings.Repeat("data", 100_000)
	var ranges []string
	c := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(data))
	}))
	r, _, err := c.Blob(t.Context(), "a", digest.FromString(data))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, off := range []int64{0, 100} {
		if _, err := r.Seek(0, io.SeekEnd); err != nil { // as who wants to know the size does
			t.Fatal(err)
		}
		if _, err := r.Seek(off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != data[off:] {
			t.Errorf("read from %d: %d bytes, error %v", off, len(got), err)
		}
	}
	if !slices.Equal(ranges, []string{"", "bytes=100-"}) {
		t.Errorf("asked for ranges %q, want all and then from byte 100", ranges)
	}
}

// TestToken logs in as at a registry with a token service: the token that the
// start of an upload needs also serves for the body, which cannot be sent twice.
func TestToken(t *testing.T) {
	inner := registry.NewServer(local(t), registry.ServerOptions{})
	mux := http.NewServeMux()
	var host string
	var scopes []string
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "user" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		scopes = append(scopes, r.URL.Query().Get("scope"))
		_, _ = io.WriteString(w, `{"token":"let-me-in"}`)
	})
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer let-me-in" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, host))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	c, err := remote.New(server.URL, &auth.Client{
		Client: server.Client(), Cache: auth.NewCache(), BlockedRealmPrefixes: []netip.Prefix{},
		Credential: func(context.Context, string) (auth.Credential, error) {
			return auth.Credential{Username: "user", Password: "secret"}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	data := strings.Repeat("data", 100_000)
	d := digest.FromString(data)
	if _, err := c.PushBlob(t.Context(), "a", d, struct{ io.Reader }{strings.NewReader(data)}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.StatBlob(t.Context(), "a", d); err != nil {
		t.Error(err)
	}
	if len(scopes) == 0 || scopes[0] != "repository:a:pull,push" {
		t.Errorf("asked for tokens of scopes %q, want to push first", scopes)
	}
}

// A registry that lists to anybody what is public asks for credentials at its root
// only: who has them sees what is theirs, and who has none what is public.
func TestListsByCredentials(t *testing.T) {
	var basic bool
	mux := http.NewServeMux()
	known := func(r *http.Request) bool { return len(r.Header["Authorization"]) > 0 }
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		if known(r) {
			return
		}
		challenge := fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host)
		if basic {
			challenge = `Basic realm="test"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if !known(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"token":"let-me-in"}`)
	})
	mux.HandleFunc("/v2/_catalog", func(w http.ResponseWriter, r *http.Request) {
		repos := `"public"`
		if known(r) {
			repos += `,"secret"`
		}
		_, _ = io.WriteString(w, `{"repositories":[`+repos+`]}`)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	for _, basic = range []bool{true, false} {
		for credential, want := range map[auth.Credential]string{{}: "public", {Username: "user", Password: "secret"}: "public secret"} {
			if credential.Username == "" && !basic {
				continue // there is a token for nobody then
			}
			c, err := remote.New(server.URL, &auth.Client{
				Client: server.Client(), Cache: auth.NewCache(), BlockedRealmPrefixes: []netip.Prefix{},
				Credential: func(context.Context, string) (auth.Credential, error) { return credential, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for repo, err := range c.Repositories(t.Context(), "") {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, repo)
			}
			if strings.Join(got, " ") != want {
				t.Errorf("basic %t: %q sees %q: want %s", basic, credential.Username, got, want)
			}
		}
	}
}

func TestNew(t *testing.T) {
	for _, bad := range []string{"", "localhost:5000", "ftp://a", "http://", "http://a?b", "http://u:p@a", "http://a#b", "://"} {
		if _, err := remote.New(bad, nil); err == nil {
			t.Errorf("New(%q): no error", bad)
		}
	}
}
