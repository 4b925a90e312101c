package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/storagetest"
)

var record = registry.Record{
	ID: "id", Client: "::1", Method: "GET", Path: "/v2/a/\"\n\xffß", Route: "blob", Action: "pull", Repo: "a",
	Status: 404, In: 1, Out: 2, Duration: 1500 * time.Microsecond, Err: errors.New(`no "such" blob`),
}

// The fast form of a line has the fields of the slow one, whatever clients send.
func TestAccessLog(t *testing.T) {
	var fast, slow bytes.Buffer
	telemetry.NewAccessLog(slog.New(slog.NewTextHandler(t.Output(), nil)), &fast).Observe(record, "alice")
	telemetry.NewAccessLog(slog.New(slog.NewJSONHandler(&slow, nil)), nil).Observe(record, "alice")
	var a, b map[string]any
	if err := json.Unmarshal(fast.Bytes(), &a); err != nil {
		t.Fatalf("%v: %s", err, fast.Bytes())
	}
	if err := json.Unmarshal(slow.Bytes(), &b); err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339Nano, a["time"].(string))
	if err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("time %v: %v", a["time"], err)
	}
	for name, want := range b {
		if name != "time" && a[name] != want {
			t.Errorf("%s is %#v, want %#v", name, a[name], want)
		}
	}
	if len(a) != len(b) || strings.Count(fast.String(), "\n") != 1 {
		t.Errorf("got %s, want the fields of %s", fast.String(), slow.String())
	}
}

func TestAccessLogOff(t *testing.T) {
	var out bytes.Buffer
	level := new(slog.LevelVar)
	a := telemetry.NewAccessLog(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: level})), &out)
	a.SetEnabled(false)
	a.Observe(record, "alice")
	a.SetEnabled(true)
	level.Set(slog.LevelWarn)
	a.Observe(record, "alice")
	if out.Len() > 0 {
		t.Errorf("logged %s", out.String())
	}
}

// A line waits a tenth of a second at most, also when no other follows.
func TestBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		b := telemetry.NewBuffer(&out)
		for range 3 {
			before := out.Len()
			if _, err := b.Write([]byte("line\n")); err != nil {
				t.Fatal(err)
			}
			if out.Len() != before {
				t.Errorf("written at once")
			}
			time.Sleep(150 * time.Millisecond) // synctest's clock
			synctest.Wait()
			if out.Len() != before+5 {
				t.Errorf("not written after 150 ms")
			}
		}
	})
}

func scrape(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestMetrics(t *testing.T) {
	m := telemetry.NewMetrics("v1", func(context.Context) (registry.Stats, error) {
		return registry.Stats{Blobs: 1, Bytes: 2, Manifests: 3, Repos: 4, Uploads: 5}, nil
	})
	m.Observe(record)
	m.Observe(record)
	blobs := m.Blobs(mem.NewBlobs())
	if _, err := blobs.Open(t.Context(), digest.FromString("x")); !errors.Is(err, storage.ErrNotFound) {
		t.Error(err)
	}
	_, text := scrape(t, m.Handler(func(context.Context) error { return nil }), "/metrics")
	for _, want := range []string{
		`berth_build_info{version="v1"} 1`, "berth_blobs 1", "berth_blob_bytes 2", "berth_manifests 3", "berth_repositories 4", "berth_uploads_open 5",
		`berth_http_requests_total{method="GET",route="blob",status="404"} 2`, `berth_http_received_bytes_total{route="blob"} 2`,
		`berth_http_sent_bytes_total{route="blob"} 4`, `berth_http_request_duration_seconds_count{route="blob"} 2`,
		`berth_store_duration_seconds_count{operation="open",store="blobs"} 1`, "process_resident_memory_bytes", "go_goroutines",
	} {
		if !strings.Contains(text, want+"\n") && !strings.Contains(text, want+" ") {
			t.Errorf("no %q in the metrics", want)
		}
	}
}

func TestHealth(t *testing.T) {
	var ready error
	m := telemetry.NewMetrics("v1", func(context.Context) (registry.Stats, error) { return registry.Stats{}, nil })
	h := m.Handler(func(context.Context) error { return ready })
	if code, _ := scrape(t, h, "/readyz"); code != http.StatusOK {
		t.Errorf("ready: %d", code)
	}
	ready = errors.New("stopping")
	if code, text := scrape(t, h, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "stopping") {
		t.Errorf("not ready: %d %s", code, text)
	}
	if code, _ := scrape(t, h, "/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d", code)
	}
	if code, _ := scrape(t, h, "/debug/pprof/heap"); code != http.StatusOK {
		t.Errorf("profile: %d", code)
	}
}

