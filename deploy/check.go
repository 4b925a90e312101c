package deploy

import (
	"regexp"
	"slices"

	"github.com/berth-registry/berth/runner"
)

var nameOfStack = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// check returns what is wrong with a stack that is to be deployed.
func check(s *Stack, edge bool) error {
	invalid := func(format string, args ...any) error { return runner.Errorf(runner.ErrInvalid, format, args...) }
	if !nameOfStack.MatchString(s.Name) {
		return invalid("invalid name of a stack: %q: lower case letters, digits, - and _, at most 63", s.Name)
	}
	if s.Keep < 0 {
		return invalid("stack %s: keep is negative", s.Name)
	}
	if len(s.Services) == 0 {
		return invalid("stack %s has no services", s.Name)
	}
	for _, svc := range s.Services {
		switch {
		case svc.Name == "":
			return invalid("stack %s: a service has no name", s.Name)
		case svc.Image == "":
			return invalid("service %s: no image specified", svc.Name)
		case svc.Replicas < 0:
			return invalid("service %s: the number of replicas is negative", svc.Name)
		case !slices.Contains([]Strategy{"", BlueGreen, Canary, Rolling}, svc.Strategy):
			return invalid("service %s: unknown strategy %q", svc.Name, svc.Strategy)
		case svc.Strategy == Canary && len(svc.Steps) == 0:
			return invalid("service %s: a canary has no steps", svc.Name)
		case len(svc.Routes) > 0 && !edge:
			return runner.Errorf(runner.ErrPrecondition, "service %s has routes of the HTTP edge, and this host has no edge: see the keys edge.* of the configuration", svc.Name)
		case svc.Job && (len(svc.Ports) > 0 || len(svc.Routes) > 0):
			return invalid("service %s: a job has no ports and no routes", svc.Name)
		}
		for _, step := range svc.Steps {
			if step.Weight < 1 || step.Weight > 99 || step.Pause < 0 {
				return invalid("service %s: a step of a canary has a weight of 1 to 99 percent, not %d", svc.Name, step.Weight)
			}
		}
		for _, f := range svc.Files {
			if f.Content.Validate() != nil {
				return invalid("service %s: file %s has no digest of its content", svc.Name, f.Name)
			}
		}
	}
	_, err := ordered(s)
	return err
}

// ordered returns the services of a stack, each after those that it needs, and
// otherwise in the order of the stack.
func ordered(s *Stack) ([]*Service, error) {
	byName := map[string]*Service{}
	for i := range s.Services {
		svc := &s.Services[i]
		if byName[svc.Name] != nil {
			return nil, runner.Errorf(runner.ErrInvalid, "stack %s has service %s twice", s.Name, svc.Name)
		}
		byName[svc.Name] = svc
	}
	var order []*Service
	const under, done = 1, 2
	state := map[string]int{}
	var visit func(svc *Service) error
	visit = func(svc *Service) error {
		switch state[svc.Name] {
		case done:
			return nil
		case under:
			return runner.Errorf(runner.ErrInvalid, "service %s needs itself", svc.Name)
		}
		state[svc.Name] = under
		for _, need := range svc.Needs {
			other := byName[need.Service]
			switch {
			case other == nil && need.Optional:
				continue
			case other == nil:
				return runner.Errorf(runner.ErrInvalid, "service %s needs %s, which the stack does not have", svc.Name, need.Service)
			case need.Condition == NeedCompleted && !other.Job:
				return runner.Errorf(runner.ErrInvalid, "service %s waits for the end of %s, which is no job", svc.Name, other.Name)
			}
			if err := visit(other); err != nil {
				return err
			}
		}
		state[svc.Name] = done
		order = append(order, svc)
		return nil
	}
	for i := range s.Services {
		if err := visit(&s.Services[i]); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// service returns a service of a stack, or nil.
func (s *Stack) service(name string) *Service {
	if s == nil {
		return nil
	}
	for i := range s.Services {
		if s.Services[i].Name == name {
			return &s.Services[i]
		}
	}
	return nil
}
