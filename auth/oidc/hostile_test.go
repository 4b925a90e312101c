package oidc_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/oidc"
	"github.com/berth-registry/berth/e2e/berthtest"
)

// countRequests starts a server that counts what it is asked.
func countRequests(t *testing.T) (url string, asked func() int64) {
	t.Helper()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { n.Add(1) }))
	t.Cleanup(s.Close)
	return s.URL, n.Load
}

const wellKnown = "/.well-known/openid-configuration"

// document is what a provider says of itself.
func document(issuer, keys string) string {
	return fmt.Sprintf(`{"issuer": %q, "authorization_endpoint": %q, "token_endpoint": %q, "jwks_uri": %q}`,
		issuer, issuer+"/authorize", issuer+"/token", keys)
}

// A provider that is hostile costs a bounded time and memory, and makes the
// registry ask nobody else.
func TestHostileProvider(t *testing.T) {
	inner, asked := countRequests(t)
	endless := func(w io.Writer, start string) {
		_, _ = io.WriteString(w, start)
		for chunk := bytes.Repeat([]byte("a"), 64<<10); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	for _, tt := range []struct {
		name     string
		discover func(w http.ResponseWriter, r *http.Request, issuer string)
		keys     func(w http.ResponseWriter, r *http.Request)
		reason   string
	}{
		{name: "endless document", reason: "larger than", discover: func(w http.ResponseWriter, _ *http.Request, _ string) { endless(w, `{"issuer": "`) }},
		{name: "endless error", reason: "larger than", discover: func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.WriteHeader(http.StatusInternalServerError)
			endless(w, "\x1b[2J\n")
		}},
		{name: "large error", reason: "500", discover: func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, strings.Repeat("\x1b[31m\r\n", 50_000))
		}},
		{name: "bomb", reason: "larger than", discover: func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.Header().Set("Content-Encoding", "gzip")
			endless(gzip.NewWriter(w), `{"issuer": "`)
		}},
		{name: "redirect elsewhere", reason: "redirects elsewhere", discover: func(w http.ResponseWriter, r *http.Request, _ string) {
			http.Redirect(w, r, inner+"/latest/meta-data", http.StatusFound)
		}},
		{name: "redirects without end", reason: "redirects elsewhere", discover: func(w http.ResponseWriter, r *http.Request, _ string) {
			http.Redirect(w, r, r.URL.Path+"?", http.StatusFound)
		}},
		{name: "another issuer", reason: "did not match", discover: func(w http.ResponseWriter, _ *http.Request, issuer string) {
			_, _ = io.WriteString(w, document(issuer+"/", issuer+"/keys"))
		}},
		{name: "no JSON", reason: "", discover: func(w http.ResponseWriter, _ *http.Request, _ string) { _, _ = io.WriteString(w, "<html>") }},
		{name: "no keys", reason: "jwks_uri", discover: func(w http.ResponseWriter, _ *http.Request, issuer string) {
			_, _ = io.WriteString(w, document(issuer, ""))
		}},
		{name: "keys on plain http", reason: "not on https", discover: func(w http.ResponseWriter, _ *http.Request, issuer string) {
			_, _ = io.WriteString(w, document(issuer, "http://10.0.0.1/keys"))
		}},
		{name: "keys in a file", reason: "not on https", discover: func(w http.ResponseWriter, _ *http.Request, issuer string) {
			_, _ = io.WriteString(w, document(issuer, "file:///etc/passwd"))
		}},
		{name: "endless keys", reason: "larger than", keys: func(w http.ResponseWriter, _ *http.Request) { endless(w, `{"keys": ["`) }},
		{name: "keys elsewhere", reason: "redirects elsewhere", keys: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, inner, http.StatusFound)
		}},
		{name: "keys that are none", reason: "", keys: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"keys": [7]}`) }},
		{name: "error for keys", reason: "503", keys: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }},
		{name: "huge headers", reason: "", keys: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("a", 1<<20))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, token := hostile(t, tt.discover, tt.keys)
			_, err := login(w, token)
			wantError(t, err, oidc.ErrUnavailable, tt.reason, token)
		})
	}
	if n := asked(); n > 0 {
		t.Errorf("another host was asked %d times", n)
	}
}

// hostile starts a provider that behaves as told, and returns a rule for it and a
// token of which it is the issuer.
func hostile(t *testing.T, discover func(http.ResponseWriter, *http.Request, string), keys http.HandlerFunc) (*oidc.Workload, string) {
	t.Helper()
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	if discover == nil {
		discover = func(w http.ResponseWriter, _ *http.Request, issuer string) {
			_, _ = io.WriteString(w, document(issuer, issuer+"/keys"))
		}
	}
	mux.HandleFunc(wellKnown, func(w http.ResponseWriter, r *http.Request) { discover(w, r, s.URL) })
	if keys != nil {
		mux.HandleFunc("/keys", keys)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorkload(t, oidc.WorkloadOptions{Name: "x", Issuer: s.URL, Audience: audience, Claims: map[string]string{"repository": "*"}})
	claims := with(berthtest.GitHubClaims(audience, "acme/web", "refs/heads/main"), "iss", s.URL)
	return w, sign(t, key, "k", with(claims, "exp", time.Now().Add(time.Hour).Unix()))
}

// A provider that does not answer costs ten seconds at most, for all who wait.
func TestSlowProvider(t *testing.T) {
	stop := make(chan struct{})
	var asked atomic.Int64
	w, token := hostile(t, func(w http.ResponseWriter, r *http.Request, _ string) {
		asked.Add(1)
		_, _ = io.WriteString(w, "{")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}, nil)
	defer close(stop)
	start, done := time.Now(), make(chan error)
	for range 10 {
		go func() { _, err := login(w, token); done <- err }()
	}
	for range 10 {
		wantError(t, <-done, oidc.ErrUnavailable, "")
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
	// One that waits no longer does not have to.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start = time.Now()
	_, _, err := w.Login(ctx, token)
	wantError(t, err, oidc.ErrUnavailable, "")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v to give up", took)
	}
}

// A provider that publishes a key that both sides share, by mistake or on purpose,
// publishes what everybody can sign with.
func TestSharedKey(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	w, token := hostile(t, nil, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"keys": [{"kty": "oct", "kid": "shared", "k": %q}]}`, base64.RawURLEncoding.EncodeToString(secret))
	})
	_, payload, _ := split(token)
	forged := hs256(t, "shared", payload, secret)
	_, err := login(w, forged)
	wantError(t, err, auth.ErrWrong, "token refused", forged)
}
