package gate

import (
	"context"
	"io"
	"math"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/berth-registry/berth/auth"
)

// Limits are what each account may use of the registry; who has not signed in,
// each client address. What is 0 is not limited.
type Limits struct {
	RequestsPerSecond float64
	// Burst is how many requests may come at once; as many as in a second if 0.
	Burst int
	// BytesPerSecond is for the bodies of requests, and again for those of
	// answers. It should leave each of the uploads of an account at once enough
	// for registry.ServerOptions.BodyTimeout.
	BytesPerSecond float64
}

const (
	// maxMeters is how many accounts and addresses are metered at once.
	maxMeters = 100_000
	// maxPiece is how many bytes are taken at once from those of a second.
	maxPiece = 64 << 10
)

// meters are what each account has used lately.
type meters struct {
	now     func() time.Time
	current atomic.Pointer[metered]
}

// metered are the meters since the limits were set.
type metered struct {
	limits Limits
	by     *recent[string, *meter]
}

// meter is what one account has used lately. Its limiters are nil for no limit.
type meter struct {
	now      func() time.Time
	requests *rate.Limiter
	in, out  *rate.Limiter // bytes
}

func newMeters(l Limits, now func() time.Time) *meters {
	m := &meters{now: now}
	m.set(l)
	return m
}

func (m *meters) set(l Limits) {
	m.current.Store(&metered{l, newRecent[string, *meter](maxMeters, 10*time.Minute)})
}

// of returns the meter of an identity, or of a client if that is nil or nobody; nil
// if nothing is limited.
func (m *meters) of(id *auth.Identity, client string) *meter {
	c := m.current.Load()
	if c.limits.RequestsPerSecond <= 0 && c.limits.BytesPerSecond <= 0 {
		return nil
	}
	var key string
	if id == nil || id.IsAnonymous() {
		key = "client " + network(client)
	} else {
		key = "account " + id.Account
	}
	return c.by.getOrPut(key, m.now(), func() *meter { return c.limits.meter(m.now) })
}

func (l Limits) meter(now func() time.Time) *meter {
	m := &meter{now: now}
	if r := l.RequestsPerSecond; r > 0 {
		burst := l.Burst
		if burst <= 0 {
			burst = int(math.Ceil(min(r, math.MaxInt32)))
		}
		m.requests = rate.NewLimiter(rate.Limit(r), burst)
	}
	if r := l.BytesPerSecond; r > 0 {
		burst := int(max(1, min(r, maxPiece)))
		m.in, m.out = rate.NewLimiter(rate.Limit(r), burst), rate.NewLimiter(rate.Limit(r), burst)
	}
	return m
}

// request counts a request, or returns after what time it may be made.
func (m *meter) request() time.Duration {
	if m.requests == nil {
		return 0
	}
	now := m.now()
	r := m.requests.ReserveN(now, 1)
	after := r.DelayFrom(now)
	if after > 0 {
		r.CancelAt(now)
	}
	return after
}

// shape slows the bodies of a request and its answer down to what the account may
// have. Without a limit they are left as they are, so that sendfile goes on.
func (m *meter) shape(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request) {
	if m.in == nil {
		return w, r
	}
	if r.Body != nil && r.Body != http.NoBody {
		slow := *r // the server keeps the body that it knows
		slow.Body = &slowBody{r.Body, slowly{r.Context(), m.in}}
		r = &slow
	}
	return &slowWriter{w, slowly{r.Context(), m.out}}, r
}

// slowly passes bytes at a rate, for as long as a request lives.
type slowly struct {
	ctx   context.Context //nolint:containedctx // of the request whose body it is part of: io.Reader has no place for one
	limit *rate.Limiter
}

// slowBody is a request's body that is read slowly.
type slowBody struct {
	io.ReadCloser
	slowly
}

func (b *slowBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.limit.Burst())])
	if werr := b.limit.WaitN(b.ctx, n); werr != nil && err == nil {
		err = werr
	}
	return n, err
}

// slowWriter writes an answer's body slowly.
type slowWriter struct {
	http.ResponseWriter
	slowly
}

func (w *slowWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		piece := p[:min(len(p), w.limit.Burst())]
		if err := w.limit.WaitN(w.ctx, len(piece)); err != nil {
			return n, err
		}
		m, err := w.ResponseWriter.Write(piece)
		n += m
		if err != nil {
			return n, err
		}
		p = p[len(piece):]
	}
	return n, nil
}

// Unwrap is for http.ResponseController.
func (w *slowWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
