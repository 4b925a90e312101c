package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/reference"

	"github.com/berth-registry/berth/runner"
)

// handshakes counts those of TLS that a client makes.
type handshakes struct {
	mu            sync.Mutex
	full, resumed int
}

func (h *handshakes) ctx(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{TLSHandshakeDone: func(s tls.ConnectionState, err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		switch {
		case err != nil:
		case s.DidResume:
			h.resumed++
		default:
			h.full++
		}
	}})
}

func (h *handshakes) want(t *testing.T, full, resumed int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full != full || h.resumed != resumed {
		t.Errorf("%d handshakes, and %d that took up a session again: want %d and %d", h.full, h.resumed, full, resumed)
	}
	h.full, h.resumed = 0, 0
}

var report = runner.FollowReport{Node: "n", State: runner.FollowRunning, Interval: time.Second}

// TestFollowResumes has a node make one full handshake with a registry of this repository
// however often it reports, watches, and begins anew.
func TestFollowResumes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t)
	write(t, dir+"/ca.pem", ca.PEM)
	cert, key := ca.issue(t, dir, "server")
	addr := berth(t, "BERTH_HTTP_TLS_CERT="+cert, "BERTH_HTTP_TLS_KEY="+key).addr
	for name, o := range map[string]Options{
		"its own authority": {Hosts: map[string]Host{addr: {CA: dir + "/ca.pem"}}},
		"unverified":        {Hosts: map[string]Host{addr: {SkipVerify: true}}},
	} {
		var h handshakes
		ctx := h.ctx(t.Context())
		f := client(t, o).Followed(named(t, addr+"/stacks/shop:prod").(reference.NamedTagged), anonymous)
		for i := range 5 {
			a, err := f.Report(ctx, report)
			if err != nil || a.Reason != "there is no such tag" {
				t.Fatalf("%s: %+v, %v", name, a, err)
			}
			if v, err := f.Watch(ctx, "another", time.Minute); err != nil || v == "" {
				t.Fatalf("%s: %q, %v", name, v, err)
			}
			if i == 2 {
				f.failed(f.session, errors.New("the registry was away"))
			}
		}
		h.mu.Lock()
		if h.full != 1 || h.resumed < 5 {
			t.Errorf("%s: %d handshakes, and %d that took up a session again", name, h.full, h.resumed)
		}
		h.mu.Unlock()
	}
}

// TestKeepsAlive makes one connection where the server lets it, whatever it answers.
func TestKeepsAlive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t)
	write(t, dir+"/ca.pem", ca.PEM)
	pair := must[tls.Certificate](t)(tls.LoadX509KeyPair(ca.issue(t, dir, "server")))
	n := 0
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n++ // one by one
		switch n % 5 {
		case 1:
			fmt.Fprint(w, `{"version":"v"}`)
		case 2:
			w.WriteHeader(http.StatusNoContent)
		case 3:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, strings.Repeat("no such page ", 100))
		case 4:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"errors":[{"code":"DENIED"}]}`)
		default:
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"unknown":[]}`+strings.Repeat(" ", 10_000))
		}
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
	addr := strings.TrimPrefix(s.URL, "https://")
	c := client(t, Options{Hosts: map[string]Host{addr: {CA: dir + "/ca.pem"}}})
	var h handshakes
	ctx := h.ctx(t.Context())
	f := c.Followed(named(t, addr+"/stacks/shop:prod").(reference.NamedTagged), anonymous)
	for range 2 {
		_, err1 := f.Report(ctx, report)
		_, err2 := f.Watch(ctx, "v", time.Minute)
		_, err3 := f.Head(ctx, "")
		_, err4 := f.Report(ctx, report)
		_, err5 := c.ReportUse(ctx, addr, nil, runner.UseReport{Node: "n", TTL: time.Minute})
		if err1 != nil || err2 != nil || !errors.Is(err3, runner.ErrNotFound) || !errors.Is(err4, runner.ErrForbidden) || err5 != nil {
			t.Fatal(err1, err2, err3, err4, err5)
		}
	}
	h.want(t, 1, 0)
	if idle := c.verified.IdleConnTimeout; idle <= 30*time.Second {
		t.Errorf("a connection is given up after %s: no longer than a node's interval", idle)
	}

	// What was proven with other certificates counts no more.
	write(t, filepath.Join(dir, "ca.pem"), newAuthority(t).PEM)
	f.failed(f.session, errors.New("the registry was away"))
	if _, err := f.Report(ctx, report); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with an authority that did not sign it: %v", err)
	}
	h.want(t, 0, 0)
	write(t, filepath.Join(dir, "ca.pem"), ca.PEM)
	n = 0
	f.failed(f.session, errors.New("the registry was away"))
	if _, err := f.Report(ctx, report); err != nil {
		t.Error(err)
	}
	h.want(t, 1, 0)
}
