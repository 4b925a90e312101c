package retention

import (
	"context"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/storage"
)

const (
	// every is how often the rules are applied.
	every = time.Hour
	// soon is how long after the start, or a change of the rules, they are.
	soon = time.Minute
	// atOnce is how many tags one transaction removes, which pushes wait for.
	atOnce = 100
)

// Registry is where tags are removed; a registry.Local is one.
type Registry interface {
	// DeleteTagsIf removes those of tags of which ok, asked within the transaction,
	// says that they are still to be removed, and returns them.
	DeleteTagsIf(ctx context.Context, repo string, tags []string, ok func(tx storage.Tx, tag string, row storage.Tag) (bool, error)) ([]string, error)
	// Immutable says whether a tag cannot be removed.
	Immutable(repo, tag string) bool
}

// Options are what a Keeper can be told.
type Options struct {
	// Rules are the first rules.
	Rules []Rule
	// Pulls, if set, writes down what was pulled before rules ask for it.
	Pulls *Pulls
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Log receives what was removed, and failures; nil is none.
	Log *slog.Logger
}

// Keeper applies rules to the tags of a registry. Its methods may be called
// concurrently.
type Keeper struct {
	meta    storage.Meta
	reg     Registry
	pulls   *Pulls
	now     func() time.Time
	log     *slog.Logger
	rules   atomic.Pointer[[]Rule]
	cached  atomic.Pointer[func(repo string) bool]
	changed chan struct{}
	turn    chan struct{} // who holds it removes tags
}

// New makes a Keeper of the registry whose metadata are meta.
func New(meta storage.Meta, reg Registry, o Options) *Keeper {
	k := &Keeper{meta: meta, reg: reg, pulls: o.Pulls, now: o.Now, log: o.Log, changed: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
	if k.now == nil {
		k.now = time.Now
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	k.rules.Store(&o.Rules)
	k.SetCached(func(string) bool { return false })
	return k
}

// SetCached sets which repositories are caches of other registries. No rule is about
// them: they keep what is pulled.
func (k *Keeper) SetCached(cached func(repo string) bool) { k.cached.Store(&cached) }

// SetRules sets the rules from now on. What is being removed by other ones is
// stopped, and Run applies the new ones soon.
func (k *Keeper) SetRules(rules []Rule) {
	k.rules.Store(&rules)
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Rules is how many rules there are.
func (k *Keeper) Rules() int { return len(*k.rules.Load()) }

// Scope says which tags it is about.
type Scope struct {
	// Repos says which repositories; nil is all.
	Repos func(repo string) bool
	// Kept asks for verdicts on all tags: without it those that are kept may be left
	// out.
	Kept bool
}

// Plan says what would become of tags now, repository by repository. It ends with
// the first error. It changes nothing that rules are about.
func (k *Keeper) Plan(ctx context.Context, s Scope) iter.Seq2[Verdict, error] {
	return func(yield func(Verdict, error) bool) {
		enough := false
		err := k.plan(ctx, *k.rules.Load(), s, func(_ *planner, verdicts []Verdict) (bool, error) {
			for _, v := range verdicts {
				if (v.Remove || s.Kept) && !yield(v, nil) {
					enough = true
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil && !enough {
			yield(Verdict{}, err)
		}
	}
}

// plan tells each what becomes of some tags of a repository, until it has enough.
func (k *Keeper) plan(ctx context.Context, rules []Rule, s Scope, each func(*planner, []Verdict) (bool, error)) error {
	if len(rules) == 0 && !s.Kept {
		return nil
	}
	if k.pulls != nil {
		if err := k.pulls.Flush(ctx); err != nil {
			return err
		}
	}
	now := Now{Time: k.now()}
	var err error
	if now.Watched, err = watched(ctx, k.meta, now.Time); err != nil {
		return err
	}
	for after := ""; ; {
		repos, err := repositories(ctx, k.meta, after)
		if err != nil || len(repos) == 0 {
			return err
		}
		for _, repo := range repos {
			if s.Repos != nil && !s.Repos(repo) {
				continue
			}
			p := newPlanner(k.rulesOf(rules, repo), now, repo)
			if len(p.rules) == 0 && !s.Kept {
				continue
			}
			if more, err := k.planRepo(ctx, p, repo, each); !more || err != nil {
				return err
			}
		}
		after = repos[len(repos)-1]
	}
}

// rulesOf are the rules that can be about a repository.
func (k *Keeper) rulesOf(rules []Rule, repo string) []Rule {
	if (*k.cached.Load())(repo) {
		return nil
	}
	return rules
}

// planRepo goes through the tags of a repository: twice, if they have to be counted.
func (k *Keeper) planRepo(ctx context.Context, p *planner, repo string, each func(*planner, []Verdict) (bool, error)) (more bool, err error) {
	if p.counts() {
		more, err := k.tags(ctx, p, repo, func(tags []Tag) (bool, error) {
			for i := range tags {
				p.count(&tags[i])
			}
			return true, nil
		})
		if !more || err != nil {
			return more, err
		}
	}
	return k.tags(ctx, p, repo, func(tags []Tag) (bool, error) {
		verdicts, err := k.judge(ctx, p, tags)
		if err != nil {
			return false, err
		}
		return each(p, verdicts)
	})
}

// tags reads the tags of a repository in chunks.
func (k *Keeper) tags(ctx context.Context, p *planner, repo string, each func([]Tag) (bool, error)) (more bool, err error) {
	for after := ""; ; {
		tags, err := readTags(ctx, k.meta, repo, after, p.asksPulls())
		if err != nil || len(tags) == 0 {
			return err == nil, err
		}
		if more, err := each(tags); !more || err != nil {
			return more, err
		}
		after = tags[len(tags)-1].Name
	}
}

// judge says what becomes of some tags.
func (k *Keeper) judge(ctx context.Context, p *planner, tags []Tag) ([]Verdict, error) {
	verdicts := make([]Verdict, len(tags))
	var doomed []*Verdict
	for i, t := range tags {
		if verdicts[i] = p.judge(t); verdicts[i].Remove {
			doomed = append(doomed, &verdicts[i])
		}
	}
	if len(doomed) == 0 {
		return verdicts, nil
	}
	err := k.meta.View(ctx, func(tx storage.Tx) error {
		some, err := anyRuns(tx)
		for _, v := range doomed {
			running := false
			if some && err == nil {
				running, err = runs(tx, v.Repo, v.Digest, p.now.Time, maxDepth)
			}
			if err != nil {
				return err
			}
			v.hold(k.reg.Immutable(v.Repo, v.Name), running)
		}
		return err
	})
	return verdicts, err
}
