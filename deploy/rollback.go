package deploy

import (
	"context"

	"github.com/berth-registry/berth/runner"
)

// Rollback puts a revision before into service again, as a revision of its own. With
// 0 it is the last one that had the traffic and differs from the present one. If its containers are
// kept, they are started at the same time, and the traffic moves when all are ready;
// otherwise they are created anew, of the images that they had, and the gate has to
// hold as in Deploy. Errors are those of Deploy, and runner.ErrNotFound.
func (m *Manager) Rollback(ctx context.Context, stack string, to int, by string, watch func(Event)) (Revision, error) {
	u, err := m.usable(ctx, stack)
	if err != nil {
		return Revision{}, err
	}
	return m.put(ctx, u, "rolled back", by, watch, func(rec record) (*intent, error) {
		rev, err := u.before(rec, to)
		if err != nil {
			return nil, err
		}
		v, err := u.stack(rev.Number)
		if err != nil {
			return nil, err
		}
		if err := check(v.Stack, m.edge != nil); err != nil {
			return nil, err
		}
		return &intent{by: by, from: rev.From, stack: copyOf(*v.Stack), versions: v.Versions, rollback: rev.Number}, nil
	})
}

// chosenBefore returns the revision that somebody wants to return to.
func chosenBefore(rec record, to int) (*Revision, error) {
	rev := rec.revision(to)
	switch {
	case rev == nil:
		return nil, runner.Errorf(runner.ErrNotFound, "stack %s has no revision %d, or does not remember it", rec.Name, to)
	case rev.Number == rec.Current && !rec.paused():
		return nil, runner.Errorf(runner.ErrInvalid, "revision %d of stack %s is in service", to, rec.Name)
	case rev.Outcome != Deployed:
		return nil, runner.Errorf(runner.ErrInvalid, "revision %d of stack %s never was in service: %s", to, rec.Name, rev.Outcome)
	}
	return rev, nil
}

// Scale changes the number of replicas of services, as a revision of its own. Errors
// are those of Deploy, and runner.ErrNotFound.
func (m *Manager) Scale(ctx context.Context, stack string, replicas map[string]int, by string, watch func(Event)) (Revision, error) {
	u, err := m.usable(ctx, stack)
	if err != nil {
		return Revision{}, err
	}
	return m.put(ctx, u, "scaled", by, watch, func(rec record) (*intent, error) {
		if rec.Current == 0 {
			return nil, runner.Errorf(runner.ErrNotFound, "stack %s has no revision in service", stack)
		}
		v, err := u.stack(rec.Current)
		if err != nil {
			return nil, err
		}
		scaled := copyOf(*v.Stack)
		for name, n := range replicas {
			switch svc := scaled.service(name); {
			case svc == nil:
				return nil, runner.Errorf(runner.ErrNotFound, "stack %s has no service %s", stack, name)
			case svc.Job:
				return nil, runner.Errorf(runner.ErrInvalid, "service %s is a job: it has no replicas", name)
			default:
				svc.Replicas = n
			}
		}
		if err := check(&scaled, m.edge != nil); err != nil {
			return nil, err
		}
		return &intent{by: by, from: rec.revision(rec.Current).From, stack: scaled, versions: v.Versions}, nil
	})
}

// Cancel takes back the deployment of a stack that goes on, and returns when that is
// done. It fails with runner.ErrNotFound if there is none, and with runner.ErrConflict
// if it was too late.
func (m *Manager) Cancel(ctx context.Context, stack string) error {
	u, err := m.usable(ctx, stack)
	if err != nil {
		return err
	}
	u.mu.Lock()
	op := u.op
	u.mu.Unlock()
	if op == nil || op.what == "removed" {
		return runner.Errorf(runner.ErrNotFound, "stack %s is not being deployed", stack)
	}
	op.cancel(errCancelled)
	select {
	case <-op.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	op.mu.Lock()
	defer op.mu.Unlock()
	if op.result.Outcome == Deployed {
		return runner.Errorf(runner.ErrConflict, "stack %s: revision %d was in service already", stack, op.result.Number)
	}
	return nil
}
