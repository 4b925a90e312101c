package main

import (
	"context"
	"fmt"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/gc/caching"
	"github.com/berth-registry/berth/registry/mirror"
	"github.com/berth-registry/berth/registry/upstream"
)

// Mirrors implements admin.Mirroring.
func (m mirrorJobs) Mirrors(ctx context.Context) ([]admin.Mirror, error) {
	served := map[string]mirror.Stats{}
	if m.others.mirror != nil {
		for _, s := range m.others.mirror.Stats() {
			served[s.Name] = s
		}
	}
	kept := map[string]caching.Stats{}
	for _, s := range m.caches.Stats() {
		kept[s.Prefix] = s
	}
	all := make([]admin.Mirror, 0, len(m.others.mirrors))
	for _, c := range m.others.mirrors {
		one := upstreamed(m.others.upstreams[c.Name].Stats())
		one.Name, one.Prefix, one.Upstream = c.Name, c.PathPrefix(), c.Upstream
		bytes, manifests, err := m.caches.Usage(ctx, one.Prefix)
		if err != nil {
			return nil, fmt.Errorf("what mirror %s holds: %w", c.Name, err)
		}
		s := served[c.Name]
		one.Cache = admin.MirrorCache{
			Bytes: bytes, Manifests: manifests, Quota: c.Quota, Keep: int64(c.Keep / time.Second), Full: kept[one.Prefix].Stuck,
			Hits: s.Hits, Misses: s.Misses, Stale: s.Stale, Failures: s.Failures, Corrupt: s.Corrupt, Filling: s.Fills, Fetched: s.Fetched,
		}
		all = append(all, one)
	}
	return all, nil
}

// upstreamed is how a mirror's upstream is.
func upstreamed(s upstream.Stats) admin.Mirror {
	one := admin.Mirror{
		Available: s.Until.IsZero(), Until: pointTo(s.Until), Reason: s.Reason,
		Requests: admin.MirrorRequests{
			OK: s.Requests[upstream.OK], NotFound: s.Requests[upstream.NotFound], Refused: s.Requests[upstream.Refused],
			Limited: s.Requests[upstream.Limited], Failed: s.Requests[upstream.Failed], Rejected: s.Requests[upstream.Rejected],
		},
	}
	if l := s.RateLimit; l.Known {
		one.RateLimit = &admin.MirrorRateLimit{Limit: l.Limit, Remaining: l.Remaining, Window: int64(l.Window / time.Second), At: l.At.UTC()}
	}
	return one
}
