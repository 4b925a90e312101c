package rollout

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// Tags is the registry whose tags are followed; a registry.Local is one.
type Tags interface {
	Manifest(ctx context.Context, repo string, ref registry.Reference) ([]byte, registry.Descriptor, error)
	History(ctx context.Context, repo, tag string) iter.Seq2[registry.TagMove, error]
	// MoveTag fails with registry.ErrTagElsewhere if the tag does not name from.
	MoveTag(ctx context.Context, repo, tag string, from, to digest.Digest) error
}

// Options are what a Store can be told.
type Options struct {
	// As gives the context in which a tag is moved back by itself; nil for the one of the
	// report that shows the failure.
	As func(context.Context) context.Context
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Log receives what goes wrong in the background.
	Log *slog.Logger
}

// Store keeps rollouts, and the nodes that follow tags. Its methods may be called
// concurrently, in several processes that share the rows.
type Store struct {
	meta storage.Meta
	tags Tags
	as   func(context.Context) context.Context
	now  func() time.Time
	up   time.Time // when it was made
	log  *slog.Logger
}

// NewStore returns a store among the rows of meta.
func NewStore(meta storage.Meta, tags Tags, o Options) *Store {
	s := &Store{meta: meta, tags: tags, as: o.As, now: o.Now, log: o.Log}
	if s.as == nil {
		s.as = func(ctx context.Context) context.Context { return ctx }
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.up = s.now()
	return s
}

// upSince is since when nodes can be heard, whatever was done to the clock meanwhile.
func (s *Store) upSince(now time.Time) time.Time { return now.Add(-now.Sub(s.up)) }

// Follow takes a report, and says what the node is to run. It fails with ErrInvalid,
// ErrTaken or ErrMany.
func (s *Store) Follow(ctx context.Context, ref Ref, r Report) (Answer, error) {
	if err := r.check(); err != nil {
		return Answer{}, err
	}
	if a, ok, err := s.quick(ctx, ref, &r); ok || err != nil {
		return a, err
	}
	out, err := s.evaluate(ctx, ref, &r, nil)
	return out.Answer, err
}

// Tick has happen what time alone brings.
func (s *Store) Tick(ctx context.Context, ref Ref) error {
	_, err := s.evaluate(ctx, ref, nil, nil)
	return err
}

// Pause has no other node deploy until Resume. It fails with ErrUnknown or ErrState.
func (s *Store) Pause(ctx context.Context, ref Ref, by string) error {
	return s.steer(ctx, ref, func(st *State) error { return pause(st, by, s.now()) })
}

// Resume has a rollout go on that was paused, or that failures have stopped: they are
// forgiven. It fails with ErrUnknown or ErrState.
func (s *Store) Resume(ctx context.Context, ref Ref) error {
	return s.steer(ctx, ref, func(st *State) error { return resume(st, s.now()) })
}

// steer changes a rollout, which is that of what the tag names now, whether or not a node
// has asked yet.
func (s *Store) steer(ctx context.Context, ref Ref, change func(*State) error) error {
	if err := s.Tick(ctx, ref); err != nil {
		return err
	}
	_, err := s.evaluate(ctx, ref, nil, change)
	return err
}

// Undo moves the tag back to what all nodes ran before, and has them return to it at once.
// It fails with ErrUnknown or ErrState, or as Tags.MoveTag does.
func (s *Store) Undo(ctx context.Context, ref Ref) error {
	out, err := s.evaluate(ctx, ref, nil, nil)
	if err != nil {
		return err
	}
	to, err := undoable(&out.State)
	if err != nil {
		return err
	}
	if err := s.tags.MoveTag(ctx, ref.Repo, ref.Tag, digest.Digest(out.Rollout.Digest), digest.Digest(to)); err != nil {
		if errors.Is(err, registry.ErrTagElsewhere) {
			return stateError("the tag was just moved")
		}
		return err
	}
	return s.Tick(ctx, ref)
}

// errUnloaded says that more must be known of what the tag names.
type errUnloaded struct{ digest string }

func (e *errUnloaded) Error() string { return "the manifest " + e.digest + " is not read yet" }

// maxTries is how often it is looked what a tag names that moves all the time.
const maxTries = 10

// evaluate decides on a state that steer may have changed, and keeps what comes of it. If
// the tag is to be moved back, that is done.
func (s *Store) evaluate(ctx context.Context, ref Ref, r *Report, steer func(*State) error) (out Outcome, err error) {
	var t Target
	for range maxTries {
		out, err = s.try(ctx, ref, t, r, steer)
		unloaded := new(errUnloaded)
		switch {
		case errors.As(err, &unloaded):
			if t, err = s.target(ctx, ref, unloaded.digest); err != nil {
				return out, err
			}
			continue
		case err != nil || !out.Rollout.Back:
			return out, err
		}
		if err := s.moveBack(ctx, ref, out.Rollout); err != nil {
			return out, err
		}
		steer = nil // that was done
	}
	if err == nil {
		return out, nil
	}
	return out, registry.ErrUnavailable.With("the tag %s moves all the time", ref)
}

// try decides, and writes only if there is something to write.
func (s *Store) try(ctx context.Context, ref Ref, t Target, r *Report, steer func(*State) error) (out Outcome, err error) {
	now, failure := s.now(), false // failure: what has failed last is not as it was
	decide := func(tx storage.Tx) (State, error) {
		st, err := read(tx, ref, t)
		if err != nil {
			return st, err
		}
		st.Up = s.upSince(now)
		if r != nil {
			if err := admit(tx, ref, &st, r, now); err != nil {
				return st, err
			}
		}
		before := st
		if steer != nil {
			st.Nodes = append([]Node{}, st.Nodes...)
			if err := steer(&st); err != nil {
				return st, err
			}
		}
		out = Decide(st, r, now)
		if steer != nil {
			out.compare(before)
		}
		failure = out.Failure != before.Failure
		return before, nil
	}
	err = s.meta.View(ctx, func(tx storage.Tx) error {
		_, err := decide(tx)
		return err
	})
	if err != nil || !out.Changed && !out.Log && !failure && len(out.Dirty)+len(out.Gone) == 0 {
		return out, err
	}
	err = s.meta.Update(ctx, func(tx storage.Tx) error {
		before, err := decide(tx)
		if err != nil {
			return err
		}
		return write(tx, ref, before, &out, r)
	})
	return out, err
}

// target finds out what is to be known of a manifest that a tag has come to name.
func (s *Store) target(ctx context.Context, ref Ref, d string) (Target, error) {
	t := Target{Digest: d}
	data, _, err := s.tags.Manifest(ctx, ref.Repo, registry.Reference{Digest: digest.Digest(d)})
	if err != nil {
		return t, fmt.Errorf("read what %s names: %w", ref, err)
	}
	policy := policyOf(data)
	t.Policy = policy[:min(len(policy), MaxPolicy+1)] // a longer one is refused anyway
	for m, err := range s.tags.History(ctx, ref.Repo, ref.Tag) {
		if err != nil {
			return t, err
		}
		if string(m.Digest) == d {
			t.By, t.Moved = m.By, m.Moved
		}
	}
	return t, nil
}

// moveBack moves a tag back to what all nodes ran before. If that can never be done, the
// rollout is paused, and says so.
func (s *Store) moveBack(ctx context.Context, ref Ref, r storage.Rollout) error {
	err := s.tags.MoveTag(s.as(ctx), ref.Repo, ref.Tag, digest.Digest(r.Digest), digest.Digest(r.Previous))
	refused := (*registry.Error)(nil)
	switch {
	case err == nil:
		s.log.WarnContext(ctx, "a rollout has failed: its tag was moved back", "repository", ref.Repo, "tag", ref.Tag, "from", r.Digest, "to", r.Previous, "reason", r.Reason)
		return nil
	case errors.Is(err, registry.ErrTagElsewhere):
		return nil // the next look finds what it names
	case !errors.As(err, &refused) || errors.Is(err, registry.ErrUnavailable):
		return err // the next report tries again
	}
	s.log.ErrorContext(ctx, "a rollout has failed, and its tag cannot be moved back", "repository", ref.Repo, "tag", ref.Tag, "error", err)
	key := storage.Key(ref.Repo, ref.Tag)
	return s.meta.Update(ctx, func(tx storage.Tx) error {
		now, err2 := storage.Rollouts.Get(tx, key)
		if err2 != nil || !now.Back || now.Digest != r.Digest {
			return err2
		}
		now.State, now.Back = Paused, false
		now.Reason = now.Reason + "; the tag cannot be moved back: " + clean(err.Error(), MaxError)
		now.Changed++
		now.Updated = s.now().UTC()
		return storage.Rollouts.Put(tx, key, now)
	})
}