// What is measured works as it did.
func TestStores(t *testing.T) {
	m := telemetry.NewMetrics("v1", nil)
	storagetest.TestBlobs(t, func(*testing.T) storage.Blobs { return m.Blobs(mem.NewBlobs()) })
	storagetest.TestMeta(t, func(*testing.T) storage.Meta { return m.Meta(mem.NewMeta()) })
}

// stager is told what a stage is to become.
type stager struct {
	*mem.Blobs
	told digest.Digest
}

func (s *stager) StageFor(ctx context.Context, id string, d digest.Digest) (storage.Stage, error) {
	s.told = d
	return s.Stage(ctx, id, 0)
}

// What a store can do besides, it can when it is measured.
func TestDigestStager(t *testing.T) {
	m := telemetry.NewMetrics("v1", nil)
	told := &stager{Blobs: mem.NewBlobs()}
	d := digest.FromString("x")
	s, err := storage.StageFor(t.Context(), m.Blobs(told), "id", d)
	if err == nil {
		err = errors.Join(s.Commit(d), s.Close())
	}
	if err != nil || told.told != d {
		t.Errorf("StageFor: %v; the store was told of %q", err, told.told)
	}
	if _, ok := m.Blobs(mem.NewBlobs()).(storage.DigestStager); ok {
		t.Error("a store can do what it could not")
	}
}

// adopting is a store that takes files over.
type adopting struct {
	storage.Blobs
	storage.Adopter
}

// both is a store that can do everything.
type both struct {
	*stager
	storage.Adopter
}

func TestAdopter(t *testing.T) {
	m := telemetry.NewMetrics("v1", nil)
	for _, c := range []struct {
		blobs          storage.Blobs
		stages, adopts bool
	}{
		{mem.NewBlobs(), false, false},
		{&stager{}, true, false},
		{adopting{}, false, true},
		{both{}, true, true},
	} {
		timed := m.Blobs(c.blobs)
		_, stages := timed.(storage.DigestStager)
		_, adopts := timed.(storage.Adopter)
		if stages != c.stages || adopts != c.adopts {
			t.Errorf("%T: is told of digests: %v, adopts: %v", c.blobs, stages, adopts)
		}
	}
}

// notified is a store that wakes others up.
type notified struct {
	storage.Meta
	topic string
}

func (n *notified) Notify(_ context.Context, topic string) error {
	n.topic = topic
	return nil
}

func (n *notified) Listen(context.Context, string, func()) error { return storage.ErrClosed }

// versioned is one that nobody else writes to, too.
type versioned struct{ *notified }

func (versioned) Version() uint64 { return 7 }

func TestNotifier(t *testing.T) {
	m := telemetry.NewMetrics("v1", nil)
	inner := &notified{Meta: mem.NewMeta()}
	for _, meta := range []storage.Meta{inner, versioned{inner}} {
		inner.topic = ""
		n, ok := m.Meta(meta).(storage.Notifier)
		if !ok {
			t.Fatalf("%T: cannot notify", meta)
		}
		if err := n.Notify(t.Context(), "x"); err != nil || inner.topic != "x" {
			t.Errorf("%T: notified of %q, %v", meta, inner.topic, err)
		}
		if err := n.Listen(t.Context(), "x", func() {}); !errors.Is(err, storage.ErrClosed) {
			t.Errorf("%T: %v", meta, err)
		}
		_, want := meta.(storage.Versioner)
		v, has := m.Meta(meta).(storage.Versioner)
		if has != want || has && v.Version() != 7 {
			t.Errorf("%T: has versions: %v", meta, has)
		}
	}
	if _, ok := m.Meta(mem.NewMeta()).(storage.Notifier); ok {
		t.Error("a store can do what it could not")
	}
}
