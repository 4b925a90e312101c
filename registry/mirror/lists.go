package mirror

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// maxTags is how many tags of an upstream one list yields at most.
const maxTags = 1_000_000

// Repositories lists what is there, of mirrors what is cached.
func (r *Registry) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return r.cache.Repositories(ctx, after)
}

// Search searches what is there, of mirrors what is cached.
func (r *Registry) Search(ctx context.Context, term string) iter.Seq2[registry.SearchResult, error] {
	return r.cache.Search(ctx, term)
}

// Tags lists the tags of a repository: those that the upstream has, in its order, or
// those that are cached if it does not answer.
func (r *Registry) Tags(ctx context.Context, repo, after string) iter.Seq2[string, error] {
	m := r.find(repo)
	if m == nil {
		return r.cache.Tags(ctx, repo, after)
	}
	return func(yield func(string, error) bool) {
		q := question{kind: theTags, repo: repo}
		err := r.allowed(ctx, m, q)
		cached := false
		for _, cerr := range r.cache.Tags(ctx, repo, "") {
			cached = cerr == nil
			break
		}
		if err == nil {
			var begun bool
			if begun, err = r.tagsOf(ctx, m, q, after, cached, yield); begun {
				return
			}
		}
		if cached && ctx.Err() == nil && !isAbsent(err) {
			m.counts.stale.Add(1)
			r.cache.Tags(ctx, repo, after)(yield)
			return
		}
		yield("", err)
	}
}

// tagsOf yields the upstream's tags. begun says that it has yielded something, or
// that there is nothing to yield; otherwise it has failed.
func (r *Registry) tagsOf(ctx context.Context, m *mirrored, q question, after string, cached bool, yield func(string, error) bool) (begun bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.ctx, func() { cancel(errClosed) })()
	if cached {
		timer := time.AfterFunc(m.Patience, func() { cancel(errPatience) })
		defer timer.Stop()
		yield = before(yield, func() { timer.Stop() })
	}
	n := 0
	for tag, err := range m.Remote.Tags(ctx, m.theirs(q.repo), after) {
		if n++; n > maxTags && err == nil {
			err = errors.New("the upstream lists more tags than there can be")
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			} else {
				err = r.answered(m, q, err)
			}
			if begun {
				yield("", err)
			}
			return begun, err
		}
		if !registry.ValidTag(tag) {
			continue
		}
		begun = true
		if !yield(tag, nil) {
			return true, nil
		}
	}
	return true, nil
}

// before is yield after fn.
func before(yield func(string, error) bool, fn func()) func(string, error) bool {
	return func(tag string, err error) bool {
		fn()
		return yield(tag, err)
	}
}

// Referrers lists the manifests that refer to d: those that the upstream lists, or
// those of them that are cached if it does not answer. Only if there are none it fails
// then.
func (r *Registry) Referrers(ctx context.Context, repo string, d digest.Digest, artifactType string, after digest.Digest) iter.Seq2[registry.Descriptor, error] {
	m := r.find(repo)
	if m == nil {
		return r.cache.Referrers(ctx, repo, d, artifactType, after)
	}
	return func(yield func(registry.Descriptor, error) bool) {
		list, err := r.referrersOf(ctx, m, question{theReferrers, repo, string(d), artifactType}, d, artifactType)
		switch {
		case isAbsent(err):
			return // nothing refers to it
		case ctx.Err() != nil:
			yield(registry.Descriptor{}, ctx.Err())
			return
		case err == nil:
			for _, desc := range list {
				if desc.Digest > after && !yield(desc, nil) {
					return
				}
			}
			return
		}
		n := 0
		for desc, cerr := range r.cache.Referrers(ctx, repo, d, artifactType, "") {
			if cerr != nil {
				break
			}
			if n++; n == 1 {
				m.counts.stale.Add(1)
			}
			if desc.Digest > after && !yield(desc, nil) {
				return
			}
		}
		if n == 0 {
			yield(registry.Descriptor{}, err)
		}
	}
}

func (r *Registry) referrersOf(ctx context.Context, m *mirrored, q question, d digest.Digest, artifactType string) ([]registry.Descriptor, error) {
	if err := r.allowed(ctx, m, q); err != nil {
		return nil, err
	}
	patience := time.Duration(0)
	for _, err := range r.cache.Referrers(ctx, q.repo, d, artifactType, "") {
		if err == nil {
			patience = m.Patience // there is something to serve instead
		}
		break
	}
	flight, err := m.referrers.join(q, r.goes, func() (all []registry.Descriptor, err error) {
		for desc, err := range m.Remote.Referrers(r.ctx, m.theirs(q.repo), d, artifactType, "") {
			if err != nil {
				return nil, r.answered(m, q, err)
			}
			all = append(all, desc)
		}
		if len(all) == 0 {
			return nil, r.answered(m, q, registry.ErrManifestUnknown)
		}
		return all, nil
	})
	if err != nil {
		return nil, err
	}
	return flight.wait(ctx, patience)
}
