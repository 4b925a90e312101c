package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// site is a server over HTTP and what it recorded.
type site struct {
	t       *testing.T
	url     string
	records chan registry.Record
}

func newSite(t *testing.T, r registry.Registry, o registry.ServerOptions) *site {
	t.Helper()
	s := &site{t: t, records: make(chan registry.Record, 1000)}
	o.Observe = func(_ context.Context, rec registry.Record) { s.records <- rec }
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	server := httptest.NewServer(registry.NewServer(r, o))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// do sends a request; headers are name, value, name, value.
func (s *site) do(method, path string, body io.Reader, headers ...string) (*http.Response, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, data
}

// push stores a blob and an image of it, and returns their digests.
func (s *site) push(repo, tag string, blob []byte) (blobDigest, manifestDigest digest.Digest) {
	s.t.Helper()
	d := digest.FromBytes(blob)
	resp, data := s.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+string(d), bytes.NewReader(blob))
	if resp.StatusCode != http.StatusCreated {
		s.t.Fatalf("push a blob: %s %s", resp.Status, data)
	}
	m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x/y","digest":%q,"size":%d},"layers":[]}`,
		ocispec.MediaTypeImageManifest, d, len(blob))
	resp, data = s.do("PUT", "/v2/"+repo+"/manifests/"+tag, bytes.NewReader(m), "Content-Type", ocispec.MediaTypeImageManifest)
	if resp.StatusCode != http.StatusCreated {
		s.t.Fatalf("push a manifest: %s %s", resp.Status, data)
	}
	return d, digest.FromBytes(m)
}

func code(data []byte) string {
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(data, &body) != nil || len(body.Errors) != 1 || body.Errors[0].Message == "" {
		return "no error body: " + string(data)
	}
	return body.Errors[0].Code
}

func TestServerBlob(t *testing.T) {
	s := newSite(t, newLocal(t, mem.NewBlobs(), mem.NewMeta()), registry.ServerOptions{})
	blob := []byte("0123456789")
	d, _ := s.push("a", "x", blob)
	path := "/v2/a/blobs/" + string(d)
	etag := `"` + string(d) + `"`
	for _, c := range []struct {
		name    string
		headers []string
		status  int
		body    string
		header  string // name: value
	}{
		{"all", nil, 200, "0123456789", "Content-Type: application/octet-stream"},
		{"digest", nil, 200, "0123456789", "Docker-Content-Digest: " + string(d)},
		{"etag", nil, 200, "0123456789", "Etag: " + etag},
		{"part", []string{"Range", "bytes=2-4"}, 206, "234", "Content-Range: bytes 2-4/10"},
		{"end", []string{"Range", "bytes=-2"}, 206, "89", "Content-Range: bytes 8-9/10"},
		{"outside", []string{"Range", "bytes=10-"}, 416, "", "Content-Range: bytes */10"},
		{"several parts", []string{"Range", "bytes=0-1,3-4"}, 200, "0123456789", ""},
		{"if-range that holds", []string{"Range", "bytes=2-4", "If-Range", etag}, 206, "234", ""},
		{"if-range that does not", []string{"Range", "bytes=2-4", "If-Range", `"other"`}, 200, "0123456789", ""},
		{"has it", []string{"If-None-Match", etag}, 304, "", "Etag: " + etag},
		{"has it, weakly", []string{"If-None-Match", `"x", W/` + etag}, 304, "", ""},
		{"has any", []string{"If-None-Match", "*"}, 304, "", ""},
		{"has another", []string{"If-None-Match", `"x"`}, 200, "0123456789", ""},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			resp, data := s.do(method, path, nil, c.headers...)
			if resp.StatusCode != c.status {
				t.Errorf("%s %s: %s, want %d", method, c.name, resp.Status, c.status)
			}
			switch {
			case method == "HEAD" && len(data) > 0:
				t.Errorf("HEAD %s has a body: %q", c.name, data)
			case method == "GET" && c.status < 300 && string(data) != c.body:
				t.Errorf("GET %s: %q, want %q", c.name, data, c.body)
			case method == "GET" && c.status == 416 && code(data) != "UNSUPPORTED":
				t.Errorf("GET %s: %s", c.name, code(data))
			case c.status < 300 && resp.ContentLength != int64(len(c.body)):
				t.Errorf("%s %s: Content-Length %d, want %d", method, c.name, resp.ContentLength, len(c.body))
			}
			if name, value, ok := strings.Cut(c.header, ": "); ok && resp.Header.Get(name) != value {
				t.Errorf("%s %s: %s is %q, want %q", method, c.name, name, resp.Header.Get(name), value)
			}
		}
	}
}

