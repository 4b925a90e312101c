package stack

import (
	"context"
	"maps"
	"slices"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/berth-registry/berth/deploy"
)

// translation makes a stack of a Compose project. It goes on over what is wrong, so
// that all of it is told at once.
type translation struct {
	*problems
	project  *types.Project
	model    map[string]any // what the project was made of
	contents deploy.Contents
	local    bool              // the files that it names are those of its author
	read     map[string][]byte // files of configs and secrets, by their names
	claimed  map[string]string // services, by the HOST/PATH/ that the edge leads to them from
	jobs     map[string]bool
	links    map[string]map[string][]string // further names of a service, by network
}

func (t *translation) translate(ctx context.Context) (*Loaded, error) {
	l := &Loaded{Contents: t.contents, project: t.project, problems: t.problems}
	for _, f := range t.src.files {
		l.Files = append(l.Files, f.name)
	}
	l.Stack = deploy.Stack{
		Name:     t.project.Name,
		Networks: t.networks(),
		Volumes:  t.volumes(),
		Keep:     DefaultKeep,
	}
	if t.project.Name == "" {
		t.addf(keys{"name"}, "the stack needs a name")
	}
	l.Rollout = t.topExtension(&l.Stack)
	t.findJobs()
	t.findLinks()
	if n := len(t.project.Services); n > maxServices {
		t.addf(keys{"services"}, "%d services are more than the %d that a stack may have", n, maxServices)
	}
	for _, name := range slices.Sorted(maps.Keys(t.project.Services)) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		l.Stack.Services = append(l.Stack.Services, t.service(t.project.Services[name]))
	}
	if len(l.Stack.Services) == 0 {
		t.addf(keys{"services"}, "there is none to deploy")
	}
	t.checkPorts(l.Stack.Services)
	if err := t.err(); err != nil {
		return nil, err
	}
	source, err := l.Resolved()
	if err != nil {
		return nil, err
	}
	l.Stack.Source = string(source)
	for _, w := range sorted(t.warnings) {
		l.Warnings = append(l.Warnings, w.String())
	}
	return l, nil
}

// maxReplicas bounds the containers of a service on a host.
const maxReplicas = 1000

// service translates a service.
func (t *translation) service(s types.ServiceConfig) deploy.Service {
	p := keys{"services", s.Name}
	t.checkImage(p, s)
	ext := t.extension(p)
	out := deploy.Service{
		Name:      s.Name,
		Image:     s.Image,
		Platform:  s.Platform,
		Digest:    digestOf(s.Image),
		Pull:      t.pull(p, s),
		Replicas:  s.GetScale(),
		Container: t.container(p, s),
		Files:     t.files(p, s),
		Needs:     t.needs(p, s),
		Job:       t.jobs[s.Name],
		Ports:     t.ports(p, s),
		StopGrace: DefaultStopGrace,
		Drain:     ext.drain,
	}
	if out.Replicas > maxReplicas {
		t.addf(p, "%d replicas are more than the %d that a service may have", out.Replicas, maxReplicas)
	}
	if s.StopGracePeriod != nil {
		out.StopGrace = durationOf(s.StopGracePeriod)
	}
	out.Routes = t.routes(p, s)
	t.update(p, s, ext, &out)
	t.checkValues(p, s)
	t.checkTwice(p, s, &out)
	return out
}

// has says whether the value at p is stated, be it a zero.
func (t *translation) has(p keys) bool {
	m, _ := lookup(t.model, p[:len(p)-1]).(map[string]any)
	_, ok := m[p[len(p)-1]]
	return ok
}
