package deploy

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/runner"
)

// Deploy puts a stack into service, and returns when its revision has taken the
// traffic and held its gate. What happens is told to watch, one event after the
// other; watch may be nil. The end of ctx ends the watching, not the deployment.
//
// What is in service over again, from the same place, and as it should be, is left as it
// is: no revision is made, and the one in service is returned as Unchanged.
//
// It fails with runner.ErrInvalid if the stack is wrong, with runner.ErrPrecondition
// if it has routes and the host has no edge, or if the files of the stack cannot be
// read, with runner.ErrConflict if the stack is being deployed already, and with a
// *Failure if the version was not taken.
func (m *Manager) Deploy(ctx context.Context, req Request, watch func(Event)) (Revision, error) {
	if err := check(&req.Stack, m.edge != nil); err != nil {
		return Revision{}, err
	}
	u := m.unitOrNew(req.Stack.Name)
	if err := u.mend(ctx); err != nil {
		return Revision{}, err
	}
	return m.put(ctx, u, "deployed", req.By, watch, func(record) (*intent, error) {
		return &intent{by: req.By, from: req.From, stack: copyOf(req.Stack), contents: req.Contents, auth: req.Auth}, nil
	})
}

// intent is a revision that is wanted.
type intent struct {
	by, from string
	stack    Stack
	contents Contents
	auth     map[string]registry.AuthConfig
	// A revision before, or what is made of it, has its images pinned, and its versions
	// known. rollback is the one that is returned to.
	versions map[string]string
	rollback int
}

// put puts into service what is wanted, given the record of a stack that nobody else
// changes: a repair that goes on is waited for.
func (m *Manager) put(ctx context.Context, u *unit, what, by string, watch func(Event), want func(record) (*intent, error)) (Revision, error) {
	opCtx, op, err := u.begin(what, by, watch != nil)
	if err != nil {
		return Revision{}, err
	}
	if err := u.takeTurn(opCtx); err != nil {
		u.end(op, Revision{}, err)
		return Revision{}, err
	}
	in, err := want(u.record())
	number := 0
	if err == nil {
		number, err = u.admit(in)
	}
	if err != nil {
		<-u.turn
		u.end(op, Revision{}, err)
		u.discard()
		u.m.poke(u) // for what happened meanwhile
		return Revision{}, err
	}
	u.runNow(opCtx, op, func(ctx context.Context) (Revision, error) {
		d := &deployment{u: u, op: op, in: in, number: number}
		return d.run(ctx)
	})
	return op.watch(ctx, watch)
}

// admit records a revision: from now on it is deployed, whatever happens.
func (u *unit) admit(in *intent) (int, error) {
	rec := u.record()
	if rec.Removing {
		return 0, runner.Errorf(runner.ErrConflict, "stack %s was to be removed, which did not come to its end: it is tried again each minute, and 'berth-runner rm %s' says why", u.name, u.name)
	}
	number := rec.next()
	if err := u.store.saveContents(&in.stack, in.contents); err != nil {
		return 0, err
	}
	if err := u.saveStack(number, &versioned{Stack: &in.stack, Versions: in.versions}); err != nil {
		return 0, err
	}
	return number, u.update(func(r *record) {
		if r.pending() { // it could not go back yet, and need not any more
			rev := r.revision(r.Under.Revision)
			rev.Ended, rev.Outcome = time.Now().UTC(), cmp.Or(r.Under.Outcome, RolledBack)
		}
		r.Revisions = append(r.Revisions, Revision{
			Number: number, By: in.by, From: in.from, Started: time.Now().UTC(), Outcome: Deploying, Rollback: in.rollback,
		})
		r.Under = &under{Revision: number, Phase: phasePrepare}
	})
}

// discard forgets a stack that has come to nothing.
func (u *unit) discard() {
	u.mu.Lock()
	nothing := len(u.rec.Revisions) == 0 && u.unread == nil && u.op == nil
	u.gone = u.gone || nothing
	u.mu.Unlock()
	if nothing {
		_ = os.RemoveAll(u.store.dir) // the next Open removes what is left
		u.m.drop(u)
	}
}

