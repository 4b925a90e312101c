package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/mirror"
	"github.com/berth-registry/berth/registry/remote"
)

// pipes is a network in memory, whose waiting is no waiting for the world.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bubble is an upstream and a mirror in a bubble of time.
type bubble struct {
	*mirror.Registry
	theirs *registry.Local
	stop   func()

	mu    sync.Mutex
	fault func(w http.ResponseWriter, r *http.Request) bool
	asked int
	sick  error // what Unavailable says
}

func newBubble(t *testing.T, change ...func(*mirror.Upstream)) *bubble {
	t.Helper()
	b := &bubble{theirs: memory(t)}
	cache, dir := memory(t), t.TempDir()
	network := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	api := registry.NewServer(b.theirs, registry.ServerOptions{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.asked++
		fault := b.fault
		b.mu.Unlock()
		if fault == nil || !fault(w, r) {
			api.ServeHTTP(w, r)
		}
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(network) })
	transport := &http.Transport{DialContext: network.dial}
	c, err := remote.New("http://upstream.test", &http.Client{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	up := mirror.Upstream{Name: "hub", Prefix: "hub", Remote: c, Unavailable: func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.sick
	}}
	for _, fn := range change {
		fn(&up)
	}
	if b.Registry, err = mirror.New(cache, []mirror.Upstream{up}, mirror.Options{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	b.stop = func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		transport.CloseIdleConnections()
		_ = server.Shutdown(context.Background()) // it waits for the handlers
		serving.Wait()
	}
	return b
}

func (b *bubble) set(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fn()
}

func (b *bubble) times() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

// hang never answers.
func hang(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

// took is how long fn takes.
func took(fn func()) time.Duration {
	begun := time.Now()
	fn()
	return time.Since(begun)
}

// TestSlowUpstream: who can be served from the cache waits as long as the patience
// lasts, together with all others, and then nobody waits.
func TestSlowUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		defer b.stop()
		a := push(t, b.theirs, "app", "v1", 1, 100)
		has(t, b, "hub/app", tagged("v1"), a)
		hasBlobs(t, b, "hub/app", a)
		synctest.Wait()
		time.Sleep(time.Minute)
		moved := push(t, b.theirs, "app", "v1", 2, 100)
		gate := make(chan struct{})
		b.set(func() {
			b.fault = func(http.ResponseWriter, *http.Request) bool {
				<-gate
				return false
			}
		})
		before := b.times()
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 300 * time.Millisecond)
				want := max(0, 2*time.Second-time.Duration(i)*300*time.Millisecond)
				if d := took(func() { has(t, b, "hub/app", tagged("v1"), a) }); d != want {
					t.Errorf("caller %d waited %v, want %v", i, d, want)
				}
				hasBlobs(t, b, "hub/app", a)
			})
		}
		wg.Wait()
		if n := b.times() - before; n != 1 {
			t.Errorf("the upstream was asked %d times, want once", n)
		}
		close(gate) // the check has gone on
		synctest.Wait()
		has(t, b, "hub/app", tagged("v1"), moved)
		if n := b.Stats()[0].Stale; n != 10 {
			t.Errorf("%d were served what may be stale, want 10", n)
		}
	})
}

// TestFailedCheck: after a check that failed, nobody waits for another one for a
// while.
func TestFailedCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		defer b.stop()
		a := push(t, b.theirs, "app", "v1", 1, 100)
		has(t, b, "hub/app", tagged("v1"), a)
		time.Sleep(time.Minute)
		b.set(func() {
			b.fault = func(w http.ResponseWriter, _ *http.Request) bool {
				time.Sleep(time.Second)
				w.WriteHeader(http.StatusBadGateway)
				return true
			}
		})
		before := b.times()
		for i, want := range []time.Duration{time.Second, 0, 0, 0} {
			if d := took(func() { has(t, b, "hub/app", tagged("v1"), a) }); d != want {
				t.Errorf("caller %d waited %v, want %v", i, d, want)
			}
		}
		if n := b.times() - before; n != 1 {
			t.Errorf("the upstream was asked %d times", n)
		}
		b.set(func() { b.fault = nil })
		moved := push(t, b.theirs, "app", "v1", 2, 100)
		time.Sleep(30 * time.Second)
		has(t, b, "hub/app", tagged("v1"), moved)
	})
}

