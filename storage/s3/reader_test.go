package s3

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// pieces answers n bytes of what it should, and breaks off.
func pieces(n int) fault {
	return func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		rec := httptest.NewRecorder()
		forward.ServeHTTP(rec, r)
		maps.Copy(w.Header(), rec.Header())
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes()[:min(n, rec.Body.Len())])
		_ = http.NewResponseController(w).Flush()
		if rec.Body.Len() > n {
			cut(w)
		}
	}
}

// TestReadInPieces reads a blob over connections that break off all the time.
func TestReadInPieces(t *testing.T) {
	s := berthtest.StartS3(t)
	p := newProxy(t, s)
	o := options(t, s)
	o.Endpoint = p.URL
	b := open(t, o)
	data := noise(1_000_000, 1)
	d := mustStore(t, b, data)
	p.set(always(pieces(70_000)))
	checkBlob(t, b, d, data)
	ranges, matched := 0, 0
	for i := range p.requests() {
		if p.heads[i].Get("Range") != "" {
			ranges++
			if p.heads[i].Get("If-Match") != "" {
				matched++
			}
		}
	}
	if ranges < 10 || matched != ranges {
		t.Errorf("it took %d requests for the rest, %d of them with If-Match", ranges, matched)
	}
	p.set(always(pieces(0)))
	r, err := b.Open(t.Context(), d)
	must(t, "Open", err)
	if n, err := io.Copy(io.Discard, r); err == nil || n > 0 {
		t.Errorf("from answers without a body %d bytes were read, %v", n, err)
	}
	_ = r.Close()
}

// TestReplacedWhileRead replaces a blob while it is read.
func TestReplacedWhileRead(t *testing.T) {
	s := berthtest.StartS3(t)
	p := newProxy(t, s)
	o := options(t, s)
	o.Endpoint = p.URL
	b := open(t, o)
	data := noise(minPart+1000, 1)
	d := mustStore(t, b, data)
	for _, c := range []struct {
		with []byte
		ok   bool
	}{
		{data, true},       // by the same bytes, at once now: another ETag
		{data[1:], false},  // by others
		{[]byte{}, false},  // by none
		{nil, false},       // it is removed
		{data[:10], false}, // and stored again, shorter
	} {
		mustStore(t, b, data)
		p.set(func(r *http.Request) fault {
			if r.Method == http.MethodGet {
				return pieces(1000)
			}
			return nil
		})
		r, err := b.Open(t.Context(), d)
		must(t, "Open", err)
		head := make([]byte, 500)
		_, err = io.ReadFull(r, head)
		must(t, "read", err)
		p.set(nil)
		if c.with == nil {
			must(t, "Delete", b.Delete(t.Context(), d))
		} else {
			buf := buffer{}
			_, _ = buf.Write(c.with)
			must(t, "put", b.put(t.Context(), b.key(d), &buf))
		}
		rest, err := io.ReadAll(r)
		_ = r.Close()
		if got := append(head, rest...); (err == nil) != c.ok || c.ok && !bytes.Equal(got, data) {
			t.Errorf("replaced by %d bytes, it reads as %d, %v", len(c.with), len(got), err)
		}
	}
}

// TestSlowReader checks that a client that is slow to take a blob is not taken for a
// server that is slow to give it.
func TestSlowReader(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	b := open(t, o)
	data := noise(20<<20, 1)
	d := mustStore(t, b, data)
	p := newProxy(t, s)
	o.Endpoint, o.Timeout = p.URL, 200*time.Millisecond
	b = open(t, o)
	p.set(nil)
	r, err := b.Open(t.Context(), d)
	must(t, "Open", err)
	defer func() { _ = r.Close() }()
	head := make([]byte, 1000)
	_, err = io.ReadFull(r, head)
	must(t, "read", err)
	time.Sleep(3 * o.Timeout)
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(append(head, rest...), data) {
		t.Errorf("it reads as %d bytes, %v", len(head)+len(rest), err)
	}
	if got := p.requests(); len(got) != 1 {
		t.Errorf("it was asked for by the requests %q", got)
	}
}

