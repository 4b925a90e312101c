package berthtest

import (
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Fault is what a Faulty proxy does to an answer. The zero value does nothing.
type Fault struct {
	Delay    time.Duration // before the answer
	Status   int           // of an answer in place of the upstream's
	Header   http.Header   // of that answer
	Cut      int64         // bytes of the body after which the connection is broken off; 0 for none
	Wrong    bool          // the last byte of the body is another
	Short    int64         // bytes that the body lacks at its end, as if that were all
	Endless  bool          // the body does not end
	Redirect bool          // the body is to be had from another host
	// Hold, if not nil, is waited for in the middle of the body.
	Hold <-chan struct{}
}

// Faulty is a proxy before a registry, that can do to its answers what networks and
// registries do.
type Faulty struct {
	URL  string
	Addr string // host:port

	target  *url.URL
	client  *http.Client // to the target
	storage *httptest.Server

	mu       sync.Mutex
	rule     func(*http.Request) Fault
	requests []string          // METHOD path
	bodies   int64             // bytes of blobs sent
	logins   map[string]string // Authorization by path, for what storage gets on behalf of others
	foreign  []http.Header     // that storage got
}

// StartFaulty starts a proxy for the registry at a URL, which client can reach; it has
// TLS if ca is not nil. It ends with the test.
func StartFaulty(tb testing.TB, target string, client *http.Client, ca *CA) *Faulty {
	tb.Helper()
	u, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	direct := *client
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	p := &Faulty{target: u, client: &direct, logins: map[string]string{}}
	start := func(h http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		if ca == nil {
			s.Start()
		} else {
			cert, err := tls.LoadX509KeyPair(ca.Server("127.0.0.1"))
			if err != nil {
				tb.Fatal(err)
			}
			s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
			s.StartTLS()
		}
		tb.Cleanup(func() { s.CloseClientConnections(); s.Close() })
		return s
	}
	p.storage = start(p.serveStorage)
	s := start(p.serve)
	p.URL, p.Addr = s.URL, s.Listener.Addr().String()
	return p
}

// Do sets what becomes of requests from now on; nil does nothing to any.
func (p *Faulty) Do(rule func(*http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = rule
}

// Requests are the requests that came since the last call, as "METHOD path".
func (p *Faulty) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.requests
	p.requests = nil
	return all
}

// Bytes is how many bytes of blobs it has sent.
func (p *Faulty) Bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bodies
}

// Logins are the headers Authorization of the requests that came.
func (p *Faulty) Logins() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, login := range p.logins {
		all = append(all, login)
	}
	return all
}

// Foreign are the headers of the requests to the host to which it redirects.
func (p *Faulty) Foreign() []http.Header {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.foreign
}

func (p *Faulty) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	rule := p.rule
	p.requests = append(p.requests, r.Method+" "+r.URL.Path)
	if login := r.Header.Get("Authorization"); login != "" {
		p.logins[r.URL.Path] = login
	}
	p.mu.Unlock()
	var f Fault
	if rule != nil {
		f = rule(r)
	}
	time.Sleep(f.Delay)
	if f.Status != 0 {
		maps.Copy(w.Header(), f.Header)
		w.WriteHeader(f.Status)
		return
	}
	resp, err := p.ask(r)
	if err != nil {
		panic(http.ErrAbortHandler) // as if it were the registry
	}
	defer resp.Body.Close()
	if f.Redirect && resp.StatusCode == http.StatusOK {
		w.Header().Set("Location", p.storage.URL+r.URL.Path+"?signature=secret-of-the-url")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	p.send(w, r, resp, f)
}

// ask sends a request on to the registry.
func (p *Faulty) ask(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = p.target.Scheme, p.target.Host, ""
	return p.client.Do(out) // with the Host that the proxy has
}

// send sends an answer on, with a fault.
func (p *Faulty) send(w http.ResponseWriter, r *http.Request, resp *http.Response, f Fault) {
	maps.Copy(w.Header(), resp.Header)
	size := resp.ContentLength
	switch {
	case f.Endless:
		w.Header().Del("Content-Length")
	case f.Short > 0:
		size -= f.Short
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	w.WriteHeader(resp.StatusCode)
	if r.Method == http.MethodHead {
		return
	}
	out := &faultyBody{p: p, w: w, size: size, fault: f, blob: strings.Contains(r.URL.Path, "/blobs/") && resp.StatusCode/100 == 2}
	body := io.Reader(resp.Body)
	if f.Endless {
		body = io.MultiReader(body, zeros{})
	} else if f.Short > 0 {
		body = io.LimitReader(body, size)
	}
	if _, err := io.CopyBuffer(out, struct{ io.Reader }{body}, make([]byte, 16<<10)); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// serveStorage is the other host, which knows whom it gave the URL.
func (p *Faulty) serveStorage(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.foreign = append(p.foreign, r.Header.Clone())
	login := p.logins[r.URL.Path]
	p.mu.Unlock()
	r.Header.Set("Authorization", login)
	r.URL.RawQuery, r.Host = "", strings.TrimPrefix(p.URL, p.target.Scheme+"://")
	resp, err := p.ask(r)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	p.send(w, r, resp, Fault{})
}

// faultyBody is the body of an answer, to which something is done.
type faultyBody struct {
	p     *Faulty
	w     http.ResponseWriter
	size  int64
	sent  int64
	fault Fault
	blob  bool
}

var errCut = errors.New("cut")

// Write sends a part.
func (b *faultyBody) Write(data []byte) (int, error) {
	if b.fault.Wrong && b.sent+int64(len(data)) == b.size {
		data = append(slices.Clone(data[:len(data)-1]), data[len(data)-1]^1)
	}
	cut := b.fault.Cut > 0 && b.sent+int64(len(data)) > b.fault.Cut
	if cut {
		data = data[:max(0, b.fault.Cut-b.sent)]
	}
	if hold := b.fault.Hold; hold != nil && b.sent >= b.size/2 {
		_ = http.NewResponseController(b.w).Flush() // what is here is to be seen
		<-hold
		b.fault.Hold = nil
	}
	n, err := b.w.Write(data)
	b.sent += int64(n)
	if b.blob {
		b.p.mu.Lock()
		b.p.bodies += int64(n)
		b.p.mu.Unlock()
	}
	if cut && err == nil {
		_ = http.NewResponseController(b.w).Flush()
		err = errCut
	}
	return n, err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
