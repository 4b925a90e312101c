package retention

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// watchedSince is the name of the setting that says since when pulls are recorded.
const watchedSince = "pulls-recorded-since"

const (
	// pullEvery is how often a pull of the same tag or digest is written down at most:
	// less than pullSlack, which makes up for it.
	pullEvery = 50 * time.Minute
	// sharedEvery is that of what a cache holds where other processes write to the store,
	// too: they know of no other pulls than those that are written down.
	sharedEvery = 10 * time.Minute
	// sharedLate is by how much longer ago than it was, as others read it, such a pull may
	// be: it waits to be written, and clocks differ.
	sharedLate = time.Minute
	// maxNoted is of how many tags and digests it is remembered that they were
	// pulled lately; beyond it, they are looked up again.
	maxNoted = 50_000
	// maxPending is how many pulls wait in memory at most; more are lost.
	maxPending = 50_000
	// flushEvery is how often they are written at most.
	flushEvery = 5 * time.Second
	// flushAtOnce is how many one transaction writes, which pushes wait for.
	flushAtOnce = 500
)

// Pulls records when tags were pulled: when a manifest was read by its tag, or by
// the digest that a tag names. Questions whether a manifest is there do not count:
// a client that asks by tag, as docker and containerd do, reads it by its digest
// then.
//
// In a cache of another registry more counts, as what is kept there depends on it: the
// manifest, whatever names it, and each blob; and the question where a tag points, as
// a client that has what it points to asks for nothing else.
//
// It keeps nobody waiting: pulls are kept in memory, at most one an hour of each tag
// and digest, and written every few seconds; of what a cache holds one in ten minutes,
// where several processes share the store. In a crash those of the last seconds
// are lost, and so are those that the store fails to take and those above 50,000 in
// that time.
type Pulls struct {
	meta storage.Meta
	now  func() time.Time
	log  *slog.Logger
	some chan struct{} // there are some to be written

	shared bool // other processes may write to the store, too
	cached atomic.Pointer[func(repo string) bool]

	mu      sync.RWMutex
	noted   map[pull]*notedPull // that need not be written again
	before  map[pull]*notedPull // noted, before it was full
	pending map[pull]time.Time
	lost    int // since the log was told

	flushing sync.Mutex
}

// pull is what was pulled.
type pull struct {
	repo string
	ref  registry.Reference
}

// notedPull is when something was pulled.
type notedPull struct {
	at   time.Time    // that was written
	last atomic.Int64 // in a cache, the last time in this process; microseconds since 1970
}

// PullOptions are what Pulls can be told.
type PullOptions struct {
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Log receives what could not be written; nil is none.
	Log *slog.Logger
}

