// Package replicating pushes what changes in a registry to others: tags and manifests
// that a rule matches, with all that they reference and what refers to them, and
// deletions if the rule says so.
//
// It promises that a change that is durable arrives at the target at least once: what
// may differ there is written down in the transaction of the change itself, and is
// struck off only when the target has it. That is tried for as long as it takes. What
// is written down is that a tag or manifest has changed, not how: a tag that was moved
// ten times while the target was away is pushed once, to where it is then, and a tag
// never goes back to what it was before. Different tags arrive in no set order, as
// several are copied at once.
//
// What cannot be replicated, as the target refuses it or as it is damaged here, holds
// nothing else up: it is shown with what is wrong, and tried again seldom. A target
// that is down or that limits its clients is left alone for longer each time, or as
// long as it says.
//
// Registries may replicate to each other: what is there already is not pushed, so that
// a change goes round once. If the same tag is pushed at both at once, both have one
// of the two in the end. Rules that put a prefix before names must not match what the
// other side puts there.
//
// Repositories that are a cache of another registry (Options.Mirrored) are replicated
// only if a pattern of the rule names their prefix.
//
// Several replicas of a registry that share metadata share the queue, too: a row is
// worked on by one of them. The package knows no credentials: targets come with theirs.
package replicating

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// Options are what a Replicator needs.
type Options struct {
	// Source is the registry whose changes are replicated, over Meta. It may be set
	// later, by SetSource: its journal is made first.
	Source registry.Registry
	// Target returns the registry that a rule of this name replicates to, or nil if
	// there is none, which is an error that passes. It is asked each time.
	Target func(name string) registry.Registry
	// Unavailable returns why the target of a rule is not to be asked now, or nil. If
	// the error has a method Header() http.Header, its Retry-After (seconds) says for
	// how long. It may be nil.
	Unavailable func(name string) error
	// Mirrored says whether a repository is a cache of another registry, and what its
	// name starts with then ("hub" of hub/library/nginx). It may be nil.
	Mirrored func(repo string) (prefix string, ok bool)
	Meta     storage.Meta
	// Log receives what fails.
	Log *slog.Logger
	// Now is time.Now if it is nil.
	Now func() time.Time
}

// Replicator replicates. Its methods may be called concurrently.
type Replicator struct {
	o        Options
	meta     storage.Meta
	shared   bool // other processes may write to meta
	log      *slog.Logger
	now      func() time.Time
	source   atomic.Pointer[registry.Registry]
	targets  atomic.Pointer[[]*target]
	changed  chan struct{} // targets are others
	failures atomic.Int64
}

// target is a rule with what a process knows of the registry that it replicates to.
type target struct {
	Rule
	wake  chan struct{}
	limit *rate.Limiter // bytes; nil for none
	leave leave
}

// ErrUnknown says that there is no rule of a name.
var ErrUnknown = errors.New("there is no replication of that name")

// New makes a Replicator. It writes down what changes from when Journal's result is
// told of it; it pushes nothing before Run.
func New(o Options, rules []Rule) *Replicator {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	_, alone := o.Meta.(storage.Versioner)
	r := &Replicator{o: o, meta: o.Meta, shared: !alone, log: o.Log, now: o.Now, changed: make(chan struct{}, 1)}
	r.targets.Store(new([]*target))
	if o.Source != nil {
		r.SetSource(o.Source)
	}
	r.SetRules(rules)
	return r
}

// SetSource sets Options.Source, before Run.
func (r *Replicator) SetSource(source registry.Registry) { r.source.Store(&source) }

// SetRules sets other rules, of different names. What waits for those that are gone is
// removed, if Run runs, and what has failed is tried again at once.
func (r *Replicator) SetRules(rules []Rule) {
	list := make([]*target, 0, len(rules))
	for _, rule := range rules {
		t := &target{Rule: rule, wake: make(chan struct{}, 1)}
		if rule.rate > 0 {
			t.limit = rate.NewLimiter(rate.Limit(rule.rate), int(max(rule.rate, minBurst)))
		}
		list = append(list, t)
	}
	r.targets.Store(&list)
	notify(r.changed)
}

// named returns the target of a rule, or ErrUnknown.
func (r *Replicator) named(name string) (*target, error) {
	for _, t := range *r.targets.Load() {
		if t.name == name {
			return t, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknown, clip(name))
}

// Failures is how many tries have failed in this process.
func (r *Replicator) Failures() int64 { return r.failures.Load() }

// Pending is how many tags and manifests wait for all targets, those included that
// cannot be replicated.
func (r *Replicator) Pending(ctx context.Context) (n int64, err error) {
	err = r.meta.View(ctx, func(tx storage.Tx) error {
		n = 0
		for _, t := range *r.targets.Load() {
			pending, err := queue{tx, t.name}.pending()
			if err != nil {
				return err
			}
			n += pending
		}
		return nil
	})
	return n, err
}

// notify makes c readable.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is already
	}
}
