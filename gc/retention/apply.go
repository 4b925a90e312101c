package retention

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/berth-registry/berth/storage"
)

// ErrRulesChanged says that the rules were changed while they were applied.
var ErrRulesChanged = errors.New("the rules of retention have changed")

// Progress is what applying the rules has done so far.
type Progress struct {
	Tags    int64 // that rules were asked about
	Removed int64
	Spared  int64 // that were to be removed, and moved, pushed, pulled or run just then
}

// Apply removes what Plan says would be removed, and says how much that was. each,
// if not nil, is called with what was removed since it was called last, and with
// what was done so far. An error leaves what was not done for the next time; so does
// a change of the rules, which is ErrRulesChanged.
func (k *Keeper) Apply(ctx context.Context, s Scope, each func([]Verdict, Progress)) (done Progress, err error) {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return done, ctx.Err()
	}
	if each == nil {
		each = func([]Verdict, Progress) {}
	}
	rules := k.rules.Load()
	s.Kept = false
	err = k.plan(ctx, *rules, s, func(p *planner, verdicts []Verdict) (bool, error) {
		done.Tags += int64(len(verdicts))
		doomed := slices.DeleteFunc(verdicts, func(v Verdict) bool { return !v.Remove })
		for some := range slices.Chunk(doomed, atOnce) {
			if k.rules.Load() != rules {
				return false, ErrRulesChanged
			}
			removed, err := k.remove(ctx, p, some)
			if err != nil {
				return false, err
			}
			done.Removed += int64(len(removed))
			done.Spared += int64(len(some) - len(removed))
			each(removed, done)
		}
		if len(doomed) == 0 {
			each(nil, done)
		}
		return true, nil
	})
	return done, err
}

// remove removes some tags of a repository, those that are as they were when they
// were judged, and returns them.
func (k *Keeper) remove(ctx context.Context, p *planner, some []Verdict) (removed []Verdict, err error) {
	byName := make(map[string]*Verdict, len(some))
	names := make([]string, len(some))
	for i := range some {
		names[i] = some[i].Name
		byName[names[i]] = &some[i]
	}
	asks := p.asksPulls()
	deleted, err := k.reg.DeleteTagsIf(ctx, some[0].Repo, names, func(tx storage.Tx, tag string, row storage.Tag) (bool, error) {
		v := byName[tag]
		if row.Digest != string(v.Digest) || !row.Pushed().Equal(v.Pushed) {
			return false, nil
		}
		if asks {
			at, err := pulled(tx, v.Repo, tag, v.Digest)
			if err != nil || !at.Equal(v.Pulled) {
				return false, err
			}
		}
		running, err := runs(tx, v.Repo, v.Digest, k.now(), maxDepth)
		return !running, err
	})
	for _, tag := range deleted {
		removed = append(removed, *byName[tag])
	}
	return removed, err
}

// Run applies the rules every hour, and soon after it starts and after they have
// changed, until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	timer := time.NewTimer(soon)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.changed:
			timer.Reset(soon)
			continue
		case <-timer.C:
		}
		done, err := k.Apply(ctx, Scope{}, nil)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrRulesChanged): // they are on their way
		case err != nil:
			k.log.ErrorContext(ctx, "tags that are not to be kept could not be removed; will try again", "removed", done.Removed, "error", err)
		case done.Removed > 0:
			k.log.InfoContext(ctx, "removed tags that no rule of retention keeps", "removed", done.Removed, "of", done.Tags)
		}
		timer.Reset(every)
	}
}
