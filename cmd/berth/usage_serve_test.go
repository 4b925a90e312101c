package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// told is a log that tells of a line in it.
type told struct {
	mu   sync.Mutex
	text bytes.Buffer
	line chan string // gets each
}

func (l *told) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line <- string(p)
	return l.text.Write(p)
}

// broken is a store whose updates fail while it is broken.
type broken struct {
	storage.Meta
	is atomic.Bool
}

func (b *broken) Update(ctx context.Context, fn func(storage.Tx) error) error {
	if b.is.Load() {
		return errors.New("broken")
	}
	return b.Meta.Update(ctx, fn)
}

// TestUsageCounter counts in the background what a quota of the configuration finds,
// and tells of it in the log and the metrics.
func TestUsageCounter(t *testing.T) {
	meta := &broken{Meta: mem.NewMeta()}
	local, err := registry.NewLocal(t.Context(), mem.NewBlobs(), meta, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(local.Close)
	for _, repo := range []string{"team/a", "ci/a", "other"} {
		if _, err := local.PushBlob(t.Context(), repo, digest.FromString(repo[:4]), strings.NewReader(repo[:4])); err != nil {
			t.Fatal(err)
		}
	}
	log := &told{line: make(chan string, 100)}
	u := newUsageCounter(healthOptions{local: local, meta: meta, log: slog.New(slog.NewTextHandler(log, nil))})
	m := telemetry.NewMetrics("v1", local.Stats)
	usageGauges(m, local)
	metrics := func() string {
		w := httptest.NewRecorder()
		m.Handler(func(context.Context) error { return nil }).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		return w.Body.String()
	}
	u.set([]config.Quota{{Repos: []string{"team/**", "ci/*"}, Bytes: 8}})
	u.set([]config.Quota{{Repos: []string{"team/**", "ci/*"}, Bytes: 10, Tags: 7}}) // which nobody waits for yet
	if text := metrics(); !strings.Contains(text, `berth_quota_counted{quota="team/** ci/*"} 0`) {
		t.Errorf("before it is counted: %s", text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { u.Run(ctx) })
	wait := func(text string) {
		t.Helper()
		for line := range log.line {
			if strings.Contains(line, text) {
				return
			}
		}
	}
	wait(`quotas="[team/** ci/*]"`)
	wait("all quotas hold")
	for _, want := range []string{
		`berth_quota_bytes{quota="team/** ci/*"} 8`, `berth_quota_limit_bytes{quota="team/** ci/*"} 10`, `berth_quota_tags{quota="team/** ci/*"} 0`,
		`berth_quota_limit_tags{quota="team/** ci/*"} 7`, `berth_quota_counted{quota="team/** ci/*"} 1`,
	} {
		if text := metrics(); !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	_, err = local.PushBlob(t.Context(), "team/a", digest.FromString("abc"), strings.NewReader("abc"))
	if !errors.Is(err, registry.ErrQuota) || !strings.Contains(err.Error(), "quota team/** ci/*: 8 B of 10 B used") {
		t.Errorf("over the quota: %v", err)
	}
	cancel()
	running.Wait()

	meta.is.Store(true) // it fails, and goes on
	ctx, cancel = context.WithCancel(t.Context())
	running.Go(func() { u.Run(ctx) })
	wait("will try again")
	meta.is.Store(false)
	u.set([]config.Quota{{Repos: []string{"**"}, Bytes: 1}})
	wait("all quotas hold")
	cancel()
	running.Wait()
}