func TestServerAccept(t *testing.T) {
	s := newSite(t, newLocal(t, mem.NewBlobs(), mem.NewMeta()), registry.ServerOptions{})
	_, d := s.push("a", "x", []byte("{}"))
	for accept, want := range map[string]int{
		"": 200, "*/*": 200, "application/*": 200, ocispec.MediaTypeImageManifest: 200, "text/html, */*;q=0.1": 200,
		"text/html, " + ocispec.MediaTypeImageManifest + ";q=0.5": 200,
		"text/html": 404, ocispec.MediaTypeImageIndex: 404, "*/*;q=0": 404,
	} {
		headers := []string{"Accept", accept}
		if accept == "" {
			headers = nil
		}
		for _, ref := range []string{"x", string(d)} {
			resp, data := s.do("GET", "/v2/a/manifests/"+ref, nil, headers...)
			if resp.StatusCode != want || want == 404 && code(data) != "MANIFEST_UNKNOWN" {
				t.Errorf("Accept %q: %s %s, want %d", accept, resp.Status, data, want)
			}
		}
	}
}

func TestServerPages(t *testing.T) {
	s := newSite(t, newLocal(t, mem.NewBlobs(), mem.NewMeta()), registry.ServerOptions{})
	for i := range 5 {
		s.push("a", fmt.Sprintf("t%d", i), []byte("{}"))
		s.push(fmt.Sprintf("r%d", i), "x", []byte("{}"))
	}
	follow := func(path string) (pages []string) {
		for path != "" {
			resp, data := s.do("GET", path, nil)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("GET %s: %s %s", path, resp.Status, data)
			}
			pages = append(pages, string(data))
			link := resp.Header.Get("Link")
			path, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
		}
		return pages
	}
	for path, want := range map[string]string{
		"/v2/a/tags/list?n=2":         `{"name":"a","tags":["t0","t1"]} {"name":"a","tags":["t2","t3"]} {"name":"a","tags":["t4"]}`,
		"/v2/a/tags/list?n=5":         `{"name":"a","tags":["t0","t1","t2","t3","t4"]}`,
		"/v2/a/tags/list?n=0":         `{"name":"a","tags":[]}`,
		"/v2/a/tags/list?last=t3":     `{"name":"a","tags":["t4"]}`,
		"/v2/a/tags/list?last=zz":     `{"name":"a","tags":[]}`,
		"/v2/_catalog?n=4":            `{"repositories":["a","r0","r1","r2"]} {"repositories":["r3","r4"]}`,
		"/v2/_catalog?last=r3&n=1000": `{"repositories":["r4"]}`,
	} {
		if got := strings.Join(follow(path), " "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", path, got, want)
		}
	}
}

func TestServerErrors(t *testing.T) {
	s := newSite(t, newLocal(t, mem.NewBlobs(), mem.NewMeta()), registry.ServerOptions{})
	d, _ := s.push("a", "x", []byte("{}"))
	unknown := string(digest.FromString("unknown"))
	for _, c := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"GET", "/", "", 404, "UNSUPPORTED"},
		{"POST", "/v2/", "", 405, "UNSUPPORTED"},
		{"GET", "/v2/A/tags/list", "", 400, "NAME_INVALID"},
		{"GET", "/v2/b/tags/list", "", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/a/blobs/" + unknown, "", 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/b/blobs/" + string(d), "", 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/a/manifests/y", "", 404, "MANIFEST_UNKNOWN"},
		{"DELETE", "/v2/a/blobs/" + string(d), "", 405, "DENIED"},
		{"PUT", "/v2/a/manifests/x", "{", 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/a/manifests/" + unknown, "{}", 400, "DIGEST_INVALID"},
		{"PUT", "/v2/a/manifests/x", strings.Repeat(" ", registry.MaxManifest+1), 413, "MANIFEST_INVALID"},
		{"POST", "/v2/a/blobs/uploads/?digest=" + unknown, "x", 400, "DIGEST_INVALID"},
		{"PATCH", "/v2/a/blobs/uploads/nonsense", "x", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"PUT", "/v2/a/blobs/uploads/nonsense?digest=" + unknown, "x", 404, "BLOB_UPLOAD_UNKNOWN"},
	} {
		resp, data := s.do(c.method, c.path, strings.NewReader(c.body))
		if resp.StatusCode != c.status || code(data) != c.code || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %s %s, want %d %s", c.method, c.path, resp.Status, data, c.status, c.code)
		}
	}
}

