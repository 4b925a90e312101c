package retention

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// watchedSince is the name of the setting that says since when pulls are recorded.
const watchedSince = "pulls-recorded-since"

const (
	// pullEvery is how often a pull of the same tag or digest is written down at most:
	// less than pullSlack, which makes up for it.
	pullEvery = 50 * time.Minute
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
// It keeps nobody waiting: pulls are kept in memory, at most one an hour of each tag
// and digest, and written every few seconds. In a crash those of the last seconds
// are lost, and so are those that the store fails to take and those above 50,000 in
// that time.
type Pulls struct {
	meta storage.Meta
	now  func() time.Time
	log  *slog.Logger
	some chan struct{} // there are some to be written

	mu      sync.RWMutex
	noted   map[pull]time.Time // that need not be written again
	before  map[pull]time.Time // noted, before it was full
	pending map[pull]time.Time
	lost    int // since the log was told

	flushing sync.Mutex
}

// pull is what was pulled.
type pull struct {
	repo string
	ref  registry.Reference
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
	p := &Pulls{meta: meta, now: o.Now, log: o.Log, some: make(chan struct{}, 1), noted: map[pull]time.Time{}, pending: map[pull]time.Time{}}
	if p.now == nil {
		p.now = time.Now
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p
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

// Wrap wraps a registry so that pulls from it are recorded.
func (p *Pulls) Wrap(r registry.Registry) registry.Registry { return &recording{r, p} }

type recording struct {
	registry.Registry
	pulls *Pulls
}

func (r *recording) Manifest(ctx context.Context, repo string, ref registry.Reference) ([]byte, registry.Descriptor, error) {
	data, desc, err := r.Registry.Manifest(ctx, repo, ref)
	if err == nil {
		r.pulls.note(pull{repo, ref})
	}
	return data, desc, err
}

// note takes down a pull, unless there was one lately.
func (p *Pulls) note(what pull) {
	now := p.now()
	p.mu.RLock()
	known := p.isNoted(what, now)
	p.mu.RUnlock()
	if known {
		return
	}
	p.mu.Lock()
	if !p.isNoted(what, now) {
		p.add(what, now)
	}
	p.mu.Unlock()
	select {
	case p.some <- struct{}{}:
	default:
	}
}

func (p *Pulls) isNoted(what pull, now time.Time) bool {
	at, ok := p.noted[what]
	if !ok {
		at, ok = p.before[what]
	}
	return ok && now.Sub(at) < pullEvery
}

func (p *Pulls) add(what pull, now time.Time) {
	if _, ok := p.pending[what]; !ok && len(p.pending) >= maxPending {
		p.lost++
		return
	}
	p.pending[what] = now
	if len(p.noted) >= maxNoted {
		p.before, p.noted = p.noted, make(map[pull]time.Time, maxNoted)
	}
	p.noted[what] = now
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
	return p.meta.Update(ctx, func(tx storage.Tx) error {
		for _, what := range some {
			table, key, there := storage.PulledTags, storage.Key(what.repo, what.ref.Tag), tagged
			if what.ref.Tag == "" {
				table, key, there = storage.PulledDigests, storage.Key(what.repo, storage.DigestPart(what.ref.Digest)), named
			}
			old, err := table.Get(tx, key)
			if err != nil && !isNotFound(err) {
				return err
			}
			if at[what].Sub(old.At) < pullEvery {
				continue // written by another replica, or before a restart
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
