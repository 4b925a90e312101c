package deploy

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

// replica is a container of a stack as it was found.
type replica struct {
	ID, Name string
	Service  string
	Version  string
	Number   int
	Revision int // that made it
	State    container.ContainerState
	Health   container.HealthStatus
}

func (r replica) running() bool {
	return r.State == container.StateRunning || r.State == container.StatePaused
}

// active says whether the engine runs it, or is about to.
func (r replica) active() bool { return r.running() || r.State == container.StateRestarting }

// find returns the containers of a stack, the best first where several have the
// same service, version and number: one that runs, then the newest.
func (m *Manager) find(ctx context.Context, stack string) ([]replica, error) {
	list, err := m.engine.ListContainers(ctx, runner.ListOptions{All: true, Filters: madeFor(stack)})
	if err != nil {
		return nil, err
	}
	found := make([]replica, 0, len(list))
	for _, c := range list {
		r := replica{
			ID: c.ID, Service: c.Labels[labelService], Version: c.Labels[labelVersion],
			State: c.State, Health: container.NoHealthcheck,
		}
		if len(c.Names) > 0 {
			r.Name = strings.TrimPrefix(c.Names[0], "/")
		}
		if c.Health != nil && c.Health.Status != "" {
			r.Health = c.Health.Status
		}
		r.Number, _ = strconv.Atoi(c.Labels[labelNumber])
		r.Revision, _ = strconv.Atoi(c.Labels[labelRevision])
		found = append(found, r)
	}
	slices.SortStableFunc(found, func(a, b replica) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Number, b.Number),
			-cmp.Compare(rank(a), rank(b)), -cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.ID, b.ID))
	})
	return found, nil
}

// madeFor matches what was made for a stack.
func madeFor(stack string) runner.Filters {
	return runner.Filters{"label": {labelStack + "=" + stack}}
}

func rank(r replica) int {
	if r.active() {
		return 1
	}
	return 0
}

// serving returns those of the containers found that are the replicas of a version
// of a service, at most as many as are wanted, sorted by number.
func serving(found []replica, service, version string, replicas int) []replica {
	var list []replica
	for _, r := range found {
		if r.Service != service || r.Version != version || r.Number < 1 || r.Number > replicas || r.State == container.StateDead || r.State == container.StateRemoving {
			continue
		}
		if n := len(list); n > 0 && list[n-1].Number == r.Number {
			continue
		}
		list = append(list, r)
	}
	return list
}

// replicasOf is how many containers a service has.
func replicasOf(svc *Service) int {
	if svc.Job {
		return 1
	}
	return svc.Replicas
}

func ids(list []replica) []string {
	var out []string
	for _, r := range list {
		out = append(out, r.ID)
	}
	return out
}

func namesOf(list []replica) []string {
	var out []string
	for _, r := range list {
		out = append(out, r.Name)
	}
	return out
}
