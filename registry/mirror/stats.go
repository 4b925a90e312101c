package mirror

import "sync/atomic"

// Stats is what became of the requests for the repositories of a mirror since New.
type Stats struct {
	Name   string // of the mirror
	Hits   int64  // manifests and blobs from the cache
	Misses int64  // that the upstream was asked for
	Absent int64  // that it was remembered not to have
	Stale  int64  // tags and lists from the cache, as the upstream did not say how they are now
	// Failures are answers of the upstream that were of no use.
	Failures int64
	// Corrupt are blobs whose bytes were other ones than they should have been.
	Corrupt int64
	Fills   int64 // blobs that are coming from the upstream now
	Fetched int64 // bytes of manifests and blobs that came from the upstream
}

type counts struct {
	hits, misses, absent, stale, failures, corrupt, filling, fetched atomic.Int64
}

// Stats returns the figures of each mirror, in no order.
func (r *Registry) Stats() []Stats {
	all := make([]Stats, 0, len(r.ups))
	for _, m := range r.ups {
		c := &m.counts
		all = append(all, Stats{
			Name: m.Name, Hits: c.hits.Load(), Misses: c.misses.Load(), Absent: c.absent.Load(), Stale: c.stale.Load(),
			Failures: c.failures.Load(), Corrupt: c.corrupt.Load(), Fills: c.filling.Load(), Fetched: c.fetched.Load(),
		})
	}
	return all
}
