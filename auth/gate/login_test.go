package gate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
)

// source knows one account, and counts who asks.
type fake struct {
	takes time.Duration
	err   error // for everybody
	fails func(account string)

	asked, now, most, gone atomic.Int64
}

func (*fake) Name() string                     { return "fake" }
func (f *fake) Current(id *auth.Identity) bool { return f.gone.Load() == 0 && id.Account == "alice" }

func (f *fake) Login(ctx context.Context, account, password string) (*auth.Identity, error) {
	f.asked.Add(1)
	n := f.now.Add(1)
	defer f.now.Add(-1)
	for {
		most := f.most.Load()
		if n <= most || f.most.CompareAndSwap(most, n) {
			break
		}
	}
	if f.fails != nil {
		f.fails(account)
	}
	if err := sleep(ctx, f.takes); err != nil {
		return nil, err
	}
	switch {
	case f.err != nil:
		return nil, f.err
	case account != "alice":
		return nil, auth.ErrUnknown
	case password != "secret":
		return nil, auth.ErrWrong
	}
	return &auth.Identity{Account: account, Source: "fake"}, nil
}

// A refusal comes after a multiple of a quantum, whatever it took to find out.
func TestRefusalTakesItsTime(t *testing.T) {
	for _, takes := range []time.Duration{0, 100 * time.Millisecond, 249 * time.Millisecond, 600 * time.Millisecond} {
		for _, account := range []string{"alice", "nobody", ""} {
			synctest.Test(t, func(t *testing.T) {
				g := New(Options{Sources: []auth.Source{&fake{takes: takes}}})
				start := time.Now()
				_, err := g.Login(t.Context(), "192.0.2.1", account, "wrong")
				if !errors.Is(err, ErrCredentials) || !errors.Is(err, auth.ErrWrong) {
					t.Errorf("error is %v", err)
				}
				if d := time.Since(start); d == 0 || d%quantum != 0 {
					t.Errorf("%q, source takes %v: refused after %v", account, takes, d)
				}
				start = time.Now()
				if _, err := g.Login(t.Context(), "192.0.2.1", "alice", "secret"); err != nil || time.Since(start) != takes {
					t.Errorf("right password: %v after %v", err, time.Since(start))
				}
			})
		}
	}
}

// Somebody who goes does not wait; the attempt counts all the same.
func TestClientGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: time.Second}
		var events atomic.Int64
		g := New(Options{Sources: []auth.Source{f}, Audit: audit.Func(func(context.Context, audit.Event) { events.Add(1) })})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		start := time.Now()
		if _, err := g.Login(ctx, "192.0.2.1", "alice", "wrong"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		time.Sleep(5 * time.Second)
		if events.Load() != 1 {
			t.Errorf("%d events of the attempt", events.Load())
		}
		a, err := g.throttle.begin(t.Context(), "alice", "192.0.2.1")
		if err != nil || a.counts[0].level < 0.9 || a.counts[0].busy != 1 {
			t.Errorf("%v, count %+v", err, a.counts[0])
		}
		a.end(t.Context(), unknown)
	})
}

