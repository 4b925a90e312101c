package admin_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/storage/mem"
)

// Bodies that are not what is wanted, whoever sends them, change nothing.
func TestBadBody(t *testing.T) {
	f := newFixture(t, mem.NewMeta())
	before := f.snapshot()
	user := func(s string) [2]string { return [2]string{"users", s} }
	token := func(s string) [2]string { return [2]string{"tokens", s} }
	for _, tt := range []struct {
		request [2]string
		want    int
	}{
		{user(""), 400},
		{user("null"), 400},
		{user("[]"), 400},
		{user(`"new"`), 400},
		{user("{"), 400},
		{user(`{"name":"new","password":"long enough"`), 400},
		{user(`{"name":"new","password":"long enough"} x`), 400},
		{user(`{"name":"new","password":"long enough"}{}`), 400},
		{user(`{"name":"new","password":"long enough","admin":true}`), 400},
		{user(`{"name":"new","password":"long enough","name":"twice"}`), 400},
		{user(`{"name":"new","password":"long enough","Name":"twice"}`), 400},
		{user(`{"Name":"new","password":"long enough"}`), 400},
		{user("{\"name\":\"new\",\"\u017foo\":1,\"pa\u017f\u017fword\":\"long enough\"}"), 400},
		{user(`{"name":7,"password":"long enough"}`), 400},
		{user(`{"name":["new"],"password":"long enough"}`), 400},
		{user(`{"name":"new","password":{"a":"b"}}`), 400},
		{user(`{"name":"new","password":"long enough","groups":"dev"}`), 400},
		{user(`{"name":"new","password":"long enough","groups":[""]}`), 400},
		{user(`{"name":"new","password":"long enough","groups":["a\nb"]}`), 400},
		{user(`{"name":"new","password":"long enough","robot":"no"}`), 400},
		{user("{\"name\":\"new\",\"password\":\"long\xffenough\"}"), 400},
		{user(`{"name":"new","password":"short"}`), 400},
		{user(`{"name":"new","password":"long\u0000enough"}`), 400},
		{user(`{"name":"new","password":""}`), 400},
		{user(`{"name":"new"}`), 400},
		{user(`{"name":"new","password":"` + strings.Repeat("x", 73) + `"}`), 400},
		{user(`{"name":"new","password":"` + strings.Repeat("x", 64<<10) + `"}`), 413},
		{user(`{"name":"new","robot":true,"password":"long enough"}`), 400},
		{user(`{"name":"alice","password":"long enough"}`), 409},
		{user(strings.Repeat("[", 60_000)), 400},
		{user(strings.Repeat(`{"a":`, 13_000)), 400},
		{token(`{"account":"alice","grants":[{"repos":"a","actions":["pull"]}]}`), 400},
		{token(`{"account":"alice","grants":[{"repos":"a","actions":["pull"]}],"never":true,"expires":"2999-01-01T00:00:00Z"}`), 400},
		{token(`{"account":"alice","grants":[{"repos":"a","actions":["pull"]}],"expires":"2000-01-01T00:00:00Z"}`), 400},
		{token(`{"account":"alice","grants":[{"repos":"a","actions":["pull"]}],"expires":"soon"}`), 400},
		{token(`{"account":"alice","grants":[{"repos":"a","actions":["pull"]}],"expires":7}`), 400},
		{token(`{"account":"alice","grants":[],"never":true}`), 400},
		{token(`{"account":"alice","never":true}`), 400},
		{token(`{"account":"alice","grants":[{"repos":"a","actions":[]}],"never":true}`), 400},
		{token(`{"account":"alice","grants":[{"repos":"a","actions":["pull","all"]}],"never":true}`), 400},
		{token(`{"account":"alice","grants":[{"repos":"a/../b","actions":["pull"]}],"never":true}`), 400},
		{token(`{"account":"alice","grants":[{"repos":"","actions":["pull"]}],"never":true}`), 400},
		{token(`{"account":"alice","grants":[{"repos":"a","actions":["pull"],"source":"x"}],"never":true}`), 400},
		{token(`{"account":"alice","grants":[{"repos":"a","actions":["pull"]}],"never":true,"note":"a\u001b[2Jb"}`), 400},
		{token(`{"account":"alice","grants":[{"repos":"a","actions":["pull"]}],"never":true,"note":"` + strings.Repeat("x", 300) + `"}`), 400},
		{token(`{"account":"ALICE","grants":[{"repos":"a","actions":["pull"]}],"never":true}`), 404},
		{token(`{"account":"alice\u0000","grants":[{"repos":"a","actions":["pull"]}],"never":true}`), 404},
		{[2]string{"signing-keys/rotate", ""}, 400},
		{[2]string{"signing-keys/rotate", `{"now":true}`}, 400},
	} {
		r := request("POST", admin.Prefix+tt.request[0], tt.request[1])
		r.Header.Set("Content-Type", "application/json")
		w := serve(admin.Local(f.handler), r)
		if w.Code != tt.want || strings.Contains(w.Body.String(), "long") {
			t.Errorf("%.80q: %d %s, want %d", tt.request[1], w.Code, w.Body, tt.want)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "a b", "Alice", "a\x00", "a\n", "ü", "-a", strings.Repeat("a", 65), "everyone", "anonymous"} {
		w := serve(admin.Local(f.handler), request("POST", admin.Prefix+"users", fmt.Sprintf(`{"name":%s,"password":"long enough"}`, quote(name))))
		if w.Code != 400 {
			t.Errorf("name %q: %d %s", name, w.Code, w.Body)
		}
	}
	if after := f.snapshot(); after != before {
		t.Errorf("something changed: %s", after)
	}
}

func quote(s string) string {
	var b bytes.Buffer
	for _, r := range s {
		fmt.Fprintf(&b, `\u%04x`, r)
	}
	return `"` + b.String() + `"`
}

// Types under which a page of another site could send a body are refused, and so is
// what a browser says comes from another site.
func TestCrossSite(t *testing.T) {
	f := newFixture(t, mem.NewMeta())
	const body = `{"name":"new","password":"long enough"}`
	for _, tt := range []struct {
		header, value string
		want          int
	}{
		{"Content-Type", "", 415},
		{"Content-Type", "text/plain", 415},
		{"Content-Type", "application/x-www-form-urlencoded", 415},
		{"Content-Type", "text/plain; application/json", 415},
		{"Content-Type", "application/json, text/plain", 415},
		{"Content-Type", "application/json; charset=utf-8", 201},
		{"Sec-Fetch-Site", "cross-site", 403},
		{"Sec-Fetch-Site", "same-site", 403},
		{"Sec-Fetch-Site", "same-origin", 409},
		{"Origin", "https://evil.example", 403},
		{"Origin", "null", 403},
	} {
		r := request("POST", admin.Prefix+"users", body)
		r.Header.Set(tt.header, tt.value)
		if w := serve(admin.Local(f.handler), r); w.Code != tt.want {
			t.Errorf("%s: %s: %d %s, want %d", tt.header, tt.value, w.Code, w.Body, tt.want)
		}
	}
	r := request("DELETE", admin.Prefix+"users/alice", "")
	r.Header.Set("Origin", "https://evil.example")
	if w := serve(admin.Local(f.handler), r); w.Code != 403 {
		t.Errorf("DELETE from elsewhere: %d", w.Code)
	}
}

// Paths that are tricks are no routes, or no accounts; never another's.
func TestBadPath(t *testing.T) {
	f := newFixture(t, mem.NewMeta())
	before := f.snapshot()
	server := httptest.NewServer(admin.Local(f.handler))
	defer server.Close()
	for _, tt := range []struct {
		path string
		want int
	}{
		{"/api/v1/users/", 404},
		{"/api/v1/users//", 404},
		{"/api/v1/users//alice", 404},
		{"/api/v1//users/alice", 404},
		{"/api/v1/users/alice/", 404},
		{"//api/v1/users/alice", 404},
		{"/api/v1/users/.", 404},
		{"/api/v1/users/..", 404},
		{"/api/v1/users/%2e%2e", 404},
		{"/api/v1/users/x/../alice", 404},
		{"/api/v1/users/x%2f..%2falice", 404},
		{"/api/v1/users%2falice", 404},
		{"/api/v1/users/alice%00", 404},
		{"/api/v1/users/%00alice", 404},
		{"/api/v1/users/alice%20", 404},
		{"/api/v1/users/ALICE", 404},
		{"/api/v1/users/%ff", 404},
		{"/api/v1/users/alice;x=y", 404},
		{"/API/v1/users/alice", 404},
		{"/api/v1/users/" + strings.Repeat("a", 8000), 404},
		{"/api/v1/users/alice%zz", 400}, // the server's own
		{"/api/v2/users/alice", 404},
		{"/api/v1/tokens/..", 404},
		{"/api/v1/tokens/" + strings.Repeat("%2e", 100), 404},
		{"/api/v1/users", 405},
		{"/api/v1/whoami", 405},
		{"/", 404},
	} {
		if got := rawStatus(t, server.Listener.Addr().String(), "DELETE "+tt.path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); got != tt.want {
			t.Errorf("DELETE %.80s: %d, want %d", tt.path, got, tt.want)
		}
	}
	if after := f.snapshot(); after != before {
		t.Errorf("something changed: %s", after)
	}
	// An "@" is itself, escaped or not.
	for _, path := range []string{"a@b", "a%40b"} {
		serve(admin.Local(f.handler), request("POST", admin.Prefix+"users", `{"name":"a@b","robot":true}`))
		if w := serve(admin.Local(f.handler), request("DELETE", admin.Prefix+"users/"+path, "")); w.Code != 204 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	for _, query := range []string{"?all=false", "?all=true&all=true", "?all", "?account=", "?account=a&account=b", "?account=a&all=true", "?a=b", "?%zz", "?a;b"} {
		if w := serve(admin.Local(f.handler), request("GET", admin.Prefix+"tokens"+query, "")); w.Code != 400 {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}

// rawStatus sends text as it is, and returns the status of the answer.
func rawStatus(t *testing.T, addr, text string) (status int) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscanf(c, "HTTP/1.1 %d", &status); err != nil {
		t.Fatal(err)
	}
	return status
}

// Of many who make the same account at once, one does.
func TestAtOnce(t *testing.T) {
	for kind, open := range stores {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, open(t))
			c := admin.NewHandlerClient(admin.Local(f.handler))
			var made, removed atomic.Int64
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					if _, err := c.CreateUser(t.Context(), admin.NewUser{Name: "same", Password: "long enough"}); err == nil {
						made.Add(1)
					}
					if c.RemoveUser(t.Context(), "victim") == nil {
						removed.Add(1)
					}
				})
			}
			wg.Wait()
			if made.Load() != 1 || removed.Load() != 1 {
				t.Errorf("made %d times, removed %d times", made.Load(), removed.Load())
			}
		})
	}
}

