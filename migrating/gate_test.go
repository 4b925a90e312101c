package migrating_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/migrating"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/storagetest"
)

// TestGateMeta runs the suite of a store behind an open gate.
func TestGateMeta(t *testing.T) {
	storagetest.TestMeta(t, func(*testing.T) storage.Meta { return new(migrating.Gate).Meta(mem.NewMeta()) })
}

// ask sends a request, and returns status and body.
func ask(t *testing.T, url, method string, body io.Reader) (status int, text, retry string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	must(t, err)
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, string(data), res.Header.Get("Retry-After")
}

// TestGate shuts a gate while a request that writes is under way: it is waited for, what
// comes meanwhile is refused, reads go on, and then updates are refused, too.
func TestGate(t *testing.T) {
	gate := new(migrating.Gate)
	meta := gate.Meta(mem.NewMeta())
	update := func() error { return meta.Update(t.Context(), func(storage.Tx) error { return nil }) }
	inside, proceed := make(chan struct{}), make(chan struct{})
	updated := make(chan error, 1)
	server := httptest.NewServer(gate.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/slow" {
			close(inside)
			<-proceed
			updated <- update()
		}
		w.WriteHeader(http.StatusCreated)
	})))
	defer server.Close()
	go func() {
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodPut, server.URL+"/v2/slow", nil)
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
		}
	}()
	<-inside
	shut := make(chan struct{})
	go func() {
		defer close(shut)
		gate.Shut(t.Context(), time.Minute, "closed for now")
	}()
	refused := func() bool {
		status, text, retry := ask(t, server.URL+"/v2/a/blobs/uploads/", http.MethodPost, strings.NewReader("body"))
		return status == http.StatusServiceUnavailable && retry != "" && strings.Contains(text, `"code":"UNAVAILABLE"`) && strings.Contains(text, "closed for now")
	}
	for end := time.Now().Add(10 * time.Second); !refused(); {
		if time.Now().After(end) {
			t.Fatal("writes are not refused")
		}
	}
	if status, _, _ := ask(t, server.URL+"/v2/a/manifests/b", http.MethodGet, nil); status != http.StatusCreated {
		t.Errorf("a read is answered by %d", status)
	}
	select {
	case <-shut:
		t.Fatal("it did not wait for the request under way")
	default:
	}
	close(proceed)
	if err := <-updated; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	<-shut
	if err := update(); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("an update behind the gate: %v", err)
	}
	must(t, meta.View(t.Context(), func(storage.Tx) error { return nil }))
	gate.Open()
	must(t, update())
	if refused() {
		t.Error("writes are refused by an open gate")
	}
}

// TestGateSlow does not wait for ever for a request under way.
func TestGateSlow(t *testing.T) {
	gate := new(migrating.Gate)
	inside, proceed := make(chan struct{}), make(chan struct{})
	h := gate.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(inside); <-proceed }))
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPatch, "/v2/x", nil))
	}()
	<-inside
	gate.Shut(t.Context(), time.Millisecond, "now")
	if err := gate.Meta(mem.NewMeta()).Update(t.Context(), func(storage.Tx) error { return nil }); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("an update behind the gate: %v", err)
	}
	close(proceed)
	<-done
	gate.Open()
	gate.Shut(t.Context(), time.Minute, "again") // nobody is inside
}
