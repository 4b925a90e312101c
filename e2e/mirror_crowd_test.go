package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// crowd is how many clients pull at once.
const crowd = 64

// TestMirrorCrowd has many clients pull what is not there yet, while one reads nothing
// and others go away in the middle: each of the rest gets all of it, and the upstream
// sends it once.
func TestMirrorCrowd(t *testing.T) {
	t.Parallel()
	for kind, start := range upstreams {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			u := start(t)
			img := u.push("team/crowd", "v1", 6<<20, 3<<20, 1<<20, 10)
			m := startMirror(t, u, "")
			var slow []*openBlob
			for range 4 { // they read the beginning only
				slow = append(slow, m.begin(img.repo, img.blobs[1]))
			}
			for _, s := range slow[:3] {
				s.conn.Close()
			}
			var failed atomic.Int64
			var all sync.WaitGroup
			for range crowd {
				all.Go(func() {
					own := &mirror{m.Server, t, newWire(m.URL)}
					defer own.wire.http.CloseIdleConnections()
					if err := own.pull(img); err != nil {
						failed.Add(1)
						t.Error(err)
					}
				})
			}
			all.Wait()
			if got := u.proxy.Bytes(); got != img.size {
				t.Errorf("the upstream sent %d bytes of blobs of an image of %d", got, img.size)
			}
			counts := map[string]int{}
			for _, r := range u.proxy.Requests() {
				if strings.HasPrefix(r, "GET ") && strings.Contains(r, "/blobs/") {
					counts[r]++
				}
			}
			for r, n := range counts {
				if n > 2 { // an answer of 401 comes before the first
					t.Errorf("the upstream was asked %d times: %s", n, r)
				}
			}
			if n := m.sound(); n != 1+len(img.blobs) {
				t.Errorf("%d blobs and manifests are stored, want %d", n, 1+len(img.blobs))
			}
			if got := slow[3].rest(); got != img.blobs[1] {
				t.Errorf("who was slow got %s, want %s", got, img.blobs[1])
			}
			u.proxy.Do(func(*http.Request) berthtest.Fault { return berthtest.Fault{Status: http.StatusBadGateway} })
			m.mustPull(img)
		})
	}
}

// openBlob is an answer of which the beginning was read.
type openBlob struct {
	t    *testing.T
	conn net.Conn
	res  *http.Response
	read []byte
}

// begin asks for a blob and reads 1000 bytes of it.
func (m *mirror) begin(repo string, d digest.Digest) *openBlob {
	m.t.Helper()
	conn, err := net.Dial("tcp", m.Addr)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	_ = conn.(*net.TCPConn).SetReadBuffer(16 << 10) // so that the server has to wait
	fmt.Fprintf(conn, "GET /v2/far/%s/blobs/%s HTTP/1.1\r\nHost: %s\r\n\r\n", repo, d, m.Addr)
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 1024), nil)
	if err != nil || res.StatusCode != http.StatusOK {
		m.t.Fatalf("begin to pull: %v, %v", res, err)
	}
	o := &openBlob{m.t, conn, res, make([]byte, 1000)}
	if _, err := io.ReadFull(res.Body, o.read); err != nil {
		m.t.Fatal(err)
	}
	return o
}

// rest reads the rest, and returns the digest of all.
func (o *openBlob) rest() digest.Digest {
	o.t.Helper()
	rest, err := io.ReadAll(o.res.Body)
	if err != nil {
		o.t.Errorf("after %d bytes: %v", len(o.read)+len(rest), err)
	}
	return digest.FromBytes(append(o.read, rest...))
}

