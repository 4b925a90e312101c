package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// Stacks returns all stacks as they are now, sorted by name. What cannot be said of one
// is in its Error.
func (m *Manager) Stacks(ctx context.Context) ([]Status, error) {
	list := []Status{}
	for _, u := range m.all() {
		if !u.known() {
			continue
		}
		s, err := u.status(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, runner.ErrNotFound) && s.Name == "" {
			continue
		}
		if err != nil {
			s.Error = err.Error()
		}
		list = append(list, s)
	}
	return list, nil
}

// Status returns a stack as it is now, or runner.ErrNotFound.
func (m *Manager) Status(ctx context.Context, stack string) (Status, error) {
	u, err := m.unit(stack)
	if err != nil {
		return Status{}, err
	}
	return u.status(ctx)
}

// History returns the revisions of a stack that are remembered, the newest first. It
// fails with runner.ErrNotFound, and with runner.ErrPrecondition if they cannot be read.
func (m *Manager) History(ctx context.Context, stack string) ([]Revision, error) {
	u, err := m.usable(ctx, stack)
	if err != nil {
		return nil, err
	}
	found, err := m.find(ctx, stack)
	if err != nil {
		return nil, err
	}
	list := u.record().Revisions
	slices.Reverse(list)
	for i := range list {
		v, err := u.stack(list[i].Number)
		if err != nil {
			continue // it was just forgotten
		}
		list[i].Kept = list[i].Outcome == Deployed && v.complete(found)
	}
	return list, nil
}

// complete says whether all containers of a version are there.
func (v *versioned) complete(found []replica) bool {
	for i := range v.Stack.Services {
		if svc := &v.Stack.Services[i]; !svc.Job && len(v.target(found, svc)) < svc.Replicas {
			return false
		}
	}
	return true
}

// Stack returns what a revision is made of; with 0, the one in service. It fails with
// runner.ErrNotFound, and with runner.ErrPrecondition if that cannot be read.
func (m *Manager) Stack(ctx context.Context, stack string, revision int) (Stack, error) {
	u, err := m.usable(ctx, stack)
	if err != nil {
		return Stack{}, err
	}
	rec := u.record()
	if revision == 0 {
		revision = rec.Current
	}
	if rec.revision(revision) == nil {
		return Stack{}, runner.Errorf(runner.ErrNotFound, "stack %s has no revision %d, or does not remember it", stack, revision)
	}
	v, err := u.stack(revision)
	if err != nil {
		return Stack{}, err
	}
	return *v.Stack, nil
}

// status is the stack as it is now: the services of the revision in service, or of the
// first that is on its way, or of the last one if none was ever in service.
func (u *unit) status(ctx context.Context) (Status, error) {
	if err := u.mend(ctx); err != nil {
		return u.leftStatus(ctx, err), nil
	}
	rec := u.record()
	if len(rec.Revisions) == 0 { // it has gone just now
		return Status{}, runner.Errorf(runner.ErrNotFound, "no such stack: %s", u.name)
	}
	s := Status{Name: u.name, Revision: rec.Current, Services: []ServiceStatus{}, Drift: []string{}}
	shown := rec.Current
	if rec.Under != nil {
		s.Deploying = rec.Under.Revision
		if shown == 0 {
			shown = s.Deploying
		}
	}
	if shown == 0 {
		last := rec.Revisions[len(rec.Revisions)-1]
		shown = last.Number
		s.Drift = append(s.Drift, outcomeOf(last))
	}
	v, err := u.stack(shown)
	if err != nil {
		return s, err
	}
	found, err := u.m.find(ctx, u.name)
	if err != nil {
		return s, err
	}
	services, err := u.m.engine.Traffic(ctx, Owner(u.name))
	if err != nil {
		return s, err
	}
	u.mu.Lock()
	ports, ails := maps.Clone(u.ports), u.ails
	u.mu.Unlock()
	for i := range v.Stack.Services {
		svc := &v.Stack.Services[i]
		one := u.serviceStatus(ctx, v, svc, found, weightsOf(services, svc.Name))
		if svc.Job {
			one.Ready = b2i(slices.Contains(rec.Jobs, svc.Name+"@"+v.version(svc.Name)))
		}
		if p, ok := ports[svc.Name]; ok {
			one.Ports = p
		}
		s.Services = append(s.Services, one)
		if shown == rec.Current {
			s.Drift = append(s.Drift, drift(svc, v.target(found, svc))...)
		}
	}
	s.Drift = append(s.Drift, u.lost(rec)...)
	if rec.Removing {
		s.Drift = []string{"it is being removed"}
	}
	switch {
	case ails != "" && rec.pending():
		s.Drift = append(s.Drift, "it does not come to its end, and is tried again: "+ails)
	case ails != "":
		s.Drift = append(s.Drift, "it cannot be repaired: "+ails)
	}
	if rec.paused() {
		s.Drift = append(s.Drift, fmt.Sprintf("revision %d is paused: deploy again, or roll back", rec.Under.Revision))
	}
	return s, nil
}

