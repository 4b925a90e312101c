package e2e

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestMirrorFaults pulls through a mirror whose upstream, or the way to it, has each
// fault, once or always: no client gets wrong bytes in a complete answer, nothing wrong
// is stored, and when the fault is over the image comes.
func TestMirrorFaults(t *testing.T) {
	t.Parallel()
	faults := map[string]struct {
		fault berthtest.Fault
		fatal bool // nothing comes while it lasts
	}{
		"slow":       {berthtest.Fault{Delay: 300 * time.Millisecond}, false},
		"cut":        {berthtest.Fault{Cut: 100_000}, true},
		"cut late":   {berthtest.Fault{Cut: 299_999}, true},
		"limited":    {berthtest.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}}, true},
		"broken":     {berthtest.Fault{Status: http.StatusInternalServerError}, true},
		"wrong":      {berthtest.Fault{Wrong: true}, true},
		"truncated":  {berthtest.Fault{Short: 1}, true},
		"endless":    {berthtest.Fault{Endless: true}, true},
		"redirected": {berthtest.Fault{Redirect: true}, false},
	}
	for kind, start := range upstreams {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for name, f := range faults {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					u := start(t)
					t.Run("once", func(t *testing.T) { faultOnce(t, u, f.fault) })
					t.Run("always", func(t *testing.T) { faultAlways(t, u, f.fault, f.fatal) })
					for _, h := range u.proxy.Foreign() {
						if h.Get("Authorization") != "" || h.Get("Cookie") != "" {
							t.Errorf("another host was sent %v", h)
						}
					}
					if got := len(u.proxy.Foreign()) > 0; got != f.fault.Redirect {
						t.Errorf("another host was asked: %v", got)
					}
				})
			}
		})
	}
}

func faultOnce(t *testing.T, u *upstream, f berthtest.Fault) {
	img := u.push("team/once", "v1", 300_000, 1000)
	m := startMirror(t, u, "")
	var done atomic.Bool
	u.proxy.Do(func(r *http.Request) (none berthtest.Fault) {
		if isBlob(r) && strings.HasSuffix(r.URL.Path, img.blobs[1].String()) && done.CompareAndSwap(false, true) {
			return f
		}
		return none
	})
	waitFor(t, "an image after a fault", func() bool { return m.pull(img) == nil })
	if !done.Load() {
		t.Error("nothing has gone wrong")
	}
	u.proxy.Do(nil)
	if n := m.sound(); n != 1+len(img.blobs) {
		t.Errorf("%d blobs and manifests are stored, want %d", n, 1+len(img.blobs))
	}
}

func faultAlways(t *testing.T, u *upstream, f berthtest.Fault, fatal bool) {
	img := u.push("team/always", "v1", 300_000)
	m := startMirror(t, u, "")
	layer := img.blobs[1]
	var failing atomic.Bool
	failing.Store(true)
	u.proxy.Do(func(r *http.Request) (none berthtest.Fault) {
		// What goes on behind a cut is cut there, too.
		if isBlob(r) && strings.HasSuffix(r.URL.Path, layer.String()) && failing.Load() {
			f := f
			if r.Header.Get("Range") != "" && f.Cut > 0 {
				f = berthtest.Fault{Status: http.StatusServiceUnavailable}
			}
			return f
		}
		return none
	})
	for range 2 {
		if err := m.pull(img); (err != nil) != fatal {
			t.Fatalf("a pull while it lasts: %v", err)
		}
	}
	want := 3
	if fatal {
		want--
	}
	if n := m.sound(); n != want {
		t.Errorf("%d blobs and manifests are stored while it lasts, want %d", n, want)
	}
	failing.Store(false)
	waitFor(t, "an image when the fault is over", func() bool { return m.pull(img) == nil })
	u.proxy.Do(nil)
	m.sound()
}