// NewPulls makes a recorder of pulls.
func NewPulls(meta storage.Meta, o PullOptions) *Pulls {
	p := &Pulls{meta: meta, now: o.Now, log: o.Log, some: make(chan struct{}, 1), noted: map[pull]*notedPull{}, pending: map[pull]time.Time{}}
	_, alone := meta.(storage.Versioner)
	p.shared = !alone
	if p.now == nil {
		p.now = time.Now
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.SetCached(func(string) bool { return false })
	return p
}

// SetCached sets which repositories are caches of other registries. It is asked within
// transactions.
func (p *Pulls) SetCached(cached func(repo string) bool) { p.cached.Store(&cached) }

func (p *Pulls) isCached(repo string) bool { return (*p.cached.Load())(repo) }

// Lately says whether content of a cache, a manifest or a blob, was pulled in this
// process since a time.
func (p *Pulls) Lately(repo string, d digest.Digest, since time.Time) bool {
	what := pull{repo, registry.Reference{Digest: d}}
	p.mu.RLock()
	defer p.mu.RUnlock()
	n := p.lookUp(what)
	return n != nil && n.last.Load() >= since.UnixMicro()
}

// Slack is how much later than it is written down content of a cache may have been
// pulled in another process. What was pulled in this one Lately tells.
func (p *Pulls) Slack() time.Duration {
	if p.shared {
		return sharedEvery + sharedLate
	}
	return 0
}

// every is how often a pull of the same is written down at most.
func (p *Pulls) every(cached bool) time.Duration {
	if cached && p.shared {
		return sharedEvery
	}
	return pullEvery
}

// begin writes down since when pulls are recorded, once for ever: until then, nobody
// can say of a tag that it was not pulled.
func (p *Pulls) begin(ctx context.Context) error {
	key := storage.Key(watchedSince)
	has := false
	look := func(tx storage.Tx) (err error) {
		has, err = storage.Settings.Has(tx, key)
		return err
	}
	if err := p.meta.View(ctx, look); has || err != nil {
		return err
	}
	text, err := p.now().UTC().MarshalText()
	if err != nil {
		return err
	}
	return p.meta.Update(ctx, func(tx storage.Tx) error {
		if err := look(tx); has || err != nil {
			return err // another replica was first, or it failed
		}
		return storage.Settings.Put(tx, key, storage.Setting{Value: text})
	})
}

// note takes down a pull, unless there was one lately.
func (p *Pulls) note(what pull, cached bool) {
	now := p.now()
	p.mu.RLock()
	known := p.isNoted(what, now, cached)
	p.mu.RUnlock()
	if known {
		return
	}
	p.mu.Lock()
	if !p.isNoted(what, now, cached) {
		p.add(what, now)
	}
	p.mu.Unlock()
	select {
	case p.some <- struct{}{}:
	default:
	}
}

// isNoted says whether a pull need not be written. It remembers one from a cache in any
// case.
func (p *Pulls) isNoted(what pull, now time.Time, cached bool) bool {
	n := p.lookUp(what)
	if n == nil {
		return false
	}
	if cached {
		n.last.Store(now.UnixMicro())
	}
	return now.Sub(n.at) < p.every(cached)
}

func (p *Pulls) lookUp(what pull) *notedPull {
	if n := p.noted[what]; n != nil {
		return n
	}
	return p.before[what]
}

func (p *Pulls) add(what pull, now time.Time) {
	if _, ok := p.pending[what]; !ok && len(p.pending) >= maxPending {
		p.lost++
		return
	}
	p.pending[what] = now
	if len(p.noted) >= maxNoted {
		p.before, p.noted = p.noted, make(map[pull]*notedPull, maxNoted)
	}
	n := &notedPull{at: now}
	n.last.Store(now.UnixMicro())
	p.noted[what] = n
}

// Run writes pulls to the store until ctx ends, the last ones after that.
func (p *Pulls) Run(ctx context.Context) {
	if err := p.begin(ctx); err != nil && ctx.Err() == nil {
		p.log.ErrorContext(ctx, "it is not written down since when pulls are: none counts as missing before the next start", "error", err)
	}
	for {
		select {
		case <-ctx.Done():
		case <-p.some:
			select {
			case <-ctx.Done():
			case <-time.After(flushEvery):
			}
		}
		if err := p.Flush(context.WithoutCancel(ctx)); err != nil {
			p.log.ErrorContext(ctx, "it is not written down when tags were pulled", "error", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// Flush writes the pulls that there were so far. Those that the store does not take
// are forgotten: the next pull counts again.
func (p *Pulls) Flush(ctx context.Context) error {
	p.flushing.Lock()
	defer p.flushing.Unlock()
	p.mu.Lock()
	pending, lost := p.pending, p.lost
	p.pending, p.lost = map[pull]time.Time{}, 0
	p.mu.Unlock()
	if lost > 0 {
		p.log.WarnContext(ctx, "it is not written down when some tags were pulled: too many at once", "pulls", lost)
	}
	var errs []error
	some := make([]pull, 0, flushAtOnce)
	write := func() {
		if err := p.write(ctx, some, pending); err != nil {
			errs = append(errs, err)
			p.forget(some)
		}
		some = some[:0]
	}
	for what := range pending {
		if some = append(some, what); len(some) == flushAtOnce {
			write()
		}
	}
	if len(some) > 0 {
		write()
	}
	return errors.Join(errs...)
}

func (p *Pulls) forget(some []pull) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, what := range some {
		delete(p.noted, what)
		delete(p.before, what)
	}
}

// write writes some pulls, those of what is still there.
func (p *Pulls) write(ctx context.Context, some []pull, at map[pull]time.Time) error {
	written := map[pull]time.Time{} // lately, by somebody else
	err := p.meta.Update(ctx, func(tx storage.Tx) error {
		clear(written)
		for _, what := range some {
			table, key, there := storage.PulledTags, storage.Key(what.repo, what.ref.Tag), tagged
			cached := p.isCached(what.repo)
			if what.ref.Tag == "" {
				table, key, there = storage.PulledDigests, storage.Key(what.repo, storage.DigestPart(what.ref.Digest)), named
				if cached {
					there = held
				}
			}
			old, err := table.Get(tx, key)
			if err != nil && !isNotFound(err) {
				return err
			}
			if at[what].Sub(old.At) < p.every(cached) {
				written[what] = old.At // by another replica, or before a restart
				continue
			}
			if is, err := there(tx, what); err != nil {
				return err
			} else if !is {
				continue
			}
			if err := table.Put(tx, key, storage.Pull{At: at[what]}); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		p.know(written)
	}
	return err
}

// know takes down when pulls were written, so that the next ones are in time.
func (p *Pulls) know(written map[pull]time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for what, at := range written {
		if n := p.lookUp(what); n != nil && at.Before(n.at) {
			n.at = at
		}
	}
}

// held says whether a repository has the digest, as a manifest or as a blob.
func held(tx storage.Tx, what pull) (bool, error) {
	key := storage.Key(what.repo, storage.DigestPart(what.ref.Digest))
	if is, err := storage.Manifests.Has(tx, key); is || err != nil {
		return is, err
	}
	return storage.Links.Has(tx, key)
}

// tagged says whether the tag is there.
func tagged(tx storage.Tx, what pull) (bool, error) {
	return storage.Tags.Has(tx, storage.Key(what.repo, what.ref.Tag))
}

// named says whether any tag names the digest.
func named(tx storage.Tx, what pull) (bool, error) {
	for _, err := range storage.Tagged.Scan(tx, storage.Key(what.repo, storage.DigestPart(what.ref.Digest), ""), nil) {
		return err == nil, err
	}
	return false, nil
}