// TestServer has a registry answer from S3: by a redirect, unless the client asks
// otherwise.
func TestServer(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	o.Redirect = true
	b := open(t, o)
	local, err := registry.NewLocal(t.Context(), b, o.Meta, registry.Options{})
	must(t, "NewLocal", err)
	defer local.Close()
	server := httptest.NewServer(registry.NewServer(local, registry.ServerOptions{}))
	defer server.Close()
	data := noise(minPart+1000, 1)
	d := digest.FromBytes(data)
	if _, err := local.PushBlob(t.Context(), "repo", d, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{}
	ask := func(method string, follow bool, headers ...string) (*http.Response, string) {
		t.Helper()
		client.CheckRedirect = nil
		if !follow {
			client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		}
		q, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/v2/repo/blobs/"+string(d), nil)
		must(t, "NewRequest", err)
		for i := 0; i < len(headers); i += 2 {
			q.Header.Set(headers[i], headers[i+1])
		}
		res, err := client.Do(q)
		must(t, method, err)
		body, err := io.ReadAll(res.Body)
		must(t, method, errors.Join(err, res.Body.Close()))
		return res, string(body)
	}
	res, body := ask(http.MethodGet, false)
	if res.StatusCode != http.StatusTemporaryRedirect || body != "" || !strings.HasPrefix(res.Header.Get("Location"), s.Endpoint) ||
		res.Header.Get("Docker-Content-Digest") != string(d) || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("GET: %d, %d bytes, %v", res.StatusCode, len(body), res.Header)
	}
	for _, c := range []struct {
		method  string
		follow  bool
		headers []string
		status  int
		body    string
	}{
		{http.MethodGet, true, nil, http.StatusOK, string(data)},
		{http.MethodGet, true, []string{"Range", "bytes=5-14"}, http.StatusPartialContent, string(data[5:15])},
		{http.MethodGet, false, []string{"Berth-Redirect", "no"}, http.StatusOK, string(data)},
		{http.MethodGet, false, []string{"Berth-Redirect", "no", "Range", "bytes=5-14"}, http.StatusPartialContent, string(data[5:15])},
		{http.MethodGet, false, []string{"If-None-Match", `"` + string(d) + `"`}, http.StatusNotModified, ""},
		{http.MethodHead, false, nil, http.StatusOK, ""},
	} {
		if res, body := ask(c.method, c.follow, c.headers...); res.StatusCode != c.status || body != c.body {
			t.Errorf("%s %q: %d, %d bytes", c.method, c.headers, res.StatusCode, len(body))
		}
	}
}

// TestSessions pushes by the sessions of a registry, one replica after the other: in
// chunks, and with the digest known.
func TestSessions(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	o.Meta = mem.NewMeta()
	replica := func() *registry.Local {
		local, err := registry.NewLocal(t.Context(), open(t, o), o.Meta, registry.Options{})
		must(t, "NewLocal", err)
		t.Cleanup(local.Close)
		return local
	}
	data := noise(3*minPart+1000, 1)
	d := digest.FromBytes(data)
	id, err := replica().StartUpload(t.Context(), "repo", digest.SHA256)
	must(t, "StartUpload", err)
	for off := 0; off < len(data); {
		end := min(len(data), off+minPart*2/3)
		size, err := replica().WriteUpload(t.Context(), "repo", id, registry.Chunk{}, bytes.NewReader(data[off:end]))
		if err != nil || size != int64(end) {
			t.Fatalf("WriteUpload at %d: %d, %v", off, size, err)
		}
		off = end
	}
	_, err = replica().CommitUpload(t.Context(), "repo", id, registry.Chunk{}, bytes.NewReader(nil), d)
	must(t, "CommitUpload", err)
	b := open(t, o)
	checkBlob(t, b, d, data)

	other := noise(2*minPart, 2)
	d = digest.FromBytes(other)
	id, err = replica().StartUpload(t.Context(), "repo", digest.SHA256)
	must(t, "StartUpload", err)
	broken := io.MultiReader(bytes.NewReader(other[:minPart+500]), gone{})
	if _, err := replica().CommitUpload(t.Context(), "repo", id, registry.Chunk{}, broken, d); err == nil {
		t.Fatal("half a blob is committed")
	}
	size, err := replica().UploadSize(t.Context(), "repo", id)
	if err != nil || size != minPart+500 {
		t.Fatalf("UploadSize = %d, %v", size, err)
	}
	_, err = replica().CommitUpload(t.Context(), "repo", id, registry.Chunk{}, bytes.NewReader(other[size:]), d)
	must(t, "CommitUpload", err)
	checkBlob(t, b, d, other)
	if left := below(t, s, b); len(left) != 2 {
		t.Errorf("%q are left", left)
	}
}

var errGone = errors.New("the client has gone")

type gone struct{}

func (gone) Read([]byte) (int, error) { return 0, errGone }

// TestDamaged has a blob that is shorter on the server than it was.
func TestDamaged(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	o.Retries = 1
	b := open(t, o)
	st := openStage(t, b, "id", 0)
	write(t, st, noise(1000, 1))
	must(t, "Sync, Close", errors.Join(st.Sync(), st.Close()))
	tails, err := filepath.Glob(filepath.Join(s.Dir, b.stageDir("id"), "tail-*"))
	if err != nil || len(tails) != 1 {
		t.Fatalf("the tails are %q, %v", tails, err)
	}
	must(t, "truncate", os.Truncate(tails[0], 500))
	st = openStage(t, b, "id", 1000)
	if _, err := st.Write([]byte("more")); err == nil {
		t.Error("a tail that is shorter than it was is gone on with")
	}
	_ = st.Close()
	must(t, "Discard", b.Discard(t.Context(), "id"))
	if err := b.Delete(t.Context(), digest.FromString("x")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Delete of nothing: %v", err)
	}
}
