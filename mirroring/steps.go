package mirroring

import (
	"context"
	"errors"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/copying"
)

// perform does the steps of a repository, some at once, or only tells of them. It
// notes the manifests that they are about.
func (r *run) perform(ctx context.Context, plan []Step, manifests *digests) error {
	r.mu.Lock()
	for _, s := range plan {
		if s.Action != Keep {
			r.steps++
		}
	}
	r.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.job.Jobs)
	for _, s := range plan {
		if s.Action != Remove {
			manifests.add(s.Digest)
		}
		if r.dry {
			r.finish(s)
			continue
		}
		g.Go(func() error {
			err := r.do(ctx, s, manifests)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				r.fail(ctx, s.Repo, s.Tags, err)
				return nil
			}
			r.finish(s)
			return nil
		})
	}
	return g.Wait()
}

// finish counts a step that is done.
func (r *run) finish(s Step) {
	n := int64(len(s.Tags))
	r.mu.Lock()
	switch c := &r.now.Counts; s.Action {
	case Keep:
		c.Unchanged += n
	case Copy:
		c.Copied += n
		r.done++
	case Remove:
		c.Removed += n
		r.done++
	}
	r.mu.Unlock()
	r.tell(Event{Step: &s})
}

// do does a step.
func (r *run) do(ctx context.Context, s Step, manifests *digests) error {
	switch {
	case s.Action == Remove:
		return r.remove(ctx, s)
	case s.Action == Copy:
		if err := r.copy(ctx, s, s.Tags, manifests); err != nil {
			return err
		}
	case r.job.Referrers:
		if err := r.copy(ctx, s, nil, manifests); err != nil {
			return err
		}
	}
	for _, tag := range s.Tags {
		if err := r.learn(ctx, s.Repo, tag, s.Digest); err != nil {
			return err
		}
	}
	return nil
}

// learn remembers what a tag names upstream, if that is not remembered.
func (r *run) learn(ctx context.Context, repo, tag string, d digest.Digest) error {
	u, err := r.w.target.Upstreamed(ctx, repo, tag)
	if err != nil || u.Digest == d {
		return err
	}
	return r.w.target.SetUpstreamed(ctx, repo, tag, registry.Upstreamed{Digest: d, Checked: r.w.now()})
}

func (r *run) remove(ctx context.Context, s Step) error {
	for _, tag := range s.Tags {
		err := r.w.target.DeleteTag(ctx, s.Repo, tag)
		if err != nil && !errors.Is(err, registry.ErrManifestUnknown) {
			return err
		}
		if err := r.w.target.SetUpstreamed(ctx, s.Repo, tag, registry.Upstreamed{}); err != nil {
			return err
		}
	}
	return nil
}

// copy copies an image, or what is missing of it, and points tags at it.
func (r *run) copy(ctx context.Context, s Step, tags []string, manifests *digests) error {
	return r.ask(ctx, func(ctx context.Context) error {
		sending := map[digest.Digest]int64{}
		_, err := copying.Copy(ctx,
			copying.Source{Registry: r.source, Repo: s.From, Ref: registry.Reference{Digest: s.Digest}},
			copying.Target{Registry: r.w.target, Repo: s.Repo, Tags: tags},
			copying.Options{
				Sparse: true, Platforms: r.job.platforms, Referrers: r.job.Referrers, Group: r.group,
				Progress: func(e copying.Event) { r.copied(e, sending, manifests) },
			})
		r.mu.Lock()
		for _, n := range sending {
			r.sent -= n // of blobs that were not copied
		}
		r.mu.Unlock()
		return err
	})
}

// copied counts what a copy says that it does.
func (r *run) copied(e copying.Event, sending map[digest.Digest]int64, manifests *digests) {
	d := e.Descriptor.Digest
	if e.Manifest {
		manifests.add(d)
	}
	r.mu.Lock()
	switch e.State {
	case copying.Sending:
		r.sent += e.Bytes - sending[d]
		sending[d] = e.Bytes
	case copying.Copied:
		r.sent -= sending[d]
		delete(sending, d)
		r.now.Counts.Bytes += e.Descriptor.Size
	case copying.Mounted, copying.Present:
	}
	quiet := r.w.now().Sub(r.told) < tellEvery
	r.mu.Unlock()
	if !quiet {
		r.tell(Event{})
	}
}

// digests is a set.
type digests struct {
	mu  sync.Mutex
	all map[digest.Digest]bool
}

func newDigests() *digests { return &digests{all: map[digest.Digest]bool{}} }

func (s *digests) add(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[d] = true
}
