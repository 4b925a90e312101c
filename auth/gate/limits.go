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
//
// Where several processes serve, each of them allows its part of the requests and bytes:
// who spreads their requests over all gets what the limits say, as behind a balancer, and
// who keeps to one of them gets less. Nobody gets more, but for some seconds when a
// process begins, and for one request at once by each process.
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
	now      func() time.Time
	replicas func() int
	current  atomic.Pointer[metered]
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
	parts    atomic.Int64  // into how many the limits are divided
}

func newMeters(l Limits, now func() time.Time, replicas func() int) *meters {
	m := &meters{now: now, replicas: replicas}
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
	of := c.by.getOrPut(key, m.now(), func() *meter { return c.limits.meter(m.now) })
	of.divide(c.limits, int64(m.replicas()))
	return of
}

// divide has the meter allow one of some parts of the limits. What was used stays so.
func (m *meter) divide(l Limits, parts int64) {
	if m.parts.Swap(parts) == parts {
		return
	}
	now := m.now()
	if m.requests != nil {
		m.requests.SetLimitAt(now, rate.Limit(l.RequestsPerSecond/float64(parts)))
		m.requests.SetBurstAt(now, int(max(1, int64(l.burst())/parts)))
	}
	if m.in != nil { // bursts stay: others are just taking theirs
		m.in.SetLimitAt(now, rate.Limit(l.BytesPerSecond/float64(parts)))
		m.out.SetLimitAt(now, rate.Limit(l.BytesPerSecond/float64(parts)))
	}
}

// burst is how many requests may come at once.
func (l Limits) burst() int {
	if l.Burst > 0 {
		return l.Burst
	}
	return int(math.Ceil(min(l.RequestsPerSecond, math.MaxInt32)))
}

func (l Limits) meter(now func() time.Time) *meter {
	m := &meter{now: now}
	m.parts.Store(1)
	if r := l.RequestsPerSecond; r > 0 {
		m.requests = rate.NewLimiter(rate.Limit(r), l.burst())
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