// However many send a password at once, it is checked once; however many
// passwords come, only some are checked at a time, and no more than some wait.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: 100 * time.Millisecond}
		g := New(Options{Sources: []auth.Source{f}})
		var group sync.WaitGroup
		for range 500 {
			group.Go(func() {
				if _, err := g.Login(t.Context(), "192.0.2.1", "alice", "secret"); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if f.asked.Load() != 1 {
			t.Errorf("checked %d times", f.asked.Load())
		}
		f.err = auth.ErrWrong
		var throttled, wrong atomic.Int64
		for i := range 1000 {
			client := fmt.Sprintf("10.0.%d.%d", i/250, i%250)
			group.Go(func() {
				switch _, err := g.Login(t.Context(), client, "user"+client, "wrong"); {
				case errors.Is(err, ErrThrottled):
					throttled.Add(1)
				case errors.Is(err, ErrCredentials):
					wrong.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		group.Wait()
		if f.most.Load() > int64(runtime.GOMAXPROCS(0)) {
			t.Errorf("%d were checked at a time", f.most.Load())
		}
		if throttled.Load() == 0 || wrong.Load() != maxLogins {
			t.Errorf("%d throttled, %d wrong", throttled.Load(), wrong.Load())
		}
		if n := g.waiting.Load(); n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

// What was right is not asked again for a while, unless it no longer holds.
func TestPasswordCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		g := New(Options{Sources: []auth.Source{f}, PasswordCache: time.Minute})
		login := func(want int64, ok bool) {
			t.Helper()
			_, err := g.Login(t.Context(), "192.0.2.1", "alice", "secret")
			if f.asked.Load() != want || (err == nil) != ok {
				t.Errorf("asked %d times, %v: want %d", f.asked.Load(), err, want)
			}
		}
		login(1, true)
		login(1, true)
		time.Sleep(time.Minute - time.Second)
		login(1, true)
		time.Sleep(time.Second)
		login(2, true)
		f.gone.Store(1)
		login(3, false) // asked, and not believed: it is not current
		f.gone.Store(0)
		login(4, true)
		for range 3 { // what was wrong is asked each time
			_, _ = g.Login(t.Context(), "192.0.2.1", "alice", "wrong")
		}
		if f.asked.Load() != 7 {
			t.Errorf("asked %d times", f.asked.Load())
		}
	})
}

// Where it takes long to find a password wrong, it takes as long for accounts that
// there are not.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: 600 * time.Millisecond}
		g := New(Options{Sources: []auth.Source{f}})
		refused := func(account string) time.Duration {
			start := time.Now()
			if _, err := g.Login(t.Context(), "192.0.2.1", account, "wrong"); !errors.Is(err, ErrCredentials) {
				t.Error(err)
			}
			return time.Since(start)
		}
		known := refused("alice")
		f.takes = 0 // a source may know quickly that there is no such account
		if unknown := refused("nobody"); unknown != known {
			t.Errorf("%v for no account, %v for a wrong password", unknown, known)
		}
		if empty := refused(""); empty != known {
			t.Errorf("%v for an empty name, %v for a wrong password", empty, known)
		}
		var p pace
		p.rest(time.Hour)
		for range 500 {
			p.rest(0)
		}
		if d := p.rest(0); d != quantum {
			t.Errorf("what was slow once is not forgotten: %v", d)
		}
	})
}

// generous is a source that takes an empty password, as LDAP servers do for an
// unauthenticated bind.
type generous struct{ *fake }

func (g generous) Login(_ context.Context, account, _ string) (*auth.Identity, error) {
	g.asked.Add(1)
	return &auth.Identity{Account: account, Source: "fake"}, nil
}

func TestEmptyPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		g := New(Options{Sources: []auth.Source{generous{f}}})
		for _, c := range [][2]string{{"alice", ""}, {"", "x"}, {"", ""}, {"a\x00", "x"}, {"alice", strings.Repeat("x", maxPassword+1)}} {
			if _, err := g.Login(t.Context(), "192.0.2.1", c[0], c[1]); !errors.Is(err, ErrCredentials) {
				t.Errorf("%q, %.10q: %v", c[0], c[1], err)
			}
		}
		if f.asked.Load() != 0 {
			t.Errorf("the source was asked %d times", f.asked.Load())
		}
	})
}

// The first source that knows the account, or fails, has the last word.
func TestOrderOfSources(t *testing.T) {
	for _, c := range []struct {
		name   string
		errs   []error
		asked  int
		failed bool
	}{
		{"unknown to all", []error{auth.ErrUnknown, auth.ErrUnknown, auth.ErrUnknown}, 3, false},
		{"wrong at the second", []error{auth.ErrUnknown, auth.ErrWrong, auth.ErrUnknown}, 2, false},
		{"failure of the first", []error{errors.New("down"), auth.ErrUnknown, auth.ErrUnknown}, 1, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var sources []auth.Source
			var fakes []*fake
			for _, err := range c.errs {
				f := &fake{err: err}
				fakes, sources = append(fakes, f), append(sources, f)
			}
			_, err := New(Options{Sources: sources}).Login(t.Context(), "192.0.2.1", "alice", "secret")
			asked := 0
			for _, f := range fakes {
				asked += int(f.asked.Load())
			}
			if asked != c.asked || errors.Is(err, ErrCredentials) == c.failed {
				t.Errorf("%s: %d were asked, %v", c.name, asked, err)
			}
		})
	}
}

// A source that panics does not end the process, and its words are not repeated.
func TestSourcePanics(t *testing.T) {
	f := &fake{fails: func(string) { panic("hunter2") }}
	g := New(Options{Sources: []auth.Source{f}})
	_, err := g.Login(t.Context(), "192.0.2.1", "alice", "hunter2")
	if err == nil || errors.Is(err, ErrCredentials) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error is %v", err)
	}
	f.fails = nil
	if _, err := g.Login(t.Context(), "192.0.2.1", "alice", "secret"); err != nil {
		t.Error(err)
	}
}

// Authorization is a small part of a manifest GET: what the gate adds to a request
// whose credentials it has seen.
func BenchmarkGate(b *testing.B) {
	g := New(Options{Sources: []auth.Source{&fake{}}, Service: "x"})
	g.bearer.put(strings.Repeat("t", 800), proof{id: &auth.Identity{Account: "alice", Source: "fake"}, until: time.Now().Add(time.Hour)}, time.Now())
	for name, header := range map[string]string{
		"bearer": "Bearer " + strings.Repeat("t", 800), "basic": "Basic YWxpY2U6c2VjcmV0", "anonymous": "",
	} {
		b.Run(name, func(b *testing.B) {
			h := g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/v2/team/web/manifests/v1", nil)
			if header != "" {
				r.Header.Set("Authorization", header)
			}
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
			if w.Code != http.StatusOK {
				b.Fatal(w.Code)
			}
		})
	}
}
