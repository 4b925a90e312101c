package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
)

// followed is a tag of a registry, followed by nobody in particular.
func followed(t *testing.T, addr string) *Followed {
	t.Helper()
	return client(t, Options{StallTimeout: time.Second}).Followed(named(t, addr+"/stacks/shop:prod").(reference.NamedTagged), anonymous)
}

func anonymous() (*registry.AuthConfig, error) { return nil, nil } //nolint:nilnil // no login

// TestHead asks by HEAD, and gets no more than it does not know.
func TestHead(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		f := followed(t, s.localhost())
		if _, err := f.Head(t.Context(), ""); !errors.Is(err, runner.ErrNotFound) {
			t.Errorf("a tag that is not there: %v", err)
		}
		known := digest.Digest("")
		for i := range 2 {
			var src contents
			image := src.image(t, 100+i)
			if _, err := client(t, Options{}).Repository(f.name, nil).Push(t.Context(), "prod", image, &src, nil); err != nil {
				t.Fatal(err)
			}
			for _, k := range []digest.Digest{known, image.Manifest.Digest, ""} {
				if got, err := f.Head(t.Context(), k); err != nil || got != image.Manifest.Digest {
					t.Errorf("knowing %q: %s, %v, want %s", k, got, err, image.Manifest.Digest)
				}
			}
			known = image.Manifest.Digest
		}
	})
}

// TestFollow speaks Berth's protocol.
func TestFollow(t *testing.T) {
	t.Parallel()
	a, b := digest.FromString("a"), digest.FromString("b")
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	const ref = "/stacks%2Fshop:prod"
	conditional := ""
	s := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch path := r.URL.EscapedPath(); {
		case path == "/v2/":
		case path == "/api/v1/follow"+ref && r.Method == http.MethodPost:
			var got map[string]any
			_ = json.Unmarshal(body, &got)
			want := map[string]any{
				"node": "n1", "labels": map[string]any{"role": "web"}, "running": a.String(), "target": b.String(), "state": "failed",
				"error": "why", "log": []any{"last"}, "since": "2026-01-02T02:04:05Z", "interval": "30s",
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("reported %v: want %v", got, want)
			}
			fmt.Fprintf(w, `{"digest":%q,"tag":%q,"version":"v1","reason":"paused\u001b[2J","rollout":{"state":"paused","attempt":3},"new":1}`, a, b)
		case path == "/api/v1/watch"+ref && r.URL.Query().Get("version") == "v1" && r.URL.Query().Get("timeout") == "1m0s":
			time.Sleep(1200 * time.Millisecond) // longer than others may
			fmt.Fprint(w, `{"version":"v2"}`)
		case path == "/api/v1/watch"+ref:
			w.WriteHeader(http.StatusNoContent)
		case path == "/v2/stacks/shop/manifests/prod":
			conditional = r.Header.Get("If-None-Match")
			w.WriteHeader(http.StatusNotModified)
		default:
			t.Errorf("%s %s", r.Method, path)
		}
	})
	f := followed(t, s.addr())
	answer, err := f.Report(t.Context(), runner.FollowReport{
		Node: "n1", Labels: map[string]string{"role": "web"}, Running: a, Target: b, State: runner.FollowFailed,
		Error: "why", Log: []string{"last"}, Since: since, Interval: 30 * time.Second,
	})
	want := runner.FollowAnswer{Digest: a, Tag: b, Version: "v1", Reason: "paused [2J", Rollout: runner.FollowRollout{State: "paused", Attempt: 3}}
	if err != nil || answer != want {
		t.Errorf("the answer is %+v, %v: want %+v", answer, err, want)
	}
	for version, want := range map[string]string{"v1": "v2", "v2": "v2"} {
		if got, err := f.Watch(t.Context(), version, time.Minute); err != nil || got != want {
			t.Errorf("watching from %s: %s, %v", version, got, err)
		}
	}
	if got, err := f.Head(t.Context(), a); got != a || err != nil || conditional != `"`+a.String()+`"` {
		t.Errorf("HEAD: %s, %v, If-None-Match %s", got, err, conditional)
	}
}

// TestFollowFails tells apart who cannot be followed, who does not allow it, and who
// is away.
func TestFollowFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		body   string
		want   error // nil: of no kind
	}{
		"no route":     {404, "404 page not found", runner.ErrNotFound},
		"not POST":     {405, "", runner.ErrNotFound},
		"a web page":   {200, "<html>", runner.ErrNotFound},
		"unauthorized": {401, "", runner.ErrUnauthorized},
		"forbidden":    {403, `{"errors":[{"code":"DENIED"}]}`, runner.ErrForbidden},
		"invalid":      {400, `{"errors":[{"code":"REQUEST_INVALID","message":"field node"}]}`, runner.ErrInvalid},
		"busy":         {503, "", runner.ErrUnavailable},
		"broken":       {500, "", nil},
		"no digest":    {200, `{"digest":"sha256:../x","tag":"","version":"v"}`, nil},
		"endless":      {200, `{"digest":"` + strings.Repeat("x", 2<<20) + `"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFake(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			_, err := followed(t, s.addr()).Report(t.Context(), runner.FollowReport{Node: "n"})
			wantError(t, err, test.want, "")
			if test.want == nil && errors.Is(err, runner.ErrNotFound) {
				t.Errorf("%v is taken for a registry that cannot be followed", err)
			}
		})
	}
	silent := newFake(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			<-r.Context().Done()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := followed(t, silent.addr()).Watch(ctx, "v1", 100*time.Millisecond)
	wantError(t, err, nil, "sent nothing")
}

// TestFollowLogin keeps tokens between requests, gets others when the registry wants
// them, and takes a new password.
func TestFollowLogin(t *testing.T) {
	t.Parallel()
	password, valid, issued := "old", "", 0
	var s *fake
	s = newFake(t, func(w http.ResponseWriter, r *http.Request) {
		user, pass, basic := r.BasicAuth()
		switch {
		case r.URL.Path == "/token" && basic && user == "node" && pass == password:
			issued++
			valid = fmt.Sprintf("token%d", issued)
			fmt.Fprintf(w, `{"token":%q}`, valid)
		case r.URL.Path == "/token":
			w.WriteHeader(http.StatusUnauthorized)
		case valid == "" || r.Header.Get("Authorization") != "Bearer "+valid:
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	given := "old"
	f := client(t, Options{}).Followed(named(t, s.addr()+"/stacks/shop:prod").(reference.NamedTagged), func() (*registry.AuthConfig, error) {
		return &registry.AuthConfig{Username: "node", Password: given}, nil
	})
	watch := func(tokens int, want error) {
		t.Helper()
		if _, err := f.Watch(t.Context(), "v", time.Second); !errors.Is(err, want) || issued != tokens {
			t.Errorf("%v, with %d tokens: want %v with %d", err, issued, want, tokens)
		}
	}
	watch(1, nil)
	watch(1, nil)
	valid = "" // it has expired
	watch(2, nil)
	valid, password = "", "new"
	watch(2, runner.ErrUnauthorized)
	given = "new"
	watch(3, nil)
	watch(3, nil)
	given = "another" // though the token is still good
	watch(3, runner.ErrUnauthorized)
}
