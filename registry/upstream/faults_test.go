package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/internal/freeaddr"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/upstream"
)

// open checks that an upstream is left alone for about a time.
func open(t *testing.T, u *upstream.Upstream, c *clock, least, most time.Duration) *upstream.Unavailable {
	t.Helper()
	e := unavailable(t, u.Unavailable())
	if wait := e.Until.Sub(c.now()); wait < least-2*time.Second || wait > most {
		t.Errorf("left alone for %v, want from %v to %v", wait, least, most)
	}
	if s := u.Stats(); !s.Until.Equal(e.Until) || s.Reason != e.Reason {
		t.Errorf("the figures say %v, %q", s.Until, s.Reason)
	}
	return e
}

func TestDownAndUpAgain(t *testing.T) {
	w := newWorld(t)
	addr := freeaddr.For(t)
	var c clock
	var logs bytes.Buffer
	u := dial(t, upstream.Options{
		URL: "http://" + addr, Now: c.now, Log: slog.New(slog.NewTextHandler(&logs, nil)), Username: "hatter", Password: secret,
	})
	for range 3 {
		if u.Unavailable() != nil {
			t.Error("left alone before the third failure")
		}
		err := stat(t, u)
		if e := unavailable(t, err); e.Reason != addr+" refuses connections" || !errors.Is(err, registry.ErrUnavailable) || e.Denied || e.Limited {
			t.Errorf("got error %v", err)
		}
	}
	_ = open(t, u, &c, 0, time.Second)
	for range 5 {
		if e := unavailable(t, stat(t, u)); e.Header().Get("Retry-After") != "1" || e.Until.IsZero() {
			t.Errorf("got %+v", e)
		}
	}
	if s := u.Stats(); s.Requests[upstream.Failed] != 3 || s.Requests[upstream.Rejected] != 5 || s.Retries != 6 {
		t.Errorf("figures %+v", s)
	}
	c.pass(time.Second)
	fails(t, stat(t, u)) // the probe
	_ = open(t, u, &c, time.Second, 2*time.Second)

	l, err := net.Listen("tcp", addr)
	ok(t, err)
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: w.front, ReadHeaderTimeout: time.Minute}}
	server.Start()
	defer server.Close()
	c.pass(2 * time.Second)
	ok(t, stat(t, u))
	if u.Unavailable() != nil {
		t.Error("left alone although it is back")
	}
	for _, want := range []string{"upstream is unavailable", "upstream is available again", "refuses connections"} {
		if !strings.Contains(logs.String(), want) {
			t.Errorf("the log lacks %q: %s", want, logs.String())
		}
	}
	if strings.Contains(logs.String(), secret) {
		t.Error("the password is in the log")
	}
}

func TestLimited(t *testing.T) {
	const body = `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}`
	for name, tt := range map[string]struct {
		status      int
		after       func(now time.Time) string
		least, most time.Duration
		kind        error
	}{
		"seconds":          {429, func(time.Time) string { return "120" }, 2 * time.Minute, 2 * time.Minute, registry.ErrTooMany},
		"date":             {429, func(now time.Time) string { return now.Add(2 * time.Minute).UTC().Format(http.TimeFormat) }, 2 * time.Minute, 2 * time.Minute, registry.ErrTooMany},
		"a week":           {429, func(time.Time) string { return "604800" }, time.Hour, time.Hour, registry.ErrTooMany},
		"nothing":          {429, func(time.Time) string { return "" }, 0, time.Second, registry.ErrTooMany},
		"maintenance":      {503, func(time.Time) string { return "30" }, 30 * time.Second, 30 * time.Second, registry.ErrUnavailable},
		"of token servers": {0, func(time.Time) string { return "120" }, 2 * time.Minute, 2 * time.Minute, registry.ErrTooMany},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var c clock
			u := dial(t, upstream.Options{URL: w.url, Now: c.now})
			header := map[string]string{"Retry-After": tt.after(c.now())}
			w.answers(func(rw http.ResponseWriter, r *http.Request) bool {
				if tt.status == 0 && r.URL.Path != "/token" {
					challenge := map[string]string{"Www-Authenticate": `Bearer realm="` + w.url + `/token"`}
					return always(http.StatusUnauthorized, challenge, "")(rw, r)
				}
				return always(max(tt.status, 429*(1-min(tt.status, 1))), header, body)(rw, r)
			})
			_, _, err := u.Client().Manifest(t.Context(), "library/app", v1)
			e := unavailable(t, err)
			if !errors.Is(err, tt.kind) || e.Limited != errors.Is(tt.kind, registry.ErrTooMany) || !strings.Contains(e.Reason, "You have reached your pull rate limit.") {
				t.Errorf("got error %v: %+v", err, e)
			}
			_ = open(t, u, &c, tt.least, tt.most)
			w.asked()
			if err := stat(t, u); !errors.Is(err, tt.kind) || len(w.asked()) != 0 {
				t.Errorf("it was asked again: error %v", err)
			}
			w.answers(nil)
			c.pass(tt.most + time.Second)
			ok(t, stat(t, u))
		})
	}
}