// TestUnavailable: of an upstream that is not to be asked, what is cached is served at
// once, and the rest fails at once, with what the client is to be told.
func TestUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		defer b.stop()
		a := push(t, b.theirs, "app", "v1", 1, 100)
		has(t, b, "hub/app", tagged("v1"), a)
		hasBlobs(t, b, "hub/app", a)
		synctest.Wait()
		time.Sleep(time.Hour)
		b.set(func() { b.sick, b.fault = limited{}, hang })
		before := b.times()
		d := took(func() {
			has(t, b, "hub/app", tagged("v1"), a)
			has(t, b, "hub/app", digested(a.desc.Digest), a)
			hasBlobs(t, b, "hub/app", a)
			for tag, err := range b.Tags(t.Context(), "hub/app", "") {
				if err != nil || tag != "v1" {
					t.Errorf("tags: %s, %v", tag, err)
				}
			}
			_, _, err := b.Manifest(t.Context(), "hub/app", tagged("v2"))
			is(t, "a tag", err, registry.ErrTooMany)
			if !errors.As(err, &limited{}) {
				t.Errorf("%T has no headers", err)
			}
			_, _, err = b.Blob(t.Context(), "hub/other", a.layer())
			is(t, "a blob", err, registry.ErrTooMany)
			_, err = b.StatBlob(t.Context(), "hub/other", a.layer())
			is(t, "a blob by HEAD", err, registry.ErrTooMany)
		})
		if d > 0 {
			t.Errorf("it took %v", d)
		}
		if b.times() != before {
			t.Error("the upstream was asked")
		}
	})
}

// limited is the error of an upstream that limits how often it is asked.
type limited struct{}

func (limited) Error() string       { return "mirror hub: too many requests" }
func (limited) Unwrap() error       { return registry.ErrTooMany.With("mirror hub: too many requests") }
func (limited) Header() http.Header { return http.Header{"Retry-After": {"60"}} }

// TestGivesUp: a caller that goes away leaves the question to the others.
func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		defer b.stop()
		a := push(t, b.theirs, "app", "v1", 1, 100)
		gate := make(chan struct{})
		b.set(func() {
			b.fault = func(http.ResponseWriter, *http.Request) bool {
				<-gate
				return false
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if d := took(func() {
				if _, _, err := b.Manifest(ctx, "hub/app", tagged("v1")); err == nil {
					t.Error("no error")
				}
			}); d != time.Second {
				t.Errorf("it gave up after %v", d)
			}
		})
		wg.Go(func() {
			if _, err := b.StatBlob(ctx, "hub/app", a.layer()); err == nil {
				t.Error("no error")
			}
		})
		wg.Go(func() { has(t, b, "hub/app", tagged("v1"), a) })
		wg.Go(func() { hasBlobs(t, b, "hub/app", a) })
		time.Sleep(time.Minute)
		close(gate)
		wg.Wait()
	})
}

// TestSlowLists: lists are not waited for either, if something is cached.
func TestSlowLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		defer b.stop()
		a := push(t, b.theirs, "app", "v1", 1, 100)
		has(t, b, "hub/app", tagged("v1"), a)
		b.set(func() { b.fault = hang })
		d := took(func() {
			n := 0
			for tag, err := range b.Tags(t.Context(), "hub/app", "") {
				if n++; err != nil || tag != "v1" {
					t.Errorf("tags: %s, %v", tag, err)
				}
			}
			if n != 1 {
				t.Errorf("%d tags", n)
			}
		})
		if d != 2*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// TestTrickle: a transfer may be slow as long as it goes on.
func TestTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		defer b.stop()
		a := push(t, b.theirs, "app", "v1", 1, 200)
		want := a.blobs[a.layer()]
		b.set(func() {
			b.fault = onBlobs(func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Length", "200")
				for i := range want {
					_, _ = w.Write(want[i : i+1])
					_ = http.NewResponseController(w).Flush()
					time.Sleep(10 * time.Second)
				}
				return true
			})
		})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if got, err := read(b, "hub/app", a.layer()); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
		wg.Wait()
	})
}
