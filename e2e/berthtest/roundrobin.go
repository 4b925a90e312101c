package berthtest

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// roundRobin is an HTTP proxy that gives each request to the next server of a list that
// is not down, whatever connection or client it comes from. What a server does not
// answer is not answered: the connection ends, as the server's would. It tries nothing
// twice.
type roundRobin struct {
	addr    string
	turn    atomic.Int64
	forward *httputil.ReverseProxy

	mu       sync.Mutex
	replicas []*replica
}

// replica is a server as the proxy knows it.
type replica struct {
	url      *url.URL
	down     atomic.Bool
	requests atomic.Int64
}

// startRoundRobin starts a proxy of no servers, which ends with the test.
func startRoundRobin(tb testing.TB) *roundRobin {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &roundRobin{addr: l.Addr().String()}
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	p.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(p.next().url)
			r.Out.Host = r.In.Host // in what the server answers with, clients find the proxy
		},
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	server := &http.Server{Handler: p.forward, ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // it ends by Close
	}()
	tb.Cleanup(func() {
		_ = server.Close()
		transport.CloseIdleConnections()
		<-served
	})
	return p
}

func (p *roundRobin) add(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replicas = append(slices.Clip(p.replicas), &replica{url: &url.URL{Scheme: "http", Host: addr}})
}

func (p *roundRobin) list() []*replica {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.replicas
}

// next is the server whose turn it is; if all are down, one that is.
func (p *roundRobin) next() *replica {
	list := p.list()
	var r *replica
	for range list {
		at := p.turn.Add(1) - 1
		if r = list[int(at)%len(list)]; !r.down.Load() {
			break
		}
	}
	r.requests.Add(1)
	return r
}

func (p *roundRobin) set(i int, up bool) { p.list()[i].down.Store(!up) }

func (p *roundRobin) served() (requests []int64) {
	for _, r := range p.list() {
		requests = append(requests, r.requests.Load())
	}
	return requests
}
