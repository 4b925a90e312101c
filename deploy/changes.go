package deploy

import "slices"

// change is what is to be done about a service.
type change struct {
	svc     *Service // as it is to be; as it was, if it goes
	version string
	action  action
	had     bool      // the version before has the service
	have    []replica // of this version, running or stopped
	missing []int     // numbers of replicas to create
	old     []replica // of the version before that run and are not to
	lame    bool      // it has failed, and all who need it can do without
}

type action int

const (
	actionKeep    action = iota // the containers of this version serve on
	actionAdd                   // the service is new
	actionReplace               // it has another version
	actionDrop                  // it goes
	actionJob                   // it is run to its end
	actionDone                  // a job that was run already
)

// fresh says whether containers have to be created or started.
func (c *change) fresh() bool {
	return len(c.missing) > 0 || slices.ContainsFunc(c.have, func(r replica) bool { return !r.running() })
}

// versioned is a stack with the versions of its services.
type versioned struct {
	Stack    *Stack
	Versions map[string]string
}

func (v *versioned) stack() *Stack {
	if v == nil {
		return nil
	}
	return v.Stack
}

func (v *versioned) version(service string) string {
	if v == nil {
		return ""
	}
	return v.Versions[service]
}

// target returns the containers that a version has of a service.
func (v *versioned) target(found []replica, svc *Service) []replica {
	return serving(found, svc.Name, v.version(svc.Name), replicasOf(svc))
}

// changesOf returns what leads from one version of a stack, nil if there is none, to
// another, given the containers found and the jobs that were done. The services are
// in order of dependence, those that go last.
func changesOf(from, to *versioned, found []replica, done func(service, version string) bool) ([]*change, error) {
	order, err := ordered(to.Stack)
	if err != nil {
		return nil, err
	}
	var changes []*change
	for _, svc := range order {
		c := &change{svc: svc, version: to.version(svc.Name), have: to.target(found, svc)}
		before := from.stack().service(svc.Name)
		c.had = before != nil
		c.missing = missing(c.have, replicasOf(svc))
		switch {
		case svc.Job && done(svc.Name, c.version):
			c.action, c.missing = actionDone, nil
		case svc.Job:
			c.action = actionJob
		case before == nil || before.Job:
			c.action, c.had = actionAdd, false
		case from.version(svc.Name) == c.version:
			c.action = actionKeep
		default:
			c.action = actionReplace
		}
		if c.had {
			c.old = leaving(from.target(found, before), c.have)
		}
		changes = append(changes, c)
	}
	if from != nil {
		for i := range from.Stack.Services {
			if svc := &from.Stack.Services[i]; to.Stack.service(svc.Name) == nil {
				changes = append(changes, &change{svc: svc, version: from.version(svc.Name), action: actionDrop, had: true, old: leaving(from.target(found, svc), nil)})
			}
		}
	}
	return changes, nil
}

// missing returns the numbers up to replicas that have no container.
func missing(have []replica, replicas int) []int {
	var numbers []int
	for n := 1; n <= replicas; n++ {
		if !slices.ContainsFunc(have, func(r replica) bool { return r.Number == n }) {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// leaving returns the containers that the engine runs and that do not stay.
func leaving(list, stay []replica) []replica {
	var out []replica
	for _, r := range list {
		if r.active() && !slices.ContainsFunc(stay, func(s replica) bool { return s.ID == r.ID }) {
			out = append(out, r)
		}
	}
	return out
}