// A client that does not send its body is given up, also one that may do nothing.
func TestSlowBody(t *testing.T) {
	f := newFixture(t, mem.NewMeta())
	slowBody(t, admin.Local(f.handler), http.StatusRequestTimeout)
	slowBody(t, f.handler, http.StatusUnauthorized)
}

func slowBody(t *testing.T, h http.Handler, want int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		there, here := net.Pipe()
		l := &oneConn{conn: make(chan net.Conn, 1), done: make(chan struct{})}
		l.conn <- there
		server := &http.Server{Handler: h}
		var wg sync.WaitGroup
		wg.Go(func() { _ = server.Serve(l) })
		const head = "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
		if _, err := io.WriteString(here, head); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		var status int
		if _, err := fmt.Fscanf(here, "HTTP/1.1 %d", &status); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); status != want || took > time.Minute {
			t.Errorf("status %d after %v", status, took)
		}
		_ = here.Close()
		_ = server.Close()
		wg.Wait()
	})
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn chan net.Conn
	done chan struct{}
	once sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// A store that fails is told as such, without what it says.
func TestFailure(t *testing.T) {
	meta := mem.NewMeta()
	f := newFixture(t, meta)
	if err := meta.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"users", "tokens?all=true", "users/alice"} {
		w := serve(f.as(&auth.Identity{Account: "root", Source: "ldap"}), request("GET", admin.Prefix+path, ""))
		if w.Code != 503 || strings.Contains(w.Body.String(), "closed") || !strings.Contains(f.log.String(), "closed") {
			t.Errorf("%s: %d %s, log %s", path, w.Code, w.Body, f.log.String())
		}
	}
	w := serve(f.as(&auth.Identity{Account: "root", Source: "ldap"}), request("DELETE", admin.Prefix+"users/alice", ""))
	if e := f.events[len(f.events)-1]; w.Code != 503 || e.Outcome != "failed" || strings.Contains(e.Reason, "closed") {
		t.Errorf("%d %s, %+v", w.Code, w.Body, e)
	}
}

