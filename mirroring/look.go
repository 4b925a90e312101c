package mirroring

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/copying"
)

// Limits of what an upstream lists. No honest one comes near them.
const (
	maxRepos = 100_000
	maxTags  = 100_000
)

// names yields the upstream's names of the repositories that the job is about, each
// once. With an error comes the pattern that it is about.
func (r *run) names(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		seen := map[string]bool{}
		var patterns []string
		for _, name := range r.job.Repos {
			if isPattern(name) {
				patterns = append(patterns, name)
				continue
			}
			if r.up.Repo != nil {
				name = r.up.Repo(name)
			}
			if !seen[name] && !yield(name, nil) {
				return
			}
			seen[name] = true
		}
		if len(patterns) == 0 {
			return
		}
		found, err := r.catalog(ctx, patterns)
		if err != nil {
			yield(r.job.target(patterns[0]), fmt.Errorf("patterns of repositories need the upstream's catalog, which it does not give: name the repositories (%w)", err))
			return
		}
		for _, name := range found {
			if !seen[name] && !yield(name, nil) {
				return
			}
			seen[name] = true
		}
	}
}

// catalog lists the upstream's repositories that a pattern matches.
func (r *run) catalog(ctx context.Context, patterns []string) (found []string, err error) {
	err = r.question(ctx, func(ctx context.Context) error {
		found = nil
		n := 0
		for name, err := range r.up.Source.Repositories(ctx, "") {
			if err != nil {
				return err
			}
			if n++; n > maxRepos {
				return fmt.Errorf("it lists more than %d repositories", maxRepos)
			}
			for _, p := range patterns {
				if auth.Match(p, name) && registry.ValidRepository(r.job.target(name)) { // no name is taken from there unseen
					found = append(found, name)
					break
				}
			}
		}
		return nil
	})
	return found, err
}

// question asks the upstream something, when there is room.
func (r *run) question(ctx context.Context, do func(context.Context) error) error {
	return r.ask(ctx, func(ctx context.Context) error {
		select {
		case r.room <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		defer func() { <-r.room }()
		if err := do(ctx); err != nil {
			return &copying.SourceError{Err: err}
		}
		return nil
	})
}

// look finds out what there is to know of a repository. What is wrong with single
// tags is written down, and they are left out.
func (r *run) look(ctx context.Context, from string) (Seen, error) {
	s := Seen{Repo: r.job.target(from), From: from}
	tags, exact := r.job.Tags, true
	if r.job.lists() {
		err := r.question(ctx, func(ctx context.Context) (err error) {
			s.Listed, err = r.list(ctx, from)
			return err
		})
		if err != nil {
			return s, fmt.Errorf("list the tags of %s upstream: %w", from, err)
		}
		tags, exact = s.Listed, false
	}
	selected := r.job.Select(tags)
	if !exact {
		r.missing(ctx, s)
	}
	if err := r.heads(ctx, &s, selected, !exact); err != nil {
		return s, err
	}
	err := r.strays(ctx, &s)
	return s, err
}

// missing writes down the tags that the job names and the upstream does not list. If
// they are to be removed here then, that is no failure.
func (r *run) missing(ctx context.Context, s Seen) {
	if r.job.Prune {
		return
	}
	listed := make(map[string]bool, len(s.Listed))
	for _, t := range s.Listed {
		listed[t] = true
	}
	for _, t := range r.job.Tags {
		if !isPattern(t) && !listed[t] && !r.job.excludes(t) {
			r.count(func(c *Counts) { c.Tags++ })
			r.fail(ctx, s.Repo, []string{t}, errNoTag)
		}
	}
}

var errNoTag = &copying.SourceError{Err: errors.New("the upstream has no such tag")}

func (r *run) list(ctx context.Context, repo string) (tags []string, err error) {
	for tag, err := range r.up.Source.Tags(ctx, repo, "") {
		if err != nil {
			return nil, err
		}
		if tags = append(tags, tag); len(tags) > maxTags {
			return nil, fmt.Errorf("there are more than %d", maxTags)
		}
	}
	return tags, nil
}

// heads finds out what tags name upstream and here, some at once. gone says that a
// tag may be gone upstream.
func (r *run) heads(ctx context.Context, s *Seen, tags []string, gone bool) error {
	var mu sync.Mutex
	s.Upstream, s.Here = make(map[string]digest.Digest, len(tags)), make(map[string]Local, len(tags))
	whole := map[digest.Digest]bool{} // those that were looked through
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.job.Jobs)
	for _, tag := range tags {
		g.Go(func() error {
			var desc registry.Descriptor
			err := r.question(ctx, func(ctx context.Context) (err error) {
				desc, err = r.up.Source.StatManifest(ctx, s.From, registry.Reference{Tag: tag})
				if errors.Is(err, registry.ErrMethod) { // it knows no HEAD
					_, desc, err = r.up.Source.Manifest(ctx, s.From, registry.Reference{Tag: tag})
				}
				return err
			})
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case errors.Is(err, registry.ErrManifestUnknown) && gone:
				return nil
			case errors.Is(err, registry.ErrManifestUnknown):
				err = errNoTag
			case err == nil:
				_, err = registry.ParseDigest(string(desc.Digest))
			}
			r.count(func(c *Counts) { c.Tags++ })
			var here Local
			if err == nil {
				mu.Lock()
				known, ok := whole[desc.Digest]
				mu.Unlock()
				here, err = r.here(ctx, s.Repo, tag, desc.Digest, ok && known)
			}
			if err != nil {
				r.fail(ctx, s.Repo, []string{tag}, err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			s.Upstream[tag], s.Here[tag], whole[desc.Digest] = desc.Digest, here, here.Whole
			return nil
		})
	}
	return g.Wait()
}

// here says what a tag is here; Whole only if it names d.
func (r *run) here(ctx context.Context, repo, tag string, d digest.Digest, whole bool) (Local, error) {
	desc, err := r.w.target.StatManifest(ctx, repo, registry.Reference{Tag: tag})
	if errors.Is(err, registry.ErrManifestUnknown) {
		return Local{}, nil
	}
	l := Local{Digest: desc.Digest, Whole: whole && desc.Digest == d}
	if err == nil && desc.Digest == d && !l.Whole {
		l.Whole, err = copying.Complete(ctx, r.w.target, repo, d, r.job.platforms)
	}
	return l, err
}

// strays adds tags that are here, were copied, and are not upstream.
func (r *run) strays(ctx context.Context, s *Seen) error {
	if !r.job.Prune || len(s.Listed) == 0 {
		return nil
	}
	listed := make(map[string]bool, len(s.Listed))
	for _, t := range s.Listed {
		listed[t] = true
	}
	var found []string // not to ask while the list is open
	for tag, err := range r.w.target.Tags(ctx, s.Repo, "") {
		if errors.Is(err, registry.ErrNameUnknown) {
			return nil
		}
		if err != nil {
			return err
		}
		if !listed[tag] && r.job.concerns(tag) {
			found = append(found, tag)
		}
	}
	for _, tag := range found {
		u, err := r.w.target.Upstreamed(ctx, s.Repo, tag)
		if err != nil {
			return err
		}
		desc, err := r.w.target.StatManifest(ctx, s.Repo, registry.Reference{Tag: tag})
		if errors.Is(err, registry.ErrManifestUnknown) {
			continue
		}
		if err != nil {
			return err
		}
		s.Here[tag] = Local{Digest: desc.Digest, Copied: u.Digest == desc.Digest}
	}
	return nil
}