func TestRateLimitIsShown(t *testing.T) {
	w := newWorld(t)
	u := dial(t, upstream.Options{URL: w.url})
	ok(t, stat(t, u))
	if u.Stats().RateLimit != (upstream.RateLimit{}) {
		t.Errorf("got %+v of an upstream that says nothing", u.Stats().RateLimit)
	}
	w.answers(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.Header().Set("Ratelimit-Limit", "100;w=21600")
		rw.Header().Set("Ratelimit-Remaining", "76;w=21600")
		rw.Header().Set("Docker-Ratelimit-Source", "192.0.2.1")
		return false
	})
	ok(t, stat(t, u))
	got := u.Stats().RateLimit
	if !got.Known || got.Limit != 100 || got.Remaining != 76 || got.Window != 6*time.Hour || got.Source != "192.0.2.1" || got.At.IsZero() {
		t.Errorf("got %+v", got)
	}
}

func TestFaultyAnswers(t *testing.T) {
	cut := func(w http.ResponseWriter, _ *http.Request) bool {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			c.Close()
		}
		return true
	}
	for name, tt := range map[string]struct {
		answer  func(http.ResponseWriter, *http.Request) bool
		retried bool
	}{
		"500": {always(500, nil, "<html>"), true},
		"502": {always(502, nil, ""), true},
		"503": {always(503, nil, ""), true},
		"507": {always(507, nil, ""), false},
		"408": {always(408, nil, ""), true},
		"cut": {cut, true},
		"endless": {func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			for r.Context().Err() == nil {
				_, _ = w.Write(bytes.Repeat([]byte(" "), 32<<10))
			}
			return true
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			u := dial(t, upstream.Options{URL: w.url})
			w.answers(tt.answer)
			get := func() error {
				_, _, err := u.Client().Manifest(t.Context(), "library/app", v1)
				return err
			}
			if e := unavailable(t, get()); e.Limited || e.Denied {
				t.Errorf("got %+v", e)
			}
			want := 1
			if tt.retried {
				want = 3
			}
			if n := len(w.asked()); n != want {
				t.Errorf("asked %d times, want %d", n, want)
			}
			first := true
			w.answers(func(rw http.ResponseWriter, r *http.Request) bool {
				if !first {
					return false
				}
				first = false
				return tt.answer(rw, r)
			})
			if err := get(); tt.retried != (err == nil) {
				t.Errorf("a fault that passes: error %v", err)
			}
		})
	}
}

// An answer about what was asked is no fault, however often it comes.
func TestWordsOfTheUpstream(t *testing.T) {
	for status, want := range map[int]error{
		400: nil, 404: registry.ErrManifestUnknown, 405: registry.ErrMethod, 416: registry.ErrRangeInvalid,
	} {
		w := newWorld(t)
		u := dial(t, upstream.Options{URL: w.url})
		w.answers(always(status, nil, ""))
		for range 5 {
			if err := stat(t, u); err == nil || upstream.IsUnavailable(err) || want != nil && !errors.Is(err, want) {
				t.Errorf("%d: got error %v, want %v", status, err, want)
			}
		}
		if u.Unavailable() != nil || len(w.asked()) != 5 {
			t.Errorf("%d: left alone: %v", status, u.Unavailable())
		}
	}
}

func hang(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

func TestNoAnswer(t *testing.T) {
	w := newWorld(t)
	var c clock
	u := dial(t, upstream.Options{URL: w.url, HeaderTimeout: 200 * time.Millisecond, Now: c.now})
	w.answers(hang)
	if e := unavailable(t, stat(t, u)); !strings.Contains(e.Reason, "did not answer in time") {
		t.Errorf("got %+v", e)
	}
	_ = open(t, u, &c, 0, time.Second)
	if n := len(w.asked()); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestCallersThatDoNotWait(t *testing.T) {
	w := newWorld(t)
	u := dial(t, upstream.Options{URL: w.url})
	w.answers(hang)
	for range 4 { // more than failures open the breaker
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- statOf(ctx, u.Client(), "library/app") }()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || upstream.IsUnavailable(err) {
			t.Errorf("got error %v, want canceled", err)
		}
	}
	if u.Unavailable() != nil || u.Stats().Requests[upstream.Cancelled] != 4 {
		t.Errorf("callers that went away: %v", u.Unavailable())
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		err := statOf(ctx, u.Client(), "library/app")
		cancel()
		if e := unavailable(t, err); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(e.Reason, "in time") {
			t.Errorf("got error %v, want that there was no answer in time", err)
		}
	}
	fails(t, u.Unavailable())
}

func TestOneProbeAtATime(t *testing.T) {
	w := newWorld(t)
	var c clock
	u := dial(t, upstream.Options{URL: w.url, Now: c.now, Retries: -1})
	w.answers(always(500, nil, ""))
	for range 3 {
		fails(t, stat(t, u))
	}
	c.pass(time.Second)
	w.asked()
	arrived, goOn := make(chan struct{}, 64), make(chan struct{})
	w.answers(func(http.ResponseWriter, *http.Request) bool {
		arrived <- struct{}{}
		<-goOn
		return false
	})
	probe := make(chan error, 1)
	go func() { probe <- statOf(t.Context(), u.Client(), "library/app") }()
	<-arrived
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if err := statOf(t.Context(), u.Client(), "library/app"); !upstream.IsUnavailable(err) {
				t.Errorf("beside the probe: error %v", err)
			}
		})
	}
	wg.Wait()
	fails(t, u.Unavailable())
	close(goOn)
	ok(t, <-probe)
	if n := len(w.asked()); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	ok(t, stat(t, u))
}

