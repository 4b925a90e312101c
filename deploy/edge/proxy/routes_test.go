package proxy

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/deploy"
)

type upstream = deploy.Upstream

func TestPlaces(t *testing.T) {
	t.Parallel()
	names := []string{"exact", "api", "deep", "wild", "other"}
	b := map[string]*backend{}
	for _, n := range names {
		b[n] = newBackend(t, n)
	}
	with := func(name, host, path string, strip bool) edgeRoute {
		r := routeTo(host, b[name].upstream(1))
		r.Service, r.StripTo = name, strip
		if path != "" {
			r.Paths = []string{path}
		}
		return r
	}
	set(t, "stack/places",
		with("exact", "Places.Test", "", false), with("api", "places.test", "/api", false),
		with("deep", "places.test", "/api/deep/", true), with("wild", "*.places.test", "/", false))
	c := client(t, true)
	for url, want := range map[string]string{
		"http://places.test/":               "200 exact /",
		"http://PLACES.test:8080/x?y=z":     "200 exact /x?y=z",
		"http://places.test./apix":          "200 exact /apix",
		"http://places.test/api":            "200 api /api",
		"http://places.test/api/x":          "200 api /api/x",
		"http://places.test/api/deep":       "200 deep /",
		"http://places.test/api/deep/a%2Fb": "200 deep /a%2Fb",
		"http://places.test/api/deep//x":    "200 deep //x",
		"http://a.places.test/y":            "200 wild /y",
		"http://a.b.places.test/":           "404 404 Not Found: nothing is served here under this name\n",
		"http://nobody.test/":               "404 404 Not Found: nothing is served here under this name\n",
	} {
		status, body := fetch(t, c, url)
		if got := fmt.Sprint(status, " ", body); got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
	}
}