// FuzzRequest sends anything: a request either changes nothing, or was a good one.
func FuzzRequest(f *testing.F) {
	f.Add("POST", "users", `{"name":"new","password":"long enough"}`)
	f.Add("POST", "users", `{"name":"new","name":"old","password":"long enough"}`)
	f.Add("PATCH", "users/alice", `{"groups":["a"],"disabled":null}`)
	f.Add("PUT", "users/alice/password", `{"old":"","password":"long enough"}`)
	f.Add("POST", "tokens", `{"account":"alice","grants":[{"repos":"a/**","actions":["pull"]}],"never":true}`)
	f.Add("DELETE", "users/%2e%2e%2falice", "")
	f.Add("GET", "tokens?account=%00", "")
	fix := newFixture(f, mem.NewMeta())
	h := fix.as(&auth.Identity{Account: "bob", Source: "ldap"})
	f.Fuzz(func(t *testing.T, method, path, body string) {
		r, err := http.NewRequest(method, "http://x"+admin.Prefix+path, strings.NewReader(body))
		if err != nil {
			return // no request
		}
		r.Header.Set("Content-Type", "application/json")
		fix.t = t
		before := fix.snapshot()
		w := serve(h, r)
		if fix.snapshot() != before && (w.Code != 201 || !strings.HasPrefix(path, "tokens")) {
			t.Errorf("%s %q %q: status %d changed something", method, path, body, w.Code)
		}
		if w.Code == 500 {
			t.Errorf("%s %q %q: %s", method, path, body, w.Body)
		}
	})
}