// What the store says in its errors is for the log, not for clients.
func TestServerStoreErrors(t *testing.T) {
	meta := &failing{Meta: mem.NewMeta()}
	s := newSite(t, newLocal(t, mem.NewBlobs(), meta), registry.ServerOptions{})
	for err, want := range map[error]int{
		fmt.Errorf("%w: write /secret/path", storage.ErrNoSpace):  507,
		fmt.Errorf("%w: write /secret/path", storage.ErrReadOnly): 503,
		errors.New("write /secret/path: input/output error"):      503,
	} {
		meta.err.Store(&err)
		resp, data := s.do("POST", "/v2/a/blobs/uploads/?digest="+string(digest.FromString("x")), strings.NewReader("x"))
		if resp.StatusCode != want || code(data) != "UNAVAILABLE" || bytes.Contains(data, []byte("secret")) {
			t.Errorf("%v: %s %s, want %d", err, resp.Status, data, want)
		}
	}
	meta.err.Store(nil)
	s.push("a", "x", []byte("{}"))
}

type failing struct {
	storage.Meta
	err atomic.Pointer[error]
}

func (f *failing) Update(ctx context.Context, fn func(storage.Tx) error) error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return f.Meta.Update(ctx, fn)
}

// A client that sends its body too slowly gets 408 and loses its connection; it
// does not get more time by sending a byte now and then.
func TestServerSlowBody(t *testing.T) {
	s := newSite(t, newLocal(t, mem.NewBlobs(), mem.NewMeta()), registry.ServerOptions{BodyTimeout: 200 * time.Millisecond})
	r, w := io.Pipe()
	go func() {
		for i := 0; ; i++ {
			if _, err := w.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond) // the client is slow; nothing waits for this
		}
	}()
	resp, data := s.do("POST", "/v2/a/blobs/uploads/?digest="+string(digest.FromString("x")), r)
	_ = r.Close()
	if resp.StatusCode != http.StatusRequestTimeout || !resp.Close {
		t.Errorf("%s %s, close %v", resp.Status, data, resp.Close)
	}
}

func TestServerRecord(t *testing.T) {
	s := newSite(t, newLocal(t, mem.NewBlobs(), mem.NewMeta()), registry.ServerOptions{})
	d, _ := s.push("a/b", "x", []byte("12345"))
	<-s.records
	<-s.records
	resp, _ := s.do("GET", "/v2/a/b/blobs/"+string(d), nil, "X-Request-Id", "my-id")
	r := <-s.records
	if r.ID != "my-id" || resp.Header.Get("X-Request-Id") != "my-id" || r.Client != "127.0.0.1" || r.Repo != "a/b" ||
		r.Action != "pull" || r.Route != "blob" || r.Status != 200 || r.Out != 5 || r.Duration <= 0 || r.Err != nil {
		t.Errorf("%+v", r)
	}
	resp, _ = s.do("GET", "/v2/a/b/blobs/"+string(digest.FromString("no")), nil, "X-Request-Id", "forged\tid")
	if r := <-s.records; r.Status != 404 || !errors.Is(r.Err, registry.ErrBlobUnknown) || r.ID == "" || resp.Header.Get("X-Request-Id") != r.ID || strings.Contains(r.ID, "forged") {
		t.Errorf("%+v", r)
	}
}