// blob is what the servers of TestBodies send.
var blob = bytes.Repeat([]byte("0123456789abcdef"), 16<<10) // 256 KiB

func TestBodies(t *testing.T) {
	d := digest.FromBytes(blob)
	send := func(w http.ResponseWriter, data []byte) {
		_, _ = w.Write(data)
		_ = http.NewResponseController(w).Flush()
	}
	const idle = 300 * time.Millisecond
	for name, tt := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		want   string // in the error
	}{
		"hangs": {func(w http.ResponseWriter, r *http.Request) {
			send(w, blob[:100<<10])
			<-r.Context().Done()
		}, "sent too little"},
		"drips": {func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for i := 0; r.Context().Err() == nil && i < len(blob); i++ {
				send(w, blob[i:i+1])
				<-tick.C
			}
		}, "sent too little"},
		"is cut": {func(w http.ResponseWriter, _ *http.Request) {
			send(w, blob[:100<<10])
			panic(http.ErrAbortHandler)
		}, "broke the transfer off"},
		"is slow": {func(w http.ResponseWriter, _ *http.Request) {
			tick := time.NewTicker(idle / 8)
			defer tick.Stop()
			for i := 0; i < len(blob); i += 16 << 10 {
				send(w, blob[i:i+16<<10])
				<-tick.C
			}
		}, ""},
	} {
		for _, two := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", HTTP/2"}[two], func(t *testing.T) {
				t.Parallel()
				u := bodies(t, two, idle, tt.answer)
				data, err := fetch(t, u, "a", d)
				if tt.want == "" {
					ok(t, err)
					if u.Stats().BytesIn != int64(len(blob)) {
						t.Errorf("counted %d bytes", u.Stats().BytesIn)
					}
					return
				}
				if e := unavailable(t, err); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(e.Reason, tt.want) {
					t.Errorf("after %d bytes: error %v, want %q", len(data), err, tt.want)
				}
				if u.Stats().Broken != 1 || u.Unavailable() != nil {
					t.Errorf("figures %+v", u.Stats())
				}
			})
		}
	}
}

func TestCallersThatReadSlowly(t *testing.T) {
	t.Parallel()
	const idle = 100 * time.Millisecond
	u := bodies(t, false, idle, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(blob) })
	r, _, err := u.Client().Blob(t.Context(), "a", digest.FromBytes(blob))
	ok(t, err)
	defer r.Close()
	_, err = io.CopyN(io.Discard, r, 1000)
	ok(t, err)
	<-time.After(3 * idle) // the subject of the test
	_, err = io.Copy(io.Discard, r)
	ok(t, err)
}

// bodies is an upstream whose blobs are what answer writes.
func bodies(t *testing.T, two bool, idle time.Duration, answer func(http.ResponseWriter, *http.Request)) *upstream.Upstream {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", itoa(int64(len(blob))))
		answer(w, r)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	o := upstream.Options{IdleTimeout: idle}
	if two {
		s.EnableHTTP2 = true
		s.StartTLS()
		o.CAFile = writeCertificate(t, s)
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	o.URL = s.URL
	return dial(t, o)
}

func TestUploadsThatAreNotTaken(t *testing.T) {
	t.Parallel()
	l := local(t)
	f := &front{t: t, next: registry.NewServer(l, registry.ServerOptions{})}
	over := make(chan struct{})
	f.answers(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			<-over
			return true
		}
		return false
	})
	s := httptest.NewServer(f)
	defer s.Close()
	defer close(over)
	u := dial(t, upstream.Options{URL: s.URL, IdleTimeout: 200 * time.Millisecond})
	data := bytes.Repeat(blob, 100) // more than sockets take
	_, err := u.Client().PushBlob(t.Context(), "a", digest.FromBytes(data), bytes.NewReader(data))
	if e := unavailable(t, err); !strings.Contains(e.Reason, "takes no more") {
		t.Errorf("got error %v", err)
	}
}

// What the caller cannot read is no fault of the upstream's.
func TestUploadsThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	u := dial(t, upstream.Options{URL: w.url})
	broken := errors.New("the disk is broken")
	for range 4 {
		r := io.MultiReader(bytes.NewReader(blob), iotest.ErrReader(broken))
		if _, err := u.Client().PushBlob(t.Context(), "a", digest.FromBytes(blob), r); !errors.Is(err, broken) || upstream.IsUnavailable(err) {
			t.Errorf("got error %v, want the reader's", err)
		}
	}
	if u.Unavailable() != nil || u.Stats().Requests[upstream.Failed] != 0 {
		t.Errorf("figures %+v", u.Stats())
	}
}
