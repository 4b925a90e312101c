package mirror

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// mirrored is an upstream and what is going on with it.
type mirrored struct {
	Upstream
	absent    *memory[question, error]    // what it does not have
	resting   *memory[question, struct{}] // tags whose check has failed lately
	manifests flights[question, found]
	stats     flights[question, registry.Descriptor]
	referrers flights[question, []registry.Descriptor]
	fills     fills
	slots     chan struct{} // a token of each transfer under way
	counts    counts
}

const (
	defaultRevalidate = time.Minute
	defaultNegative   = 30 * time.Second
	defaultPatience   = 2 * time.Second
	// maxTransfers is how many blobs come from an upstream at once. It is less than the
	// connections that package upstream makes, so that tags can be asked for meanwhile.
	maxTransfers = 48
	// maxRemembered is how many things are remembered of each kind.
	maxRemembered = 16384
)

func newMirrored(u Upstream) *mirrored {
	u.Revalidate = cmp.Or(u.Revalidate, defaultRevalidate)
	u.Negative = cmp.Or(u.Negative, defaultNegative)
	u.Patience = cmp.Or(u.Patience, defaultPatience)
	if u.Unavailable == nil {
		u.Unavailable = func() error { return nil }
	}
	if u.Repo == nil {
		u.Repo = func(repo string) string { return repo }
	}
	return &mirrored{
		Upstream: u, slots: make(chan struct{}, maxTransfers), fills: fills{running: map[digest.Digest]*fill{}},
		absent: newMemory[question, error](maxRemembered), resting: newMemory[question, struct{}](maxRemembered),
	}
}

// theirs is the upstream's name of a repository.
func (m *mirrored) theirs(repo string) string { return m.Repo(repo[len(m.Prefix)+1:]) }

// question is what an upstream can be asked for.
type question struct {
	kind kind
	repo string // with its prefix
	ref  string
	more string // artifact type of referrers
}

type kind byte

const (
	aManifest kind = iota // by tag or digest
	aBlob
	theReferrers
	theTags
)

// allowed fails if the upstream must not be asked for q now: on behalf of the caller,
// because the answer is remembered, or because it is of no use.
func (r *Registry) allowed(ctx context.Context, m *mirrored, q question) error {
	if err := r.o.MayFetch(ctx, q.repo); err != nil {
		return err
	}
	if err, ok := m.absent.get(q, r.o.Now()); ok {
		m.counts.absent.Add(1)
		return &absent{err}
	}
	if err := m.Unavailable(); err != nil {
		return m.failure(err)
	}
	return nil
}

// answered makes of an upstream's error what a caller gets, and remembers what the
// upstream does not have.
func (r *Registry) answered(m *mirrored, q question, err error) error {
	switch {
	case err == nil:
		m.absent.drop(q)
		return nil
	case saysNo(err):
		err = m.missing(q)
		m.absent.put(q, err, r.o.Now().Add(m.Negative))
		return &absent{err}
	case errors.Is(err, context.Canceled) && r.ctx.Err() != nil:
		return errClosed
	}
	m.counts.failures.Add(1)
	return m.failure(err)
}
