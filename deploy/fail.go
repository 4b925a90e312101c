package deploy

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/berth-registry/berth/runner"
)

// fail ends the deployment of a revision that is not taken: all goes back, unless it
// is to stay as it is.
func (u *unit) fail(ctx context.Context, op *operation, number int, why error) (Revision, error) {
	if cause := context.Cause(ctx); errors.Is(cause, errClosing) {
		return Revision{}, cause // the next Open goes on
	}
	f := &Failure{Reason: why.Error()}
	var gate *gateError
	if errors.As(why, &gate) {
		f.Service, f.Container, f.ExitCode = gate.svc.Name, gate.container.Name, gate.exit
		f.Reason, f.Log = gate.reason, gate.log
	}
	outcome := RolledBack
	switch {
	case errors.Is(context.Cause(ctx), errCancelled):
		outcome, f = Cancelled, &Failure{Reason: cancelled}
	case gate != nil && gate.svc.Update.FailureAction == OnFailurePause:
		outcome = Paused
	case u.record().Current == 0:
		outcome = Failed
	}
	for _, line := range f.Log {
		u.say(op, EventLog, f.Service, f.Container, line)
	}
	u.say(op, EventFailure, f.Service, f.Container, f.Reason)
	var err error
	if outcome == Paused {
		err = u.pause(number, f)
	} else {
		err = u.back(u.m.lifetime(), op, number, outcome, reasonOf(f))
	}
	if errors.Is(context.Cause(u.m.lifetime()), errClosing) && err != nil {
		return Revision{}, errClosing
	}
	if err != nil {
		u.say(op, EventWarning, "", "", "it does not go back yet: "+err.Error())
		u.m.log.WarnContext(ctx, "take back a revision", "stack", u.name, "revision", number, "error", err)
	}
	rec := u.record()
	f.Revision = *rec.revision(number)
	return f.Revision, f
}

// cancelled is why a version is not taken that somebody has cancelled. Its outcome says
// so already, in the history.
const cancelled = "it was cancelled"

// reasonOf is a failure in a line, without the revision and its outcome.
func reasonOf(f *Failure) string {
	if f.Reason == cancelled {
		return ""
	}
	if f.Service == "" {
		return f.Reason
	}
	return "service " + f.Service + ": " + cmp.Or(f.Container, f.Service) + ": " + f.Reason
}

// pause leaves a revision as it is.
func (u *unit) pause(number int, f *Failure) error {
	return u.update(func(r *record) {
		rev := r.revision(number)
		rev.Ended, rev.Outcome, rev.Reason = time.Now().UTC(), Paused, reasonOf(f)
		r.Under = &under{Revision: number, Phase: phasePaused}
	})
}

// back makes the revision in service what all is as before another came, and removes
// what that one has made. It can be cut short, and repeated.
func (u *unit) back(ctx context.Context, op *operation, number int, outcome Outcome, reason string) error {
	err := u.update(func(r *record) {
		r.Under = &under{Revision: number, Phase: phaseBack, Outcome: outcome, Reason: reason}
		r.revision(number).Reason = reason
	})
	if err != nil {
		return err
	}
	rec := u.record()
	var from *versioned
	if rec.Current != 0 {
		if from, err = u.stack(rec.Current); err != nil {
			return err
		}
	}
	u.say(op, EventStep, "", "", "go back")
	if err := u.restore(ctx, op, from, rec.Current); err != nil {
		return err
	}
	if err := u.sweep(ctx, true); err != nil {
		return err
	}
	if from == nil {
		if err := u.removeNetworks(ctx); err != nil {
			return err
		}
	}
	return u.update(func(r *record) {
		r.Under = nil
		rev := r.revision(number)
		rev.Ended, rev.Outcome = time.Now().UTC(), outcome
	})
}

// restore gives the traffic to a version, whose containers are started before if need
// be; to nobody if there is none.
func (u *unit) restore(ctx context.Context, op *operation, v *versioned, revision int) error {
	var services []runner.Service
	if v != nil {
		lists := make([][]replica, len(v.Stack.Services))
		found, err := u.m.find(ctx, u.name)
		if err != nil {
			return err
		}
		err = each(len(lists), func(i int) error {
			svc := &v.Stack.Services[i]
			if svc.Job {
				return nil
			}
			var err error
			lists[i], err = u.revive(ctx, op, v, svc, revision, u.free(found))
			return err
		})
		if err != nil {
			return err
		}
		for i, list := range lists {
			if svc := &v.Stack.Services[i]; !svc.Job {
				services = append(services, entry(svc, even(list)))
			}
		}
	}
	if err := u.setTraffic(ctx, services); err != nil {
		return err
	}
	return u.setRoutes(ctx, v.stack(), services)
}

// revive returns the replicas that a version has of a service. Those that do not run
// are started, and those that are missing created; if they are not ready in time it is
// only told.
func (u *unit) revive(ctx context.Context, op *operation, v *versioned, svc *Service, revision int, found []replica) ([]replica, error) {
	list := v.target(found, svc)
	var fresh []int // indices
	for _, n := range missing(list, svc.Replicas) {
		r, err := u.create(ctx, svc, v.version(svc.Name), revision, n)
		if err != nil {
			u.say(op, EventWarning, svc.Name, "", err.Error())
			continue
		}
		list = merge(list, []replica{r})
	}
	for i := range list {
		if !list[i].active() {
			fresh = append(fresh, i)
		}
	}
	return list, each(len(fresh), func(i int) error {
		r := &list[fresh[i]]
		u.say(op, EventStep, svc.Name, r.Name, "start "+r.Name)
		err := u.start(ctx, r)
		if err == nil {
			var w *watched
			if w, err = u.look(ctx, svc, *r); err == nil {
				defer w.cancel()
				err = w.ready(ctx, func(string) {})
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			u.say(op, EventWarning, svc.Name, r.Name, err.Error())
		}
		return nil
	})
}
