package deploy

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
)

// errEnded is why a revision goes back that was cut short.
var errEnded = errors.New("the daemon ended")

// resume goes on with what was cut short. It returns at once; until it is done, the
// stack is being deployed.
func (u *unit) resume() {
	u.drainAll()
	rec := u.record()
	switch {
	case rec.Removing:
		u.resumeWith("removed", func(ctx context.Context, op *operation) (Revision, error) {
			return Revision{}, u.removeAll(ctx, op, rec.Volumes)
		})
	case rec.pending():
		u.resumeWith("deployed", func(ctx context.Context, op *operation) (Revision, error) {
			if rec := u.record(); rec.pending() { // else somebody else has done it
				return u.goOn(ctx, op, *rec.Under)
			}
			return Revision{}, nil
		})
	default:
		u.m.poke(u)
	}
}

func (u *unit) resumeWith(what string, do func(ctx context.Context, op *operation) (Revision, error)) {
	ctx, op, err := u.begin(what, "", false)
	if err != nil {
		return // somebody else does it
	}
	u.run(ctx, op, func(ctx context.Context) (Revision, error) {
		rev, err := do(ctx, op)
		if _, taken := errors.AsType[*Failure](err); taken {
			u.m.log.WarnContext(ctx, "what was cut short", "stack", u.name, "error", err)
		}
		return rev, err
	})
}

// goOn finishes a revision that has the traffic, and takes every other one back.
func (u *unit) goOn(ctx context.Context, op *operation, at under) (Revision, error) {
	if at.Phase == phaseBack {
		err := u.back(u.m.lifetime(), op, at.Revision, at.Outcome, at.Reason) // a cancellation wants no more
		rec := u.record()
		return *rec.revision(at.Revision), err
	}
	if at.Phase == phaseSwitch {
		services, err := u.m.engine.Traffic(ctx, Owner(u.name))
		if err != nil {
			return u.fail(ctx, op, at.Revision, err)
		}
		if leadsTo(services, at.Target) {
			return u.finish(ctx, op, at)
		}
	}
	return u.fail(ctx, op, at.Revision, errEnded)
}

// finish ends the deployment of a revision that has the traffic: its gate has to hold
// again.
func (u *unit) finish(ctx context.Context, op *operation, at under) (Revision, error) {
	to, err := u.stack(at.Revision)
	if err != nil {
		return u.fail(ctx, op, at.Revision, err)
	}
	rec := u.record()
	var from *versioned
	if rec.Current != 0 {
		if from, err = u.stack(rec.Current); err != nil {
			return u.fail(ctx, op, at.Revision, err)
		}
	}
	if err = u.endedMeanwhile(ctx, from, to); err == nil {
		err = u.restore(ctx, op, to, at.Revision)
	}
	if err == nil {
		err = u.holdAgain(ctx, op, from, to)
	}
	if err != nil {
		return u.fail(ctx, op, at.Revision, err)
	}
	return u.commit(ctx, at.Revision, from, to)
}

// endedMeanwhile returns the error of a gate if a new container has ended while nobody
// looked.
func (u *unit) endedMeanwhile(ctx context.Context, from, to *versioned) error {
	found, err := u.m.find(ctx, u.name)
	if err != nil {
		return err
	}
	for i := range to.Stack.Services {
		svc := &to.Stack.Services[i]
		if svc.Job || from.version(svc.Name) == to.version(svc.Name) || svc.Update.FailureAction == OnFailureContinue {
			continue
		}
		for _, r := range to.target(u.free(found), svc) {
			if r.State == container.StateExited {
				w := &watched{u: u, svc: svc, replica: r}
				return w.ended(ctx, u.exitCode(ctx, r.ID))
			}
		}
	}
	return nil
}

// holdAgain holds the gate of the services that have another version than before.
func (u *unit) holdAgain(ctx context.Context, op *operation, from, to *versioned) error {
	found, err := u.m.find(ctx, u.name)
	if err != nil {
		return err
	}
	d := &deployment{u: u, op: op, to: to}
	return each(len(to.Stack.Services), func(i int) error {
		svc := &to.Stack.Services[i]
		if svc.Job || from.version(svc.Name) == to.version(svc.Name) {
			return nil
		}
		return d.tolerate(svc, d.hold(ctx, svc, to.target(u.free(found), svc)))
	})
}
