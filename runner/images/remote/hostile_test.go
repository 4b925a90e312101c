package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// fake is a server that does what no honest registry does.
type fake struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string // method, path and Authorization of each request
}

func newFake(t *testing.T, handle http.HandlerFunc) *fake {
	t.Helper()
	f := &fake{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.seen = append(f.seen, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")))
		f.mu.Unlock()
		handle(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) addr() string { return strings.TrimPrefix(f.URL, "http://") }

// count is how many requests began so.
func (f *fake) count(prefix string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.seen {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

func (f *fake) requests() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.seen, "\n")
}

func (f *fake) repo(t *testing.T, o Options) *Repo {
	t.Helper()
	return client(t, o).Repository(named(t, f.addr()+"/app"), user("secret"))
}

// layer is a blob for the fakes.
func layer(n int) ([]byte, ocispec.Descriptor) {
	data := noise(n)
	return data, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(n)}
}

// breakOff ends a response in its midst.
func breakOff() { panic(http.ErrAbortHandler) }

func from(r *http.Request) int {
	n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"))
	return n
}

func TestHostileBlobs(t *testing.T) {
	t.Parallel()
	data, desc := layer(300_000)
	size := strconv.Itoa(len(data))
	var tries atomic.Int32
	for _, test := range []struct {
		name   string
		handle http.HandlerFunc
		want   string // the error; empty if all is well in the end
	}{
		{"breaks off, knows ranges", func(w http.ResponseWriter, r *http.Request) {
			off := from(r)
			w.Header().Set("Content-Length", strconv.Itoa(len(data)-off))
			if off > 0 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(data)-1, len(data)))
				w.WriteHeader(http.StatusPartialContent)
			}
			_, _ = w.Write(data[off:min(len(data), off+100_000)])
			if off+100_000 < len(data) {
				breakOff()
			}
		}, ""},
		{"breaks off, knows no ranges", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", size)
			if tries.Add(1) < 4 {
				_, _ = w.Write(data[:100_000])
				breakOff()
			}
			_, _ = w.Write(data)
		}, ""},
		{"always breaks off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", size)
			_, _ = w.Write(data[:100_000])
			breakOff()
		}, "unexpected EOF"},
		{"another range", func(w http.ResponseWriter, r *http.Request) {
			if from(r) > 0 {
				w.Header().Set("Content-Range", "bytes 5-299999/300000")
				w.WriteHeader(http.StatusPartialContent)
				return
			}
			w.Header().Set("Content-Length", size)
			_, _ = w.Write(data[:100_000])
			breakOff()
		}, `has sent the range "bytes 5-299999/300000"`},
		{"says it is longer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "300001")
			_, _ = w.Write(append(bytes.Clone(data), 'x'))
		}, "should be 300000"},
		{"is longer", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(data)
			w.(http.Flusher).Flush()
			for range 1000 {
				_, _ = w.Write(data)
			}
		}, "more bytes than the descriptor says"},
		{"says it is shorter", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(data[:10])
		}, "should be 300000"},
		{"redirects for ever", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, "stopped after 10 redirects"},
		{"too many requests", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}`)
		}, "toomanyrequests: You have reached your pull rate limit."},
		{"commands the terminal", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, `{"errors":[{"code":"TEA","message":"\u001b[2Jgone"}]}`)
		}, "tea:  [2Jgone"},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotImplemented)
			_, _ = io.WriteString(w, "<html>")
		}, "received unexpected HTTP status: 501 Not Implemented"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, test.handle)
			body, err := f.repo(t, Options{}).Fetch(t.Context(), "", desc, 0)
			var got []byte
			if err == nil {
				got, err = io.ReadAll(body)
				body.Close()
			}
			switch {
			case test.want != "":
				wantError(t, err, nil, test.want)
			case err != nil || !bytes.Equal(got, data):
				t.Errorf("got %d bytes, %v\n%s", len(got), err, f.requests())
			}
			if n := f.count("GET /v2/app/blobs/"); n > 12 {
				t.Errorf("%d requests were made", n)
			}
		})
	}
}

// TestRetryAfter waits as long as the server asks for.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	data, desc := layer(1000)
	var n atomic.Int32
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/v2/"):
		case n.Add(1) == 1:
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			_, _ = w.Write(data)
		}
	})
	begin := time.Now()
	body, err := f.repo(t, Options{}).Fetch(t.Context(), "", desc, 0)
	if err != nil {
		t.Fatal(err)
	}
	body.Close()
	if d := time.Since(begin); d < 2*time.Second || d > 10*time.Second {
		t.Errorf("it took %s", d)
	}
}

// TestStalled gives up a server that sends nothing, not one that is slow.
func TestStalled(t *testing.T) {
	t.Parallel()
	data, desc := layer(100)
	stall := 500 * time.Millisecond
	slow := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		for _, b := range data {
			_, _ = w.Write([]byte{b})
			w.(http.Flusher).Flush()
			select {
			case <-time.After(15 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	})
	body, err := slow.repo(t, Options{StallTimeout: stall}).Fetch(t.Context(), "", desc, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	body.Close()
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("slow: got %d bytes, %v", len(got), err)
	}
	if n := slow.count("GET /v2/app/blobs/"); n != 1 {
		t.Errorf("slow: %d requests", n)
	}

	for _, after := range []int{0, 10} { // nothing at all, or some bytes
		stalled := newFake(t, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/v2/") {
				return
			}
			if after > 0 {
				w.Header().Set("Content-Length", "100")
				_, _ = w.Write(data[:after])
				w.(http.Flusher).Flush()
			}
			<-r.Context().Done()
		})
		begin := time.Now()
		body, err := stalled.repo(t, Options{StallTimeout: stall}).Fetch(t.Context(), "", desc, 0)
		if err == nil {
			_, err = io.ReadAll(body)
			body.Close()
		}
		wantError(t, err, nil, "sent nothing for 500ms")
		if d := time.Since(begin); d > 20*time.Second {
			t.Errorf("it took %s", d)
		}

		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		body, err = stalled.repo(t, Options{}).Fetch(ctx, "", desc, 0)
		if err == nil {
			_, err = io.ReadAll(body)
			body.Close()
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a deadline: %v", err)
		}
	}
}

// TestSlowReader has the time not run while nobody reads.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	data, desc := layer(8 << 20)
	f := newFake(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) })
	body, err := f.repo(t, Options{StallTimeout: 100 * time.Millisecond}).Fetch(t.Context(), "", desc, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	first := make([]byte, 1000)
	_, _ = io.ReadFull(body, first)
	<-time.After(400 * time.Millisecond) // the disk is slow
	rest, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(append(first, rest...), data) {
		t.Errorf("got %d bytes, %v", len(rest), err)
	}
	if n := f.count("GET /v2/app/blobs/"); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// TestRedirects follows a blob to another host, and takes no credentials along.
func TestRedirects(t *testing.T) {
	t.Parallel()
	data, desc := layer(1000)
	store := newFake(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) })
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}

		target := strings.Replace(store.URL, "127.0.0.1", "localhost", 1)
		if strings.HasSuffix(r.URL.Path, desc.Digest.String()) {
			target = store.URL
		}
		http.Redirect(w, r, target+"/bucket?X-Signature=secret", http.StatusTemporaryRedirect)
	})
	body, err := f.repo(t, Options{}).Fetch(t.Context(), "", desc, 0)
	if err != nil {
		t.Fatal(err)
	}
	body.Close()
	other := desc
	other.Digest = digest.FromString("other")
	body, err = f.repo(t, Options{}).Fetch(t.Context(), "", other, 0)
	if err != nil {
		t.Fatal(err)
	}
	body.Close()
	if got := store.requests(); strings.Contains(got, "Basic") || store.count("GET /bucket") != 2 {
		t.Errorf("the store has got:\n%s", got)
	}
	if f.count("GET /v2/app/blobs/"+desc.Digest.String()+" Basic ") != 1 {
		t.Errorf("the registry has got:\n%s", f.requests())
	}
	store.Close()
	_, err = f.repo(t, Options{}).Fetch(t.Context(), "", desc, 0)
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error tells the signature: %v", err)
	}
}

// TestForeignUpload refuses credentials to where a registry sends an upload.
func TestForeignUpload(t *testing.T) {
	t.Parallel()
	var src contents
	image := src.image(t, 1000)
	store := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil && r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="give me"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodPost:
			w.Header().Set("Location", store.URL+"/upload")
			w.WriteHeader(http.StatusAccepted)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	_, err := f.repo(t, Options{}).Push(t.Context(), "v1", image, &src, nil)
	wantError(t, err, runner.ErrUnauthorized, "no basic auth credentials")
	if strings.Contains(store.requests(), "Basic") || store.count("PUT /upload") == 0 {
		t.Errorf("the store has got:\n%s", store.requests())
	}
	if f.count("PUT /v2/app/manifests/") != 0 {
		t.Error("the manifest was pushed")
	}
}