func TestConflict(t *testing.T) {
	t.Parallel()
	p := open(t)
	b := newBackend(t, "b")
	set(t, "stack/one", routeTo("conflict.test", b.upstream(1)))
	r := routeTo("other.conflict.test", b.upstream(1))
	r.Hosts = append(r.Hosts, "CONFLICT.test")
	r.Service, r.Paths = "shop", []string{"/a", "/"}
	err := p.Set("stack/two", []edgeRoute{r})
	if !isConflict(err) || err.Error() != "conflict.test / is asked for by service shop of stack/two, and service web of stack/one has it" {
		t.Errorf("a place of another's: %v", err)
	}
	if status, _ := fetch(t, client(t, false), "http://other.conflict.test/a"); status != http.StatusNotFound {
		t.Errorf("what was refused answers %d", status)
	}
	r.Paths = []string{"/a"}
	set(t, "stack/two", r)
	if err := p.Set("stack/one", []edgeRoute{routeTo("conflict.test", b.upstream(1)), routeTo("conflict.test")}); !isConflict(err) {
		t.Errorf("the same place twice: %v", err)
	}
	for what, change := range map[string]func(*edgeRoute){
		"a host with a port":     func(r *edgeRoute) { r.Hosts = []string{"x.test:80"} },
		"a wildcard in between":  func(r *edgeRoute) { r.Hosts = []string{"a.*.test"} },
		"no path":                func(r *edgeRoute) { r.Paths = []string{"api"} },
		"an escaped path":        func(r *edgeRoute) { r.Paths = []string{"/a%20b"} },
		"no cookie":              func(r *edgeRoute) { r.Sticky = "a b" },
		"less than nothing":      func(r *edgeRoute) { r.MaxBody = -1 },
		"a replica twice":        func(r *edgeRoute) { r.Upstreams = append(r.Upstreams, r.Upstreams[0]) },
		"a replica nowhere":      func(r *edgeRoute) { r.Upstreams[0].Addr = upstream{}.Addr },
		"another mode":           func(r *edgeRoute) { r.TLS = "on" },
		"a public wildcard":      func(r *edgeRoute) { r.Hosts, r.TLS = []string{"*.example.com"}, deploy.TLSAuto },
		"a public address":       func(r *edgeRoute) { r.Hosts, r.TLS = []string{"192.0.2.1"}, deploy.TLSAuto },
		"a public name of here":  func(r *edgeRoute) { r.Hosts, r.TLS = []string{"localhost"}, deploy.TLSAuto },
		"TLS without any host":   func(r *edgeRoute) { r.Hosts, r.TLS = nil, deploy.TLSInternal },
		"a host that is no host": func(r *edgeRoute) { r.Hosts = []string{strings.Repeat("a.", 127) + "test"} },
	} {
		r := routeTo("bad.test", b.upstream(1))
		change(&r)
		if err := p.Set("stack/bad", []edgeRoute{r}); !isInvalid(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestForwarded(t *testing.T) {
	t.Parallel()
	const host = "forwarded.test"
	b := newBackend(t, "b")
	set(t, "stack/forwarded", routeTo(host, b.upstream(1)))
	get := func(from string) string {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		open(t)
		c, err := d.Dial("tcp", front.http)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /headers HTTP/1.1\r\nHost: %s\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\nConnection: close\r\n\r\n", host)
		text, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for from, want := range map[string][]string{
		"127.0.0.1": {"X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-Proto: http\r\n"},
		"127.0.0.2": {"X-Forwarded-For: 192.0.2.7, 127.0.0.2\r\n", "X-Forwarded-Proto: https\r\n"},
	} {
		got := get(from)
		for _, line := range append(want, "X-Forwarded-Host: "+host+"\r\n") {
			if !strings.Contains(got, line) {
				t.Errorf("from %s, not there: %s in %s", from, line, got)
			}
		}
		if trusts := strings.Contains(got, "/evil"); trusts != (from == "127.0.0.2") || strings.Contains(got, "Server: ") {
			t.Errorf("from %s, too much: %s", from, got)
		}
	}
}

func TestBodiesAndCompression(t *testing.T) {
	t.Parallel()
	const host, most = "bodies.test", 1000
	b := newBackend(t, "b")
	r := routeTo(host, b.upstream(1))
	r.MaxBody, r.Compress = most, true
	set(t, "stack/bodies", r)
	c := client(t, false)
	// What is larger is read all the same by net/http, up to 256 KiB: the client gets to
	// read the answer.
	for size, want := range map[int]int{most: http.StatusOK, most + 1: http.StatusRequestEntityTooLarge, 200_000: http.StatusRequestEntityTooLarge} {
		for _, chunked := range []bool{false, true} {
			var body io.Reader = strings.NewReader(strings.Repeat("x", size))
			if chunked {
				body = io.MultiReader(body)
			}
			resp, err := c.Post("http://"+host+"/form", "text/plain", body)
			if err != nil {
				t.Errorf("%d bytes, chunked %t: %v", size, chunked, err)
				continue
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%d bytes, chunked %t: %d", size, chunked, resp.StatusCode)
			}
		}
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+host+"/text", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	z, err := gzip.NewReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(z); err != nil || len(text) != 5000 {
		t.Errorf("compressed: %d bytes, %v", len(text), err)
	}
}

// TestSlow: clients that stall are cut off, those that are slow are not.
func TestSlow(t *testing.T) {
	t.Parallel()
	const host = "slow.test"
	b := newBackend(t, "b")
	p := open(t)
	set(t, "stack/slow", routeTo(host, b.upstream(1)))
	for what, text := range map[string]string{
		"half a header":  "GET / HTTP/1.1\r\nHost: " + host + "\r\nX-A: ",
		"half a body":    "POST /form HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 100\r\n\r\nhalf",
		"half a preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n",
		"nothing":        "",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", front.http)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
			if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); os.IsTimeout(err) {
				t.Errorf("it is still connected: %s", got)
			}
		})
	}
	t.Run("slow", func(t *testing.T) {
		t.Parallel()
		c, err := net.Dial("tcp", front.http)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST /form HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: 10\r\n\r\n", host)
		for range 10 {
			fmt.Fprint(c, "x")
			time.Sleep(testLimits.stall / 5) // slower than the whole may stall
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%v, %v", resp, err)
		}
	})
	_ = p
}

func TestHugeHeader(t *testing.T) {
	t.Parallel()
	const host = "huge.test"
	set(t, "stack/huge", routeTo(host, newBackend(t, "b").upstream(1)))
	c := client(t, false)
	for size, want := range map[int]int{32 << 10: http.StatusOK, 1 << 20: http.StatusRequestHeaderFieldsTooLarge} {
		req, err := http.NewRequest(http.MethodGet, "http://"+host+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Cookie", strings.Repeat("x", size))
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%d bytes: %d", size, resp.StatusCode)
		}
	}
}

// TestFiles: all that the edge writes is in its directory, and nothing of Caddy's that
// would tell somebody else of it.
func TestFiles(t *testing.T) {
	t.Parallel()
	set(t, "stack/files", routeTo("files.test", newBackend(t, "b").upstream(1)))
	fetch(t, client(t, false), "http://files.test/")
	for _, name := range []string{"routes.json", "edge.log", "access.log", "pki/authorities/local/root.crt"} {
		if _, err := os.Stat(filepath.Join(front.dir, name)); err != nil {
			t.Error(err)
		}
	}
	if found, err := filepath.Glob(filepath.Join(front.dir, "*uuid*")); err != nil || len(found) > 0 {
		t.Errorf("%q, %v", found, err)
	}
	eventually(t, "the request is in the log", func() bool {
		text, err := os.ReadFile(filepath.Join(front.dir, "access.log"))
		return err == nil && logsAs(string(text), `"host":"files.test"`, `"owner":"stack/files"`, `"service":"web"`, `"container":"TestFiles/b"`)
	})
}

// logsAs says whether there is a line with all of some texts.
func logsAs(log string, texts ...string) bool {
	for line := range strings.Lines(log) {
		if !slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(line, s) }) {
			return true
		}
	}
	return false
}
