package mirror

import (
	"context"
	"errors"

	"github.com/berth-registry/berth/registry"
)

// byTag finds what a tag names: in the cache, if it was checked lately or cannot be
// checked now, and else what the upstream says.
func (r *Registry) byTag(ctx context.Context, m *mirrored, repo, tag string, read reading) (found, error) {
	have, err := read(ctx, repo, registry.Reference{Tag: tag})
	if err != nil && ctx.Err() != nil {
		return found{}, err
	}
	cached := err == nil
	if cached && r.fresh(ctx, m, repo, tag) {
		m.counts.hits.Add(1)
		return have, nil
	}
	got, err := r.checked(ctx, m, question{kind: aManifest, repo: repo, ref: tag}, cached)
	switch {
	case err == nil && cached && got.desc.Digest == have.desc.Digest:
		m.counts.hits.Add(1)
		return have, nil
	case err == nil, ctx.Err() != nil, isAbsent(err):
		return got, err
	case cached:
		m.counts.stale.Add(1)
		return have, nil
	}
	return found{}, err
}

// fresh says whether a tag was checked lately.
func (r *Registry) fresh(ctx context.Context, m *mirrored, repo, tag string) bool {
	u, err := r.cache.Upstreamed(ctx, repo, tag)
	if err != nil || u.Digest == "" {
		return false
	}
	age := r.o.Now().Sub(u.Checked)
	return age < m.Revalidate && age > -m.Revalidate // another server's clock may be ahead
}

// errResting says that the last check of a tag has failed just now.
var errResting = errors.New("the tag could not be checked just now")

// checked asks the upstream for a tag, together with all who want to know it.
func (r *Registry) checked(ctx context.Context, m *mirrored, q question, cached bool) (found, error) {
	if cached {
		m.absent.drop(q) // it has come into the cache since
	}
	if err := r.allowed(ctx, m, q); err != nil {
		return found{}, err
	}
	patience := m.Patience
	if !cached {
		m.counts.misses.Add(1)
		patience = 0
	} else if _, ok := m.resting.get(q, r.o.Now()); ok {
		return found{}, errResting
	}
	flight, err := m.manifests.join(q, r.goes, func() (found, error) { return r.check(m, q) })
	if err != nil {
		return found{}, err
	}
	return flight.wait(ctx, patience)
}

// check asks the upstream for a tag, and has the cache's name the same.
func (r *Registry) check(m *mirrored, q question) (found, error) {
	repo, ref := q.repo, registry.Reference{Tag: q.ref}
	have, err := r.whole(r.ctx, repo, ref)
	cached := err == nil
	if cached && r.fresh(r.ctx, m, repo, q.ref) {
		return have, nil // as another flight has just found
	}
	got, err := r.moved(m, repo, ref, have, cached)
	switch {
	case errors.Is(err, registry.ErrTagImmutable):
		r.learnt(m, repo, q.ref, got.desc.Digest)
		return r.whole(r.ctx, repo, ref)
	case saysNo(err) && cached:
		if derr := r.cache.DeleteTag(r.ctx, repo, q.ref); errors.Is(derr, registry.ErrTagImmutable) {
			r.learnt(m, repo, q.ref, have.desc.Digest)
			return have, nil
		}
	case err != nil && !saysNo(err):
		m.resting.put(q, struct{}{}, r.o.Now().Add(min(m.Negative, m.Revalidate)))
	}
	return got, r.answered(m, q, err)
}

// moved returns what a tag names upstream. A check costs less than a fetch where
// fetches are limited.
func (r *Registry) moved(m *mirrored, repo string, ref registry.Reference, have found, cached bool) (found, error) {
	if !cached {
		return r.fetch(m, repo, ref, ref.Tag)
	}
	desc, err := m.Remote.StatManifest(r.ctx, m.theirs(repo), ref)
	switch {
	case errors.Is(err, registry.ErrMethod): // it knows no HEAD
		return r.fetch(m, repo, ref, ref.Tag)
	case err != nil:
		return found{}, err
	case desc.Digest == have.desc.Digest:
		r.learnt(m, repo, ref.Tag, desc.Digest)
		return have, nil
	}
	got, err := r.fetch(m, repo, registry.Reference{Digest: desc.Digest}, ref.Tag)
	if saysNo(err) { // it has just named it: it may have moved again meanwhile
		return r.fetch(m, repo, ref, ref.Tag)
	}
	return got, err
}
