package s3

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// proxy stands between a driver and an S3 server, and does to requests what networks
// and servers do.
type proxy struct {
	*httptest.Server
	forward http.Handler

	mu    sync.Mutex
	fault func(r *http.Request) fault // nil for none
	seen  []string                    // requests, without the prefix of keys
	heads []http.Header               // of the requests
}

// fault answers a request, which forward would answer well.
type fault func(w http.ResponseWriter, r *http.Request, forward http.Handler)

func newProxy(t *testing.T, s *berthtest.S3) *proxy {
	t.Helper()
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{forward: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = u.Scheme, u.Host
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { cut(w) },
	}}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	t.Cleanup(func() { p.set(nil) })
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, name(r))
	p.heads = append(p.heads, r.Header.Clone())
	var f fault
	if p.fault != nil {
		f = p.fault(r)
	}
	p.mu.Unlock()
	if f == nil {
		p.forward.ServeHTTP(w, r)
		return
	}
	f(w, r, p.forward)
}

// name says what a request asks for.
func name(r *http.Request) string {
	query := r.URL.Query()
	s := r.Method + " " + r.URL.Path
	for _, key := range []string{"uploads", "uploadId", "partNumber", "list-type", "prefix", "start-after", "continuation-token"} {
		if query.Has(key) {
			s += " " + key + "=" + query.Get(key)
		}
	}
	return s + r.Header.Get("Range")
}

// set has the proxy do something to requests from now on, and forget which it saw.
func (p *proxy) set(f func(*http.Request) fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.seen, p.heads = f, nil, nil
}

// requests are those since set.
func (p *proxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.seen...)
}

// once has a fault happen to each request the first time that it comes.
func once(f fault) func(*http.Request) fault {
	seen := map[string]bool{}
	return func(r *http.Request) fault {
		n := name(r)
		if seen[n] {
			return nil
		}
		seen[n] = true
		return f
	}
}

// always has a fault happen to each request.
func always(f fault) func(*http.Request) fault { return func(*http.Request) fault { return f } }

// cut breaks the connection of a request off.
func cut(http.ResponseWriter) { panic(http.ErrAbortHandler) }

// answer is an error of S3.
func answer(status int, code string) fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodHead && status == http.StatusBadRequest {
			status = http.StatusRequestTimeout // there is no body to say more
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>so it is</Message><RequestId>1</RequestId></Error>`, code)
	}
}

// page is what a proxy of somebody's answers that has lost its server.
func page(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	w.WriteHeader(http.StatusBadGateway)
	_, _ = io.WriteString(w, "<html><body>Bad gateway</body>")
}

// lost does what is asked for, and loses the answer.
func lost(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	forward.ServeHTTP(httptest.NewRecorder(), r)
	cut(w)
}

// broken breaks off within the body of the request.
func broken(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	r.Body = io.NopCloser(io.LimitReader(r.Body, max(r.ContentLength/2, 0)))
	forward.ServeHTTP(httptest.NewRecorder(), r)
	cut(w)
}

// silent never answers.
func silent(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	cut(w)
}

// half answers half of what it should, and breaks off.
func half(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	rec := httptest.NewRecorder()
	forward.ServeHTTP(rec, r)
	maps.Copy(w.Header(), rec.Header())
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
	cut(w)
}

// spoiled changes a byte of the body on its way to the server.
func spoiled(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	data, _ := io.ReadAll(r.Body)
	if len(data) > 0 {
		data[len(data)/2] ^= 1
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	forward.ServeHTTP(w, r)
}

// faults are what can happen to any request, and passes.
var faults = []struct {
	name  string
	fault fault
}{
	{"500", answer(http.StatusInternalServerError, "InternalError")},
	{"503", answer(http.StatusServiceUnavailable, "SlowDown")},
	{"429", answer(http.StatusTooManyRequests, "Throttling")},
	{"timeout", answer(http.StatusBadRequest, "RequestTimeout")},
	{"page", page},
	{"cut", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { cut(w) }},
	{"lost", lost},
	{"broken", broken},
	{"silent", silent},
	{"half", half},
	{"spoiled", spoiled},
}

func has(list []string, part string) bool {
	for _, s := range list {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}
