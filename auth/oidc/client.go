package oidc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/berth-registry/berth/internal/trust"
)

// What a provider may take and send.
const (
	askTime    = 10 * time.Second // for an answer, its body included
	maxAnswer  = 1 << 20          // bytes of a body
	maxHeaders = 64 << 10         // bytes
	maxHops    = 3                // redirects, all to the same host
)

// newClient returns a client for a provider whose certificate is signed by the
// authorities in the file ca, or by the system's if that is empty.
func newClient(ca string) (*http.Client, error) {
	roots, err := trust.Authorities(ca)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Timeout:       askTime,
		CheckRedirect: stayThere,
		Transport: bounded{&http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: maxHeaders,
		}},
	}, nil
}

// stayThere lets a provider redirect within its own host only: it must not send
// the registry to a host that the registry can reach and the provider cannot.
func stayThere(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if len(via) > maxHops || req.URL.Scheme != first.Scheme || req.URL.Host != first.Host {
		return errors.New("it redirects elsewhere")
	}
	return nil
}

// bounded fails answers that are too large.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = &boundedBody{resp.Body, maxAnswer}
	}
	return resp, err
}

type boundedBody struct {
	io.ReadCloser
	left int // bytes
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("its answer is larger than %d bytes", maxAnswer)
	}
	return n, err
}

// errSeldom says that keys were asked for too often.
var errSeldom = errors.New("keys are not looked up that often")

// How often the keys of a provider are looked up because a token names one that
// is not known, or has a signature that none has made.
const (
	keysEvery = 10 * time.Second
	keysBurst = 5
)

// seldom asks for keys no more often than that.
type seldom struct {
	next  http.RoundTripper
	now   func() time.Time
	limit *rate.Limiter

	mu     sync.Mutex
	failed error // why the last look-up failed
}

func newSeldom(next http.RoundTripper, now func() time.Time) *seldom {
	return &seldom{next: next, now: now, limit: rate.NewLimiter(rate.Every(keysEvery), keysBurst)}
}

func (s *seldom) RoundTrip(r *http.Request) (*http.Response, error) {
	if !s.limit.AllowN(s.now(), 1) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.failed != nil {
			return nil, s.failed
		}
		return nil, errSeldom
	}
	resp, err := s.next.RoundTrip(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
	if err == nil && resp.StatusCode != http.StatusOK {
		s.failed = errors.New(resp.Status)
	}
	return resp, err
}

// places limits how many do something at once.
type places chan struct{}

func (p places) take(ctx context.Context) error {
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p places) free() { <-p }
