package daemon_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/berth-registry/berth/internal/daemon"
)

// syncBuffer is a log that a server writes to.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// take empties it.
func (b *syncBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.buf.Reset()
	return b.buf.String()
}

// A panic is logged with where it was, and without what might be a secret; the
// client gets no answer that looks whole, and the next one is served.
func TestRecovering(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	h := daemon.Recovering(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var none []int
		switch r.URL.Path {
		case "/index":
			_ = none[len(r.URL.Path)]
		case "/secret":
			panic("hush")
		case "/abort":
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusNoContent)
	}), slog.New(slog.NewTextHandler(&log, nil)))
	server := httptest.NewServer(h)
	defer server.Close()
	for _, tt := range []struct{ path, want string }{
		{"/index", "index out of range"}, {"/secret", "panic=string"}, {"/abort", ""}, {"/", ""},
	} {
		log.take()
		resp, err := server.Client().Get(server.URL + tt.path)
		if err == nil {
			_ = resp.Body.Close()
		}
		if (err == nil) != (tt.path == "/") {
			t.Errorf("%s: %v", tt.path, err)
		}
		text := log.take()
		if (text != "") != (tt.want != "") || !strings.Contains(text, tt.want) || strings.Contains(text, "hush") {
			t.Errorf("%s: logged %s", tt.path, text)
		}
		if tt.want != "" && (!strings.Contains(text, "path="+tt.path) || !strings.Contains(text, "panic_test.go")) {
			t.Errorf("%s: the log does not say where: %s", tt.path, text)
		}
	}
}
