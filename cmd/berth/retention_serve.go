package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/gc/retention"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// retainer removes the tags that the configuration does not keep, and records when
// tags are pulled. It is what the administration needs of that.
type retainer struct {
	pulls  *retention.Pulls
	keeper *retention.Keeper
	rules  []config.Retention // in force
}

func newRetainer(local *registry.Local, meta storage.Meta, log *slog.Logger) *retainer {
	pulls := retention.NewPulls(meta, retention.PullOptions{Log: log})
	return &retainer{pulls: pulls, keeper: retention.New(meta, local, retention.Options{Pulls: pulls, Log: log})}
}

// prepare reads the rules. What it returns makes them hold.
func (r *retainer) prepare(list []config.Retention) (apply func(), err error) {
	rules, err := retentionRules(list)
	if err != nil {
		return nil, err
	}
	return func() {
		if !reflect.DeepEqual(r.rules, list) {
			r.rules = list
			r.keeper.SetRules(rules)
		}
	}, nil
}

// retentionRules reads the rules of a configuration.
func retentionRules(list []config.Retention) ([]retention.Rule, error) {
	rules := make([]retention.Rule, 0, len(list))
	for i, c := range list {
		for _, pattern := range c.Repos {
			if !auth.ValidPattern(pattern) {
				return nil, fmt.Errorf("retention: rule %d: %q is no pattern of repositories, such as team/**", i+1, pattern)
			}
		}
		rule, err := retention.NewRule(retention.Spec{
			Repos: func(repo string) bool { return matchesAny(c.Repos, repo) },
			Tags:  c.Tags, Last: c.Last, Order: c.Order, PushedWithin: c.PushedWithin, PulledWithin: c.PulledWithin,
			Semver: c.Semver, Matching: c.Matching,
		})
		if err != nil {
			return nil, fmt.Errorf("retention: rule %d: %w", i+1, err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func matchesAny(patterns []string, repo string) bool {
	for _, p := range patterns {
		if auth.Match(p, repo) {
			return true
		}
	}
	return false
}

// RetentionRules implements admin.Retention.
func (r *retainer) RetentionRules() int { return r.keeper.Rules() }

// PlanTags implements admin.Retention.
func (r *retainer) PlanTags(ctx context.Context, repos func(string) bool, kept bool, each func(admin.RetainedTag) error) error {
	for v, err := range r.keeper.Plan(ctx, retention.Scope{Repos: repos, Kept: kept}) {
		if err == nil {
			err = each(retainedTag(v))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// RetainTags implements admin.Retention.
func (r *retainer) RetainTags(ctx context.Context, repos func(string) bool, each func(admin.RetentionStep)) error {
	_, err := r.keeper.Apply(ctx, retention.Scope{Repos: repos}, func(removed []retention.Verdict, p retention.Progress) {
		step := admin.RetentionStep{Checked: p.Tags, Removed: p.Removed, Spared: p.Spared}
		for _, v := range removed {
			step.Tags = append(step.Tags, retainedTag(v))
		}
		each(step)
	})
	if errors.Is(err, retention.ErrRulesChanged) {
		return registry.ErrUnavailable.With("the rules of retention have just changed; see what they say and run it again")
	}
	return err
}

func retainedTag(v retention.Verdict) admin.RetainedTag {
	t := admin.RetainedTag{
		Repo: v.Repo, Tag: v.Name, Digest: string(v.Digest), Pushed: v.Pushed.UTC(), Remove: v.Remove, Rule: v.Rule,
	}
	if !v.Pulled.IsZero() {
		at := v.Pulled.UTC()
		t.Pulled = &at
	}
	if !v.Remove {
		t.Kept = v.By.String()
	}
	return t
}