// lost says which revisions cannot be returned to, since they cannot be read.
func (u *unit) lost(rec record) []string {
	var lines []string
	for _, rev := range rec.Revisions {
		if rev.Outcome != Deployed || rev.Number == rec.Current {
			continue
		}
		_, err := u.stack(rev.Number)
		if _, ok := errors.AsType[*unreadable](err); ok {
			lines = append(lines, fmt.Sprintf("revision %d: %v: restore the file from a backup, or remove it, and the revision is forgotten", rev.Number, err))
		}
	}
	return lines
}

// outcomeOf is what became of a revision, in a line.
func outcomeOf(r Revision) string {
	text := fmt.Sprintf("revision %d: %s", r.Number, r.Outcome)
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	return text
}

func (u *unit) serviceStatus(ctx context.Context, v *versioned, svc *Service, found []replica, weights map[string]int) ServiceStatus {
	one := ServiceStatus{
		Name: svc.Name, Image: svc.Image, Digest: imagesOf(v.Stack)[svc.Name], Strategy: svc.Strategy,
		Job: svc.Job, Replicas: replicasOf(svc), Ports: network.PortMap{},
	}
	for _, route := range svc.Routes {
		one.Hosts = append(one.Hosts, route.Hosts...)
	}
	for _, r := range v.target(found, svc) {
		if r.running() && (r.Health == container.Healthy || r.Health == container.NoHealthcheck || r.Health == container.Starting && weights[r.ID] > 0) {
			one.Ready++
		}
	}
	one.Containers = u.containers(ctx, svc.Name, found, weights)
	return one
}

// containers are those found of a service.
func (u *unit) containers(ctx context.Context, service string, found []replica, weights map[string]int) []ContainerStatus {
	list := []ContainerStatus{}
	for _, r := range found {
		if r.Service != service {
			continue
		}
		c := ContainerStatus{
			ID: r.ID, Name: r.Name, Revision: r.Revision, State: string(r.State), Health: string(r.Health), Weight: weights[r.ID],
		}
		if !r.running() {
			c.Exit = u.exitCode(ctx, r.ID)
		}
		list = append(list, c)
	}
	return list
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// drift says what is not as it should be of a service.
func drift(svc *Service, list []replica) []string {
	var lines []string
	if svc.Job {
		return nil
	}
	for _, n := range missing(list, svc.Replicas) {
		lines = append(lines, fmt.Sprintf("service %s: replica %d is missing", svc.Name, n))
	}
	for _, r := range list {
		switch {
		case !r.running():
			lines = append(lines, fmt.Sprintf("service %s: %s is %s", svc.Name, r.Name, r.State))
		case r.Health == container.Unhealthy:
			lines = append(lines, fmt.Sprintf("service %s: %s is unhealthy", svc.Name, r.Name))
		}
	}
	return lines
}
