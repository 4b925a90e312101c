package upstream

import (
	"sync/atomic"
	"time"
)

// Outcome is what came of a request.
type Outcome string

// The outcomes of requests.
const (
	OK        Outcome = "ok"        // an answer that counts
	NotFound  Outcome = "not_found" // it does not exist
	Refused   Outcome = "refused"   // credentials that are not taken or not enough
	Limited   Outcome = "limited"   // too many requests
	Failed    Outcome = "failed"    // no answer, or a fault of the upstream's
	Rejected  Outcome = "rejected"  // not sent, as the upstream was unavailable
	Cancelled Outcome = "cancelled" // given up by the caller
)

// Stats are an upstream's figures since the process started.
type Stats struct {
	// Requests counts them by outcome; each has an entry. One that was retried,
	// redirected or authenticated is one.
	Requests map[Outcome]int64
	// Retries counts what was sent again.
	Retries int64
	// Broken counts transfers that were broken off.
	Broken int64
	// BytesIn counts the bytes of bodies.
	BytesIn int64
	// RateLimit is the upstream's own.
	RateLimit RateLimit
	// Until is when the upstream may be asked again; zero if it may be now.
	Until time.Time
	// Reason is why it may not.
	Reason string
}

// counts are the figures of Stats.
type counts struct {
	ok, notFound, refused, limited, failed, rejected, cancelled atomic.Int64
	retries, broken, bytes                                      atomic.Int64
}

// Stats returns the figures.
func (u *Upstream) Stats() Stats {
	c := &u.counts
	s := Stats{
		Requests: map[Outcome]int64{
			OK: c.ok.Load(), NotFound: c.notFound.Load(), Refused: c.refused.Load(), Limited: c.limited.Load(),
			Failed: c.failed.Load(), Rejected: c.rejected.Load(), Cancelled: c.cancelled.Load(),
		},
		Retries: c.retries.Load(), Broken: c.broken.Load(), BytesIn: c.bytes.Load(),
		RateLimit: u.limits.get(),
	}
	if e := u.breaker.state(); e != nil {
		s.Until, s.Reason = e.Until, e.Reason
	}
	return s
}

// fault counts one.
func (c *counts) fault(f *fault) {
	switch f.kind {
	case limited:
		c.limited.Add(1)
	case refused, denied:
		c.refused.Add(1)
	case cancelled:
		c.cancelled.Add(1)
	default:
		c.failed.Add(1)
	}
}
