package hub_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/rollout"
	"github.com/berth-registry/berth/rollout/hub"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// every is how often the hubs of the tests look.
const every = 10 * time.Millisecond

// patience is how long it may take until something happens that happens at once.
const patience = 20 * time.Second

var ref = rollout.Ref{Repo: "stacks/shop", Tag: "prod"}

// world is a registry of one tag, whose watchers a server has wait.
type world struct {
	t      testing.TB
	local  *registry.Local
	store  *rollout.Store
	hub    *hub.Hub
	server *httptest.Server
	n      int
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t testing.TB, meta storage.Meta, most int, start func(*httptest.Server)) *world {
	return newWorldOf(t, mem.NewBlobs(), meta, most, start)
}

func newWorldOf(t testing.TB, blobs storage.Blobs, meta storage.Meta, most int, start func(*httptest.Server)) *world {
	w := &world{t: t}
	var err error
	w.local, err = registry.NewLocal(t.Context(), blobs, meta, registry.Options{})
	must(t, err)
	t.Cleanup(w.local.Close)
	w.store = rollout.NewStore(meta, w.local, rollout.Options{})
	w.hub = hub.New(w.store, hub.Options{Meta: meta, Max: most, Every: every})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.hub.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		timeout, err := time.ParseDuration(r.FormValue("timeout"))
		if err == nil {
			err = w.hub.Wait(rw, r, "alice", ref, r.FormValue("version"), timeout)
		}
		if err != nil {
			rw.WriteHeader(http.StatusInternalServerError)
		}
	}))
	w.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	start(w.server)
	t.Cleanup(w.server.Close)
	t.Cleanup(w.hub.Close)
	return w
}

