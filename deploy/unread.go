package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// A stack whose files cannot be read is left as it is: its containers, its traffic, and
// its files. It is listed with the reason, can be removed, and is read again whenever it
// is asked for.

// read reads the record, and what is in service.
func (u *unit) read() (err error) {
	if u.rec, err = u.store.load(); err != nil || u.rec.Current == 0 || u.rec.Removing {
		return err
	}
	v, err := u.store.stack(u.rec.Current)
	path := u.store.path(strconv.Itoa(u.rec.Current) + ".json")
	switch {
	case errors.Is(err, runner.ErrNotFound):
		return &unreadable{path, errors.New("it is not there")}
	case err != nil:
		return err
	case !v.pinned():
		return &unreadable{path, errors.New("a service has no version")}
	}
	u.stacks[u.rec.Current] = v
	return nil
}

// mend reads a stack again that could not be read, and goes on with it; it returns why
// it still cannot.
func (u *unit) mend(ctx context.Context) error {
	u.mu.Lock()
	if u.unread == nil {
		u.mu.Unlock()
		return nil
	}
	if u.op == nil && !u.gone {
		u.unread = u.read()
	}
	unread := u.unread
	u.mu.Unlock()
	if unread != nil {
		return u.refuses(unread)
	}
	u.m.log.InfoContext(ctx, "a stack can be read again", "stack", u.name)
	u.resume()
	return nil
}

// refuses is why nothing is done about a stack that cannot be read.
func (u *unit) refuses(unread error) error {
	return runner.Errorf(runner.ErrPrecondition, "stack %s cannot be used: %w; what runs of it is left as it is. "+
		"Restore the file from a backup, and the runner goes on with the stack, or remove the stack: berth-runner rm %s", u.name, unread, u.name)
}

// sound says whether the host has the stack, and can read it.
func (u *unit) sound() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.unread == nil && len(u.rec.Revisions) > 0
}

// load takes up a stack whose directory is there. One without a record was about to
// come, or to go, if there is nothing of it.
func (m *Manager) load(ctx context.Context, name string) error {
	u := m.newUnit(name)
	u.unread = u.read()
	if _, err := os.Lstat(u.store.path(recordFile)); errors.Is(err, fs.ErrNotExist) && !m.hasLeft(ctx, name) {
		return u.store.removeDir()
	}
	if u.unread != nil {
		m.log.ErrorContext(ctx, "a stack is left as it is", "stack", name, "error", u.refuses(u.unread))
	}
	m.units[name] = u
	return nil
}

// hasLeft says whether there are containers or traffic of a stack, as far as is known.
func (m *Manager) hasLeft(ctx context.Context, name string) bool {
	found, err := m.find(ctx, name)
	services, terr := m.engine.Traffic(ctx, Owner(name))
	return err != nil || terr != nil || len(found)+len(services) > 0
}

// leftStatus is what can be found of a stack without its files, and why that is so.
func (u *unit) leftStatus(ctx context.Context, unread error) Status {
	u.mu.Lock()
	s := Status{Name: u.name, Revision: u.rec.Current, Services: []ServiceStatus{}, Drift: []string{}, Error: unread.Error()}
	u.mu.Unlock()
	found, err := u.m.find(ctx, u.name)
	services, terr := u.m.engine.Traffic(ctx, Owner(u.name))
	if err = errors.Join(err, terr); err != nil {
		s.Drift = append(s.Drift, fmt.Sprintf("it cannot be found out what runs: %v", err))
		return s
	}
	for _, r := range found {
		if n := len(s.Services); n > 0 && s.Services[n-1].Name == r.Service {
			continue // they are sorted
		}
		weights := weightsOf(services, r.Service)
		one := ServiceStatus{Name: r.Service, Replicas: len(weights), Ports: network.PortMap{}, Containers: u.containers(ctx, r.Service, found, weights)}
		for _, svc := range services {
			if svc.Name == r.Service && svc.Ports != nil {
				one.Ports = svc.Ports
			}
		}
		for _, c := range one.Containers {
			if _, ok := weights[c.ID]; ok && c.State == "running" && c.Health != "unhealthy" {
				one.Ready++
			}
		}
		s.Services = append(s.Services, one)
	}
	return s
}