// copyOf returns a stack whose services can be changed.
func copyOf(s Stack) Stack {
	s.Services = slices.Clone(s.Services)
	return s
}

// deployment is the way of a revision into service.
type deployment struct {
	u       *unit
	op      *operation
	in      *intent
	number  int
	from    *versioned // in service; nil: none
	to      *versioned
	changes []*change
	// quick says that all containers are there, and have held their gate before; those
	// that are just being stopped have others like them created beside.
	quick bool
	live  *live
}

// run takes all steps, and takes them back if one fails.
func (d *deployment) run(ctx context.Context) (Revision, error) {
	rev, err := d.forward(ctx)
	if err != nil {
		return d.u.fail(ctx, d.op, d.number, err)
	}
	return rev, nil
}

func (d *deployment) forward(ctx context.Context) (Revision, error) {
	if err := inTurn(ctx, d.pin, d.objects, d.compare); err != nil {
		return Revision{}, err
	}
	if same, err := d.unchanged(ctx); err != nil {
		return Revision{}, err
	} else if same {
		return d.keep(ctx)
	}
	if err := inTurn(ctx, d.reserve, d.bringAll, d.canary, d.switchOver, d.gateAgain); err != nil {
		return Revision{}, err
	}
	return d.commit(ctx)
}

// inTurn takes steps one after the other, until one fails or ctx ends.
func inTurn(ctx context.Context, steps ...func(context.Context) error) error {
	for _, step := range steps {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pin pulls what is missing, and records what exactly it is that is deployed.
func (d *deployment) pin(ctx context.Context) error {
	stack := &d.in.stack
	pull := d.u.m.pull
	if d.in.versions != nil {
		pull = d.u.m.repull
	}
	err := each(len(stack.Services), func(i int) error {
		svc := &stack.Services[i]
		return pull(ctx, svc, d.in.auth, func(kind EventKind, text string) { d.say(kind, svc.Name, "", text) })
	})
	if err != nil {
		return err
	}
	d.to = &versioned{Stack: stack, Versions: d.in.versions}
	if d.to.Versions == nil {
		if d.to.Versions, err = versions(stack); err != nil {
			return err
		}
	}
	if err := d.u.saveStack(d.number, d.to); err != nil {
		return err
	}
	return d.u.update(func(r *record) { r.revision(d.number).Images = imagesOf(stack) })
}

// compare finds out what there is, and what is to be done.
func (d *deployment) compare(ctx context.Context) error {
	rec := d.u.record()
	var err error
	if rec.Current != 0 {
		if d.from, err = d.u.stack(rec.Current); err != nil {
			return err
		}
	}
	found, err := d.u.m.find(ctx, d.u.name)
	if err != nil {
		return err
	}
	var wanted []string
	for i := range d.to.Stack.Services {
		wanted = append(wanted, ids(d.to.target(found, &d.to.Stack.Services[i]))...)
	}
	late, err := d.u.undrain(ctx, wanted, stopPatience)
	if err != nil {
		return err
	}
	if found, err = d.u.m.find(ctx, d.u.name); err != nil {
		return err
	}
	d.changes, err = changesOf(d.from, d.to, d.u.free(found), func(service, version string) bool {
		return slices.Contains(rec.Jobs, service+"@"+version)
	})
	if err != nil {
		return err
	}
	d.quick = d.in.rollback != 0
	for _, c := range d.changes {
		d.quick = d.quick && c.action != actionJob && !slices.ContainsFunc(c.missing, func(n int) bool {
			return !slices.ContainsFunc(found, func(r replica) bool {
				return r.Service == c.svc.Name && r.Number == n && slices.Contains(late, r.ID)
			})
		})
	}
	services, err := d.u.m.engine.Traffic(ctx, Owner(d.u.name))
	d.live = &live{u: d.u, services: services}
	return err
}

// say tells what happens.
func (d *deployment) say(kind EventKind, service, container, text string) {
	d.u.say(d.op, kind, service, container, text)
}

func (u *unit) say(op *operation, kind EventKind, service, container, text string) {
	if op == nil {
		return
	}
	op.tell(Event{Time: time.Now(), Stack: u.name, Service: service, Container: container, Kind: kind, Message: text})
}