// push moves the tag.
func (w *world) push() {
	w.t.Helper()
	w.n++
	data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"n":"%d"}}`, w.n)
	_, err := w.local.PushManifest(w.t.Context(), ref.Repo, registry.ManifestPush{Data: data, Digest: digest.FromBytes(data), Tags: []string{ref.Tag}})
	must(w.t, err)
}

func (w *world) report(node string) rollout.Answer {
	w.t.Helper()
	a, err := w.store.Follow(w.t.Context(), ref, rollout.Report{Node: node, State: rollout.NodeRunning, Interval: rollout.Duration(time.Minute)})
	must(w.t, err)
	return a
}

// waits returns when so many wait.
func (w *world) waits(n int) {
	w.t.Helper()
	for end := time.Now().Add(patience); w.hub.Waiting() != n; runtime.Gosched() {
		if time.Now().After(end) {
			w.t.Fatalf("%d wait, want %d", w.hub.Waiting(), n)
		}
	}
}

func (w *world) url(version, timeout string) string {
	return w.server.URL + "?version=" + version + "&timeout=" + timeout
}

type answer struct {
	*http.Response
	body string
	err  error
}

// get waits for an answer in the background.
func (w *world) get(version, timeout string) <-chan answer {
	answers := make(chan answer, 1)
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url(version, timeout), nil)
	must(w.t, err)
	go func() {
		resp, err := w.server.Client().Do(req)
		if err != nil {
			answers <- answer{err: err}
			return
		}
		data, err := io.ReadAll(resp.Body)
		answers <- answer{resp, string(data), errors.Join(err, resp.Body.Close())}
	}()
	return answers
}

func (w *world) want(answers <-chan answer, status int, version string) {
	w.t.Helper()
	a := <-answers
	if a.err != nil || a.StatusCode != status {
		w.t.Fatalf("%+v", a)
	}
	if version != "" && a.body != fmt.Sprintf(`{"version":"%s"}`+"\n", version) && !strings.Contains(a.body, version) {
		w.t.Errorf("body %q, want the version %s", a.body, version)
	}
}

var starts = map[string]func(*httptest.Server){
	"plain": (*httptest.Server).Start,
	"TLS":   (*httptest.Server).StartTLS,
	"HTTP2": func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() },
}

// TestWait has clients be told what is new, by every protocol.
func TestWait(t *testing.T) {
	for name, start := range starts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, mem.NewMeta(), 0, start)
			w.push()
			a := w.report("a")
			w.want(w.get("x.0", "1m"), 200, "")
			w.want(w.get(a.Version, "1ms"), 204, "")
			first, second := w.get(a.Version, "1m"), w.get(a.Version, "1m")
			w.waits(2)
			must(t, w.store.Pause(t.Context(), ref, "bob"))
			w.want(first, 200, "")
			w.want(second, 200, "")
			third := w.get(w.report("a").Version, "1m")
			w.waits(1)
			w.push()
			w.want(third, 200, "")
			last := w.get(w.report("a").Version, "1m")
			w.waits(1)
			w.hub.Close()
			w.want(last, 503, "stops")
			w.want(w.get(w.report("a").Version, "1m"), 503, "stops")
			w.waits(0)
		})
	}
}

// dial asks, by a connection of its own, which costs no goroutine.
func (w *world) dial(version string) net.Conn {
	w.t.Helper()
	var c net.Conn
	c, err := (&net.Dialer{}).DialContext(w.t.Context(), "tcp", w.server.Listener.Addr().String())
	must(w.t, err)
	if w.server.TLS != nil {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_, err = fmt.Fprintf(c, "GET /?version=%s&timeout=5m HTTP/1.1\r\nHost: x\r\n\r\n", version)
	must(w.t, err)
	return c
}

// TestGone lets go of clients that have gone, or that say something else.
func TestGone(t *testing.T) {
	for _, name := range []string{"plain", "TLS"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, mem.NewMeta(), 0, starts[name])
			w.push()
			v := w.report("a").Version
			stays, goes, talks := w.dial(v), w.dial(v), w.dial(v)
			w.waits(3)
			must(t, goes.Close())
			_, err := io.WriteString(talks, "GET / HTTP/1.1\r\n")
			must(t, err)
			w.waits(1)
			w.push()
			resp, err := http.ReadResponse(bufio.NewReader(stays), nil)
			must(t, err)
			must(t, resp.Body.Close())
			if resp.StatusCode != http.StatusOK || !resp.Close || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%+v", resp)
			}
		})
	}
}

// TestMany has no more wait than may.
func TestMany(t *testing.T) {
	for _, name := range []string{"plain", "HTTP2"} {
		w := newWorld(t, mem.NewMeta(), 2, starts[name])
		w.push()
		v := w.report("a").Version
		first, second := w.get(v, "1m"), w.get(v, "1m")
		w.waits(2)
		third := <-w.get(v, "1m")
		if third.err != nil || third.StatusCode != http.StatusServiceUnavailable || third.Header.Get("Retry-After") != "1" {
			t.Errorf("%s: %+v", name, third)
		}
		w.push()
		w.want(first, 200, "")
		w.want(second, 200, "")
	}
}

// TestTime wakes who waits when time alone has changed something.
func TestTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, mem.NewMeta(), 0, starts["plain"])
	w.push()
	short := func(node string) rollout.Answer {
		a, err := w.store.Follow(t.Context(), ref, rollout.Report{Node: node, State: rollout.NodeRunning, Interval: rollout.Duration(time.Second)})
		must(t, err)
		return a
	}
	short("a") // it has its turn, and dies
	w.want(w.get(w.report("b").Version, "1m"), 200, "")
	if a := w.report("b"); a.Rollout.State != rollout.Failed {
		t.Errorf("%+v", a)
	}
}

// TestReplicas has what is done at one server be told to who waits at another.
func TestReplicas(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.Shared(t)
	open := func() storage.Meta {
		m, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, MaxConns: 4})
		must(t, err)
		t.Cleanup(func() { must(t, m.Close()) })
		return m
	}
	blobs := mem.NewBlobs()
	one := newWorldOf(t, blobs, open(), 0, starts["plain"])
	two := newWorldOf(t, blobs, open(), 0, starts["TLS"])
	one.push()
	waits := two.get(two.report("a").Version, "1m")
	two.waits(1)
	must(t, one.store.Pause(t.Context(), ref, "bob"))
	two.want(waits, 200, "")
	waits = two.get(two.report("a").Version, "1m")
	two.waits(1)
	one.push()
	two.want(waits, 200, "")
}

// TestCost has 100 wait: no goroutine each, and little memory, that of both ends of the
// connection included.
func TestCost(t *testing.T) {
	for name, most := range map[string]uint64{"plain": 20 << 10, "TLS": 64 << 10} {
		w := newWorld(t, mem.NewMeta(), 0, starts[name])
		w.push()
		v := w.report("a").Version
		w.dial(v) // what is there once is there
		w.waits(1)
		memory := func() (uint64, int) {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc + m.StackInuse, runtime.NumGoroutine()
		}
		before, routines := memory()
		const n = 100
		for range n {
			w.dial(v)
		}
		w.waits(n + 1)
		var after uint64
		var more int
		for end := time.Now().Add(patience); ; {
			after, more = memory()
			if more <= routines+2 || time.Now().After(end) {
				break
			}
		}
		t.Logf("%s: %d bytes each, %d goroutines for all", name, (int64(after)-int64(before))/n, more-routines)
		if more > routines+2 || after > before+n*most {
			t.Errorf("%s: %d bytes each, %d goroutines for all", name, (int64(after)-int64(before))/n, more-routines)
		}
	}
}
