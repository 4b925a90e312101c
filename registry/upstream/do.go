package upstream

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	quick      = time.Second            // failures that took longer are not tried again
	retryDelay = 100 * time.Millisecond // doubles
)

// doer sends requests through the breaker.
type doer struct{ u *Upstream }

// Do sends a request, several times if that may help. It returns the answers
// that are the upstream's word on what was asked, and *Unavailable otherwise.
func (d doer) Do(req *http.Request) (*http.Response, error) {
	u, ctx := d.u, req.Context()
	pass, closed := u.breaker.enter()
	if closed != nil {
		u.counts.rejected.Add(1)
		return nil, closed
	}
	over := false
	defer func() {
		if !over { // a panic of what was called
			u.breaker.leave(pass, &fault{kind: cancelled})
		}
	}()
	resp, f := d.try(req)
	over = true
	until, news := u.breaker.leave(pass, f)
	if f == nil {
		if resp.StatusCode == http.StatusNotFound {
			u.counts.notFound.Add(1)
		} else {
			u.counts.ok.Add(1)
		}
		if news {
			u.o.Log.InfoContext(ctx, "upstream is available again", u.o.Kind, u.o.Name)
		}
		return resp, nil
	}
	u.counts.fault(f)
	if news {
		u.o.Log.WarnContext(ctx, "upstream is unavailable", u.o.Kind, u.o.Name, "reason", f.reason, "until", until)
	}
	return nil, u.explain(ctx, f, until)
}

// explain makes the caller's error of a fault.
func (u *Upstream) explain(ctx context.Context, f *fault, until time.Time) error {
	if f.kind == cancelled {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		return f
	}
	e := &Unavailable{
		Name: u.o.Name, Kind: u.o.Kind, Reason: f.reason, Until: until,
		Limited: f.kind == limited, Denied: f.kind == denied, cause: f.cause,
	}
	if !until.IsZero() {
		e.wait = until.Sub(u.o.Now())
	}
	return e
}

// try sends a request until there is an answer, or no use in sending it again.
func (d doer) try(req *http.Request) (*http.Response, *fault) {
	u, ctx := d.u, req.Context()
	renewed := false
	for n := 0; ; n++ {
		began := time.Now()
		resp, f := d.once(req)
		if f == nil {
			return resp, nil
		}
		if req.Body != nil && req.Body != http.NoBody {
			return nil, f
		}
		if !renewed && u.outdated(f, began) {
			renewed = true
			continue
		}
		idempotent := req.Method == http.MethodGet || req.Method == http.MethodHead
		if f.kind != failed || !f.again || !idempotent || n >= u.o.Retries || time.Since(began) > quick || !pause(ctx, n) {
			return nil, f
		}
		u.counts.retries.Add(1)
	}
}

// outdated says whether a fault at credentials may be due to their age, and has
// them fetched anew if so. Some registries answer as if to a lack of rights; that
// what a client asks for does not exist must not have credentials fetched each time.
func (u *Upstream) outdated(f *fault, began time.Time) bool {
	switch f.kind {
	case refused:
	case denied:
		began = began.Add(-settled)
	default:
		return false
	}
	if !u.source.forget(began) {
		return false
	}
	u.tokens.reset()
	return true
}

// settled is how old credentials are that may have ended unnoticed.
const settled = 30 * time.Second

// pause waits before the try after the nth, unless the caller gives up.
func pause(ctx context.Context, n int) bool {
	d := retryDelay << min(n, 6)
	t := time.NewTimer(d/2 + rand.N(d)) //nolint:gosec // no secret
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// once sends a request once, with credentials if it needs them.
func (d doer) once(req *http.Request) (*http.Response, *fault) {
	u := d.u
	resp, err := u.auth.Do(req)
	if err != nil {
		return nil, classify(req.Context(), err, u.base.Host)
	}
	if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, d.denied(resp)
}

// denied is why an upstream lets the mirror not in, or not at this.
func (d doer) denied(resp *http.Response) *fault {
	u := d.u
	basic := isBasic(resp.Request.Header.Get("Authorization"))
	switch {
	case !u.sameOrigin(resp.Request.URL): // storage that it redirects to, with a URL that may have expired
		return &fault{reason: answered(resp), again: true}
	case resp.StatusCode == http.StatusUnauthorized && (basic || u.o.Token != ""):
		return &fault{kind: refused, reason: "this registry's credentials were refused: " + answered(resp)}
	case u.source.anonymous():
		return &fault{kind: denied, reason: "access without credentials was denied, or it does not exist: " + answered(resp)}
	default:
		return &fault{kind: denied, reason: "access with this registry's credentials was denied, or it does not exist: " + answered(resp)}
	}
}
