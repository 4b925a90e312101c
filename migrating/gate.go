package migrating

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// Gate is where everything passes that writes to a registry, so that it can be kept
// from that for a while. Reads go on. The zero value is open.
type Gate struct {
	updates sync.RWMutex // held for reading while an update runs
	refused error        // of updates; nil while it is open

	mu   sync.Mutex
	why  error         // of requests; nil while it is open
	n    int           // requests under way
	idle chan struct{} // closed when there are none; nil if nobody waits for that
}

// Shut refuses what would write: requests at once, and updates once the requests under
// way have ended, or drain has passed. When it returns nobody writes.
func (g *Gate) Shut(ctx context.Context, drain time.Duration, why string) {
	err := registry.ErrUnavailable.With("%s", why)
	g.mu.Lock()
	g.why = err
	idle := make(chan struct{})
	if g.n == 0 {
		close(idle)
	} else {
		g.idle = idle
	}
	g.mu.Unlock()
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	case <-ctx.Done():
	}
	g.updates.Lock()
	g.refused = err
	g.updates.Unlock()
}

// Open ends that.
func (g *Gate) Open() {
	g.updates.Lock()
	g.refused = nil
	g.updates.Unlock()
	g.mu.Lock()
	g.why, g.idle = nil, nil
	g.mu.Unlock()
}

// enter lets a request in that writes, unless it returns why it must not.
func (g *Gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why == nil {
		g.n++
	}
	return g.why
}

func (g *Gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n--; g.n == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// Handler is the registry's API behind the gate: what would write gets 503, with
// UNAVAILABLE and a time after which to try again.
func (g *Gate) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !writes(r) {
			next.ServeHTTP(w, r)
			return
		}
		if err := g.enter(); err != nil {
			refuse(w, err)
			return
		}
		defer g.leave()
		next.ServeHTTP(w, r)
	})
}

// writes says whether a request is for a change of what is stored.
func writes(r *http.Request) bool {
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return strings.HasPrefix(r.URL.Path, "/v2/")
	}
	return false
}

// retryAfter is how many seconds a client is told to wait.
const retryAfter = "5"

func refuse(w http.ResponseWriter, err error) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	data, _ := json.Marshal(map[string][]entry{"errors": {{registry.ErrUnavailable.Code, err.Error()}}}) // of texts
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Retry-After", retryAfter)
	h.Set("Connection", "close") // its body is not read
	w.WriteHeader(registry.ErrUnavailable.Status)
	_, _ = w.Write(data) // nobody is left to be told
}

// Meta is meta behind the gate: updates are refused while it is shut.
func (g *Gate) Meta(meta storage.Meta) storage.Meta {
	return storage.Like(&gatedMeta{Meta: meta, gate: g}, meta)
}

type gatedMeta struct {
	storage.Meta
	gate *Gate
}

// Update implements storage.Meta.
func (m *gatedMeta) Update(ctx context.Context, fn func(storage.Tx) error) error {
	m.gate.updates.RLock()
	defer m.gate.updates.RUnlock()
	if m.gate.refused != nil {
		return m.gate.refused
	}
	return m.Meta.Update(ctx, fn)
}
