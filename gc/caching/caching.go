// Package caching keeps caches of other registries as small as they are to be: an
// Evictor looks again and again whether a cache holds more than its quota, and then
// removes what was pulled longest ago.
//
// It promises that nothing goes which was fetched or pulled in the last minutes, or
// which a node runs, and that no pull or push waits for it for long: a full cache
// still takes what is pulled through it, and is made smaller after that. What nobody
// has pulled for as long as its cache keeps it goes by collection alone, as do the
// bytes of what the Evictor removes (see registry.Local, SetCaches and Collect).
//
// It does not limit what a cache holds at any moment, nor look how full the disk is. A
// cache whose content is all in use stays above its quota.
package caching

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// Registry is where caches are; a registry.Local is one.
type Registry interface {
	// SetCaches sets which repositories are caches, and how long they keep content.
	SetCaches(caches []registry.Cache)
	// LookCaches has all that caches hold collected in time.
	LookCaches(ctx context.Context) error
	// CacheUsage says what a cache holds.
	CacheUsage(ctx context.Context, prefix string) (registry.CacheUsage, error)
	// LeastUsed lists what can be removed from a cache, what was pulled longest ago
	// first.
	LeastUsed(ctx context.Context, e registry.Eviction, most int) ([]registry.CachedContent, error)
	// Evict removes content, until it is enough.
	Evict(ctx context.Context, e registry.Eviction, some []registry.CachedContent) (gone []registry.Evicted, left int64, err error)
	// PlanEviction says what would be removed, and changes nothing.
	PlanEviction(ctx context.Context, e registry.Eviction) ([]registry.Evicted, error)
}

// Pulls knows what was pulled; a retention.Pulls is one.
type Pulls interface {
	// Flush writes down what was pulled so far.
	Flush(ctx context.Context) error
	// Lately says whether this process has served content since a time.
	Lately(repo string, d digest.Digest, since time.Time) bool
	// Slack is how much later than it is written down content may have been served by
	// another process; 0 if there is none.
	Slack() time.Duration
}

// Mirror is a cache of another registry.
type Mirror struct {
	Name   string
	Prefix string        // of its repositories: hub is that of hub/library/nginx
	Keep   time.Duration // how long what nobody pulls is kept; 0 for ever
	Quota  int64         // bytes that it may hold, each digest counted once; 0 for any number
}

const (
	// defaultInterval is that between two looks unless Options say another.
	defaultInterval = time.Minute
	// lookEvery is how often all that caches hold is looked at.
	lookEvery = 24 * time.Hour
	// inUse is how long what was fetched or pulled stays in any case.
	inUse = 10 * time.Minute
	// atOnce is how much of what was pulled longest ago is looked for at once.
	atOnce = 5000
)

// Options are what an Evictor can be told.
type Options struct {
	// Mirrors are the first mirrors.
	Mirrors []Mirror
	// Pulls, if set, writes down what was pulled before it is looked for.
	Pulls Pulls
	// Interval is the time between two looks; 0 for a minute.
	Interval time.Duration
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Log receives what was removed, and failures; nil is none.
	Log *slog.Logger
}

// Stats are what an Evictor has done for a mirror since it was made.
type Stats struct {
	Mirror
	Evicted int64 // manifests, and blobs without one
	Bytes   int64 // that the cache held less then
	Last    time.Time
	// Failures is how often it failed.
	Failures int64
	// Stuck says that the cache was over its quota after the last look, as all that
	// was left is in use.
	Stuck bool
}

// Evictor keeps caches as small as they are to be. Its methods may be called
// concurrently.
type Evictor struct {
	reg      Registry
	pulls    Pulls
	interval time.Duration
	now      func() time.Time
	log      *slog.Logger
	changed  chan struct{} // tells Run that mirrors have changed
	turn     chan struct{} // holds a token of who evicts

	mu      sync.Mutex
	mirrors []Mirror
	stats   map[string]*Stats // by prefix
}

// New makes an Evictor, whose mirrors hold from now on: the registry knows them as
// caches. It removes nothing before Run or Evict.
func New(reg Registry, o Options) *Evictor {
	e := &Evictor{
		reg: reg, pulls: o.Pulls, interval: o.Interval, now: o.Now, log: o.Log,
		changed: make(chan struct{}, 1), turn: make(chan struct{}, 1),
	}
	if e.interval <= 0 {
		e.interval = defaultInterval
	}
	if e.now == nil {
		e.now = time.Now
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	e.Set(o.Mirrors)
	return e
}

// Set sets the mirrors from now on. What was cached of one that is gone is kept like
// anything else: as long as tags lead to it.
func (e *Evictor) Set(mirrors []Mirror) {
	caches := make([]registry.Cache, 0, len(mirrors))
	stats := map[string]*Stats{}
	e.mu.Lock()
	for _, m := range mirrors {
		caches = append(caches, registry.Cache{Prefix: m.Prefix, Keep: m.Keep})
		if stats[m.Prefix] = e.stats[m.Prefix]; stats[m.Prefix] == nil {
			stats[m.Prefix] = &Stats{}
		}
		stats[m.Prefix].Mirror = m
	}
	e.mirrors, e.stats = mirrors, stats
	e.reg.SetCaches(caches)
	e.mu.Unlock()
	select {
	case e.changed <- struct{}{}:
	default: // it is about to look at it anyway
	}
}

// Stats tells what was done so far, mirror by mirror.
func (e *Evictor) Stats() []Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]Stats, 0, len(e.mirrors))
	for _, m := range e.mirrors {
		list = append(list, *e.stats[m.Prefix])
	}
	return list
}

// Usage says how many bytes the cache with a prefix holds, each digest counted once,
// and how many manifests. While a cache is still being counted it holds more. It fails
// with registry.ErrNameUnknown if there is no such cache.
func (e *Evictor) Usage(ctx context.Context, prefix string) (bytes, manifests int64, err error) {
	u, err := e.reg.CacheUsage(ctx, prefix)
	return u.Bytes, u.Manifests, err
}