// TestMirrorKilled kills a mirror in the middle of a transfer: nothing half is there
// afterwards, and the next pull gets all of it.
func TestMirrorKilled(t *testing.T) {
	t.Parallel()
	u := startBasicUpstream(t)
	m := startMirror(t, u, "")
	for round := range 4 {
		img := u.push("team/killed", fmt.Sprint("v", round), 4<<20, 1<<20)
		hold := make(chan struct{})
		var held atomic.Bool
		u.proxy.Do(func(r *http.Request) (f berthtest.Fault) {
			if isBlob(r) && strings.HasSuffix(r.URL.Path, img.blobs[1].String()) && held.CompareAndSwap(false, true) {
				f.Hold = hold
			}
			return f
		})
		a, err := m.wire.do("GET", "/v2/far/"+img.repo+"/manifests/"+img.tag, nil)
		if err := m.right(a, err, img.manifest); err != nil {
			t.Fatal(err)
		}
		o := m.begin(img.repo, img.blobs[1])
		m.Kill()
		if rest, err := io.ReadAll(o.res.Body); err == nil {
			t.Errorf("a client takes %d bytes for all of a blob that was broken off", len(rest)+len(o.read))
		}
		close(hold)
		m.Restart()
		m.sound()
		if a, err := m.wire.do("HEAD", m.URL+"/v2/far/"+img.repo+"/blobs/"+img.blobs[1].String(), nil); err != nil || a.status != http.StatusOK {
			t.Errorf("HEAD of a blob that the upstream has: %v %v", a, err)
		}
		m.mustPull(img)
		if n := m.sound(); n < 1+len(img.blobs) {
			t.Errorf("%d blobs and manifests are stored, want %d at least", n, 1+len(img.blobs))
		}
	}
}

// TestMirrorOutage takes the upstream away: what was pulled once is pulled again, at
// once; what was not is refused clearly. When it is back, what is new there is seen.
func TestMirrorOutage(t *testing.T) {
	t.Parallel()
	for kind, start := range upstreams {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			u := start(t)
			img, other := u.push("team/app", "v1", 100_000, 10), u.push("team/other", "v1", 10)
			m := startMirror(t, u, "")
			m.mustPull(img)
			for i, f := range []berthtest.Fault{
				{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"3"}}},
				{Status: http.StatusServiceUnavailable},
				{Status: http.StatusForbidden},
			} {
				u.proxy.Do(func(*http.Request) berthtest.Fault { return f })
				for range 5 {
					m.mustPull(img)
				}
				err := m.pull(other)
				if err == nil || strings.Contains(err.Error(), u.proxy.Addr+"/") {
					t.Errorf("%d: a pull of what is not there: %v", f.Status, err)
				}
				if i == 0 { // nobody has told the mirror anything else yet
					a := must(m.wire.do("GET", "/v2/far/team/other/manifests/v1", nil))(t)
					if a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" {
						t.Errorf("limited: %s, Retry-After %q", a, a.header.Get("Retry-After"))
					}
				}
			}
			u.proxy.Do(nil)
			moved := u.push("team/app", "v1", 2000)
			waitFor(t, "new image", func() bool {
				a, err := m.wire.do("HEAD", "/v2/far/team/app/manifests/v1", nil)
				return err == nil && a.header.Get("Docker-Content-Digest") == moved.manifest.String()
			})
			m.mustPull(moved)
		})
	}
}

// TestMirrorCrowdFails has many clients wait for the same bytes, which turn out to be
// wrong, or do not come to their end: all of them are told so, and none takes what it
// got for all.
func TestMirrorCrowdFails(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]berthtest.Fault{"wrong": {Wrong: true}, "cut": {Cut: 300_000}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := startBasicUpstream(t)
			img := u.push("team/crowd", "v1", 400_000)
			m := startMirror(t, u, "")
			hold := make(chan struct{})
			f.Hold = hold
			var failing atomic.Bool
			failing.Store(true)
			u.proxy.Do(func(r *http.Request) (none berthtest.Fault) {
				if !isBlob(r) || !strings.HasSuffix(r.URL.Path, img.blobs[1].String()) || !failing.Load() {
					return none
				}
				if r.Header.Get("Range") != "" { // nor does it go on
					return berthtest.Fault{Status: http.StatusServiceUnavailable}
				}
				return f
			})
			var clients []*openBlob
			for range crowd / 4 { // all have begun before it fails
				clients = append(clients, m.begin(img.repo, img.blobs[1]))
			}
			close(hold)
			var all sync.WaitGroup
			for _, c := range clients {
				all.Go(func() {
					if rest, err := io.ReadAll(c.res.Body); err == nil {
						t.Errorf("a client takes %d bytes for all of a blob", len(rest)+len(c.read))
					}
				})
			}
			all.Wait()
			m.sound()
			failing.Store(false)
			waitFor(t, "image when the fault is over", func() bool { return m.pull(img) == nil })
		})
	}
}
