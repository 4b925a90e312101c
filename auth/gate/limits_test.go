package gate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/auth/gate"
)

// open is a gate without access control, with limits.
func open(l gate.Limits) *gate.Gate { return gate.New(gate.Options{Open: true, Limits: l}) }

func from(ctx context.Context, addr string, body io.Reader) *http.Request {
	r := httptest.NewRequestWithContext(ctx, http.MethodPut, "/v2/a/blobs/uploads/x", body)
	r.RemoteAddr = addr
	return r
}

func TestRequestsPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(gate.Limits{RequestsPerSecond: 10, Burst: 3}).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		get := func(addr string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, from(t.Context(), addr, nil))
			return w
		}
		for i := range 5 {
			w := get("192.0.2.1:1000")
			if want := map[bool]int{true: 200, false: 429}[i < 3]; w.Code != want {
				t.Errorf("request %d: status %d, want %d", i, w.Code, want)
			}
			if w.Code == 429 && (w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), `{"errors":[{"code":"TOOMANYREQUESTS"`)) {
				t.Errorf("header %v, body %s", w.Header(), w.Body)
			}
		}
		if w := get("192.0.2.2:1000"); w.Code != 200 {
			t.Errorf("another client: status %d", w.Code)
		}
		time.Sleep(100 * time.Millisecond)
		if w := get("192.0.2.1:1001"); w.Code != 200 {
			t.Errorf("later: status %d", w.Code)
		}
		for i := range 4 {
			w := get(fmt.Sprintf("[2001:db8::%x]:1", i))
			if want := map[bool]int{true: 200, false: 429}[i < 3]; w.Code != want {
				t.Errorf("address %d of a network: status %d, want %d", i, w.Code, want)
			}
		}
	})
}

// Limits are per account wherever it comes from, and change while the gate works.
func TestLimitsOfAccounts(t *testing.T) {
	w := newWorld(t, func(_ *world, o *gate.Options) { o.Limits = gate.Limits{RequestsPerSecond: 0.001, Burst: 2} })
	alice := basic("alice", alicePass)
	for i, want := range []int{200, 200, 429} {
		if r := w.get("/v2/", alice); r.status != want {
			t.Errorf("request %d: status %d, want %d", i, r.status, want)
		}
	}
	if r := w.get("/token", alice); r.status != http.StatusTooManyRequests || r.header.Get("Retry-After") == "" {
		t.Errorf("/token: status %d", r.status)
	}
	w.get("/v2/", basic("hatter", htPass)).told(t)
	for i, want := range []int{401, 401, 429} { // wrong credentials are the client's requests
		if r := w.get("/v2/", "Bearer nonsense"); r.status != want {
			t.Errorf("wrong request %d: status %d, want %d", i, r.status, want)
		}
	}
	if r := w.get("/v2/x", ""); r.status != http.StatusTooManyRequests {
		t.Errorf("anonymous: status %d", r.status)
	}
	w.gate.Set(gate.Live{})
	for range 5 {
		w.get("/v2/", alice).told(t)
	}
}

func TestBytesPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := open(gate.Limits{BytesPerSecond: 100_000})
		var got, want bytes.Buffer
		want.WriteString(strings.Repeat("0123456789", 50_000))
		h := g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(&got, r.Body); err != nil {
				t.Error(err)
			}
			if err := r.Body.Close(); err != nil {
				t.Error(err)
			}
			if _, err := io.Copy(w, bytes.NewReader(want.Bytes())); err != nil {
				t.Error(err)
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Errorf("through the wrapper: %v", err)
			}
		}))
		start := time.Now()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, from(t.Context(), "192.0.2.1:1", bytes.NewReader(want.Bytes())))
		// Half a megabyte each way, at a tenth of one, but for the first burst.
		if d := time.Since(start).Seconds(); d < 8 || d > 10 {
			t.Errorf("took %v s", d)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) || !bytes.Equal(w.Body.Bytes(), want.Bytes()) {
			t.Error("not what was sent")
		}
	})
}

// Somebody who goes is not waited for.
func TestSlowClientGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(gate.Limits{BytesPerSecond: 10}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); !errors.Is(err, context.Canceled) {
				t.Errorf("read: %v", err)
			}
			if _, err := w.Write(make([]byte, 1000)); !errors.Is(err, context.Canceled) {
				t.Errorf("write: %v", err)
			}
		}))
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		time.AfterFunc(5*time.Second, cancel)
		h.ServeHTTP(httptest.NewRecorder(), from(ctx, "192.0.2.1:1", strings.NewReader(strings.Repeat("x", 1000))))
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// Without a limit of bytes the way to sendfile stays open; with one, deadlines
// still can be set.
func TestWriterAsItWas(t *testing.T) {
	for limit, want := range map[float64]bool{0: true, 1 << 30: false} {
		h := open(gate.Limits{BytesPerSecond: limit, RequestsPerSecond: 1000}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, direct := w.(io.ReaderFrom)
			if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Errorf("limit %v: %v", limit, err)
			}
			f, err := os.Open("limits_test.go")
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			w.Header().Set("X-Direct", strconv.FormatBool(direct))
			if _, err := io.Copy(w, f); err != nil {
				t.Error(err)
			}
		}))
		s := httptest.NewServer(h)
		defer s.Close()
		resp, err := http.Get(s.URL + "/")
		ok(t, err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		ok(t, err)
		source, err := os.ReadFile("limits_test.go")
		ok(t, err)
		if resp.Header.Get("X-Direct") != strconv.FormatBool(want) || !bytes.Equal(body, source) {
			t.Errorf("limit %v: direct is %s", limit, resp.Header.Get("X-Direct"))
		}
	}
}

// Several processes together allow what one does, also when there come to be more.
func TestLimitsOfReplicas(t *testing.T) {
	clock := time.Now()
	var live atomic.Int64
	live.Store(1)
	var gates []http.Handler
	for range 3 {
		g := gate.New(gate.Options{
			Open: true, Limits: gate.Limits{RequestsPerSecond: 30, Burst: 60}, Now: func() time.Time { return clock },
			Replicas: func() int { return int(live.Load()) },
		})
		gates = append(gates, g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	}
	// flood sends ten times what may come for some seconds, to the first n of them.
	flood := func(n, seconds int) (passed int) {
		for range seconds * 300 {
			clock = clock.Add(time.Second / 300)
			for _, h := range gates[:n] {
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, from(t.Context(), "192.0.2.1:1", nil))
				if rec.Code == http.StatusOK {
					passed++
				}
			}
		}
		return passed
	}
	if n := flood(1, 10); n < 350 || n > 370 {
		t.Errorf("%d requests of one in 10 s, want 360", n)
	}
	live.Store(3)
	if n := flood(3, 10); n < 300 || n > 350 {
		t.Errorf("%d requests of three in 10 s, want some 340", n)
	}
	live.Store(1)
	flood(1, 1)
	if n := flood(1, 10); n < 290 || n > 310 {
		t.Errorf("%d requests of one in 10 s, want 300", n)
	}
}
