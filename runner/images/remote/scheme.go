package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"sync"
	"syscall"
	"time"
)

const (
	schemeTTL = time.Minute
	maxHosts  = 1024 // that are remembered
)

// schemes remembers which hosts speak TLS and which plain HTTP, so that not each
// request begins with a handshake that fails.
type schemes struct {
	mu sync.Mutex
	by map[string]knownScheme
}

type knownScheme struct {
	scheme string
	until  time.Time
}

func (k *schemes) get(host string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if known := k.by[host]; time.Now().Before(known.until) {
		return known.scheme
	}
	return ""
}

func (k *schemes) set(host, scheme string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.by == nil || len(k.by) >= maxHosts {
		k.by = map[string]knownScheme{}
	}
	k.by[host] = knownScheme{scheme, time.Now().Add(schemeTTL)}
}

func (k *schemes) forget(host string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.by, host)
}

// scheme finds out what a server speaks.
func (c *Client) scheme(ctx context.Context, s *server) (string, error) {
	if len(s.schemes) == 1 {
		return s.schemes[0], nil
	}
	if known := c.schemes.get(s.host); known != "" {
		return known, nil
	}
	var last error
	for _, scheme := range s.schemes {
		status, err := c.probe(ctx, s, scheme)
		switch {
		case err == nil && last != nil && status == http.StatusBadRequest && !noTLS(last):
			// What a TLS server says to plain HTTP: the trouble was another.
			return "", last
		case err == nil:
			c.schemes.set(s.host, scheme)
			return scheme, nil
		case ctx.Err() != nil || s.strict && !noTLS(err):
			return "", err
		}
		last = err
	}
	return "", last
}

// probe returns the status with which a server answers.
func (c *Client) probe(ctx context.Context, s *server, scheme string) (int, error) {
	ctx, w := watch(ctx, s.host, c.o.StallTimeout)
	defer w.end()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+s.host+"/v2/", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", c.o.UserAgent)
	client := http.Client{
		Transport:     s.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, w.explain(err)
	}
	drain(resp)
	return resp.StatusCode, nil
}

// noTLS says whether an error means that there is no TLS at the other end,
// rather than TLS that failed.
func noTLS(err error) bool {
	var header tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &header) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)
}
