package deploy

import (
	"context"
	"errors"
	"slices"

	"github.com/berth-registry/berth/runner"
)

// sweep removes the containers of a stack that no revision explains: those neither of
// the revision in service, nor of one that is kept, nor drained. Those that are kept
// are stopped. What a revision has made that cannot be read may be explained by it, and
// is kept, too.
func (u *unit) sweep(ctx context.Context, force bool) error {
	found, err := u.m.find(ctx, u.name)
	if err != nil {
		return err
	}
	rec := u.record()
	if rec.Under != nil && !force {
		return nil
	}
	kept, lost, err := u.kept(rec)
	if err != nil {
		return err
	}
	var current []replica
	keep := map[string]bool{}
	for number, v := range kept {
		list := targets(v, found)
		if number == rec.Current {
			current = list
		}
		for _, r := range list {
			keep[r.ID] = true
		}
	}
	stay := map[string]bool{}
	for _, id := range ids(current) {
		stay[id] = true
	}
	for _, dr := range rec.Draining {
		stay[dr.ID] = true
	}
	return each(len(found), func(i int) error {
		switch r := found[i]; {
		case stay[r.ID]:
			return nil
		case !keep[r.ID] && !slices.Contains(lost, r.Revision):
			return u.remove(ctx, r.ID)
		case r.active():
			return u.stop(ctx, r.ID, serviceOf(kept, r))
		}
		return nil
	})
}

// serviceOf finds the service of a container in the versions kept.
func serviceOf(kept map[int]*versioned, r replica) *Service {
	for _, v := range kept {
		if svc := v.Stack.service(r.Service); svc != nil && v.version(r.Service) == r.Version {
			return svc
		}
	}
	return nil
}

// kept returns the revision in service and those whose containers are kept, and those
// that cannot be read and might be among them.
func (u *unit) kept(rec record) (kept map[int]*versioned, lost []int, err error) {
	kept = map[int]*versioned{}
	if rec.Current == 0 {
		return kept, nil, nil
	}
	current, err := u.stack(rec.Current)
	if err != nil {
		return nil, nil, err
	}
	kept[rec.Current] = current
	different := []*versioned{current}
	for _, rev := range slices.Backward(rec.Revisions) {
		if len(different) > current.Stack.Keep {
			break
		}
		if rev.Outcome != Deployed || rev.Number >= rec.Current {
			continue
		}
		v, err := u.stack(rev.Number)
		if errors.Is(err, runner.ErrNotFound) {
			continue
		}
		if err != nil {
			lost = append(lost, rev.Number)
			continue
		}
		if !slices.ContainsFunc(different, func(o *versioned) bool { return sameVersions(o, v) }) {
			different = append(different, v)
		}
		kept[rev.Number] = v
	}
	return kept, lost, nil
}

// sameVersions says whether two versions have the same containers.
func sameVersions(a, b *versioned) bool {
	if len(a.Versions) != len(b.Versions) {
		return false
	}
	for name, version := range a.Versions {
		if other := b.Stack.service(name); b.Versions[name] != version || other == nil || replicasOf(other) != replicasOf(a.Stack.service(name)) {
			return false
		}
	}
	return true
}

// prune forgets revisions that are too old, with what they are made of and their
// files, and jobs that no revision has. If one cannot be read, the files and jobs of all
// stay.
func (u *unit) prune() error {
	rec := u.record()
	kept, lost, err := u.kept(rec)
	if err != nil {
		return err
	}
	keep := map[int]bool{}
	for number := range kept {
		keep[number] = true
	}
	for _, number := range lost {
		keep[number] = true
	}
	if rec.Under != nil {
		keep[rec.Under.Revision] = true
	}
	for i, rev := range rec.Revisions {
		if i >= len(rec.Revisions)-u.m.history {
			keep[rev.Number] = true
		}
	}
	var stacks []*Stack
	jobs := map[string]bool{}
	for number := range keep {
		v, err := u.stack(number)
		if errors.Is(err, runner.ErrNotFound) {
			continue
		}
		if err != nil {
			lost = append(lost, number)
			continue
		}
		stacks = append(stacks, v.Stack)
		for service, version := range v.Versions {
			jobs[service+"@"+version] = true
		}
	}
	old := func(r Revision) bool { return !keep[r.Number] }
	undone := func(job string) bool { return !jobs[job] && len(lost) == 0 }
	if slices.ContainsFunc(rec.Revisions, old) || slices.ContainsFunc(rec.Jobs, undone) {
		err := u.update(func(r *record) {
			r.Revisions = slices.DeleteFunc(r.Revisions, old)
			r.Jobs = slices.DeleteFunc(r.Jobs, undone)
		})
		if err != nil {
			return err
		}
	}
	if err := u.forget(keep); err != nil || len(lost) > 0 {
		return err
	}
	return u.store.forgetContents(stacks)
}
