package mirror_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berth-registry/berth/registry"
)

func TestBadBytes(t *testing.T) {
	const size = 300_000
	length := func(w http.ResponseWriter, n int) { w.Header().Set("Content-Length", strconv.Itoa(n)) }
	for name, fault := range map[string]func(w http.ResponseWriter, r *http.Request, data []byte){
		"wrong in the middle": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			data[size/2] ^= 1
			length(w, size)
			_, _ = w.Write(data)
		},
		"wrong at the end": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			data[size-1] ^= 1
			length(w, size)
			_, _ = w.Write(data)
		},
		"truncated": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			length(w, size)
			_, _ = w.Write(data[:size/2])
		},
		"truncated, and said to be whole": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			length(w, size/2)
			_, _ = w.Write(data[:size/2])
		},
		"nothing": func(w http.ResponseWriter, _ *http.Request, _ []byte) { length(w, 0) },
		"longer": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			length(w, size+1)
			_, _ = w.Write(append(data, 0))
		},
		"endless": func(w http.ResponseWriter, r *http.Request, data []byte) {
			for r.Context().Err() == nil {
				if _, err := w.Write(data); err != nil {
					return
				}
			}
		},
		"cut each time": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			length(w, size)
			_, _ = w.Write(data[:100])
			w.(*counting).flush()
			panic(http.ErrAbortHandler)
		},
		"a page": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>Sign in to the network</html>"))
		},
		"another range": func(w http.ResponseWriter, r *http.Request, data []byte) {
			if r.Header.Get("Range") != "" {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 5-%d/%d", size-1, size))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(data[5:])
				return
			}
			length(w, size)
			_, _ = w.Write(data[:100])
			w.(*counting).flush()
			panic(http.ErrAbortHandler)
		},
		"500":          func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusInternalServerError) },
		"unauthorized": func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusUnauthorized) },
		"hurried":      func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusTooManyRequests) },
		"elsewhere": func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, "http://127.0.0.1:1/?X-Signature=hush", http.StatusFound)
		},
		"round and round": func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := newTheirs(t)
			o := newOurs(t, u)
			a := push(t, u, "app", "v1", 1, size)
			c := served(t, o)
			u.fail(onBlobs(func(w http.ResponseWriter, r *http.Request) bool {
				data, ok := u.data(r)
				if ok {
					fault(w, r, data)
				}
				return ok
			}))
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					got, err := c.believe("hub/app", a.layer())
					if err == nil {
						t.Errorf("a client got %d bytes", len(got))
					}
					if err != nil && (strings.Contains(err.Error(), "hush") || errors.Is(err, registry.ErrBlobUnknown)) {
						t.Errorf("a client was told: %v", err)
					}
				})
			}
			wg.Wait()
			o.settled(t)
			if _, err := o.cache.StatBlob(t.Context(), "hub/app", a.layer()); !errors.Is(err, registry.ErrBlobUnknown) {
				t.Errorf("the cache has it: %v", err)
			}
			if _, ok, err := o.cache.StoredBlob(t.Context(), a.layer()); ok || err != nil {
				t.Errorf("the store has it: %v", err)
			}
			if left, err := os.ReadDir(o.dir); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
			u.fail(nil)
			if got, err := read(c, "hub/app", a.layer()); err != nil || !bytes.Equal(got, a.blobs[a.layer()]) {
				t.Errorf("when it is well again: %d bytes, %v", len(got), err)
			}
		})
	}
}

func TestCut(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 5<<20)
	var sent, cuts atomic.Int64
	u.fail(onBlobs(func(w http.ResponseWriter, r *http.Request) bool {
		data, ok := u.data(r)
		if !ok || len(data) < 1<<20 {
			return false
		}
		from := 0
		if h := r.Header.Get("Range"); h != "" {
			from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(h, "bytes="), "-"))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.Header().Set("Content-Length", strconv.Itoa(len(data)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		}
		piece := data[from:min(len(data), from+700_001)]
		n, _ := w.Write(piece)
		sent.Add(int64(n))
		w.(*counting).flush()
		if from+n < len(data) {
			cuts.Add(1)
			panic(http.ErrAbortHandler)
		}
		return true
	}))
	hasBlobs(t, served(t, o), "hub/app", a)
	if cuts.Load() < 5 {
		t.Errorf("it was cut %d times", cuts.Load())
	}
	if n := sent.Load(); n != 5<<20 {
		t.Errorf("the upstream sent %d bytes", n)
	}
}

func TestRedirect(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 300_000)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = r.URL.Query().Get("path")
		registry.NewServer(u.Local, registry.ServerOptions{}).ServeHTTP(w, r)
	}))
	defer elsewhere.Close()
	u.fail(onBlobs(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, elsewhere.URL+"/?path="+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	}))
	hasBlobs(t, o, "hub/app", a)
}
