package deploy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Plan is what is done to put a stack into service, in this order.
type Plan struct {
	Stack    string
	Revision int // that it will be; the one in service if there are no steps
	Steps    []Step
}

// Step is a part of a plan.
type Step struct {
	Kind    StepKind
	Service string `json:",omitempty"` // or the key of a network or volume
	// Containers are the names of those that the step is about.
	Containers []string `json:",omitempty"`
	Note       string   `json:",omitempty"` // more of it, in a few words
}

// StepKind says what a step does.
type StepKind string

// The kinds of steps.
const (
	StepNetwork StepKind = "network" // a network is created
	StepVolume  StepKind = "volume"  // a volume is created
	StepPull    StepKind = "pull"    // an image is pulled
	StepKeep    StepKind = "keep"    // containers serve on as they are
	StepCreate  StepKind = "create"  // containers are created, started, and have to hold the gate
	StepStart   StepKind = "start"   // kept containers are started, and have to hold the gate
	StepJob     StepKind = "job"     // a container is run to its end
	StepReplace StepKind = "replace" // containers are replaced one batch after the other
	StepSwitch  StepKind = "switch"  // the traffic is moved
	StepGate    StepKind = "gate"    // the gate has to hold with the traffic
	StepStop    StepKind = "stop"    // containers are drained, stopped and kept
)

// String returns a line for each step, aligned.
func (p Plan) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, s := range p.Steps {
		what := strings.Join(s.Containers, " ")
		if s.Note != "" {
			what = strings.TrimSpace(what + " (" + s.Note + ")")
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", s.Kind, s.Service, what)
	}
	_ = w.Flush()
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// observed is what a plan depends on beside what is wanted.
type observed struct {
	from     *versioned // in service; nil: none
	found    []replica
	jobs     []string        // that were done
	networks map[string]bool // that are there, by name
	volumes  map[string]bool
	images   map[string]string // that are there, pinned, by service
	quick    bool              // it is a return
}

// planOf returns the steps that put a version into service as a revision.
func planOf(o observed, to *versioned, revision int) (Plan, error) {
	p := Plan{Stack: to.Stack.Name, Revision: revision, Steps: []Step{}}
	changes, err := changesOf(o.from, to, o.found, func(service, version string) bool {
		return slices.Contains(o.jobs, service+"@"+version)
	})
	if err != nil {
		return p, err
	}
	for _, n := range to.Stack.Networks {
		if !o.networks[n.Name] {
			p.add(StepNetwork, n.Name, "")
		}
	}
	for _, v := range to.Stack.Volumes {
		if !o.volumes[v.Name] {
			p.add(StepVolume, v.Name, "")
		}
	}
	for _, c := range changes {
		if c.action != actionDrop && o.images[c.svc.Name] == "" {
			p.add(StepPull, c.svc.Name, c.svc.Image)
		}
	}
	for _, c := range changes {
		p.bring(c, revision)
	}
	p.end(o, to, changes, revision)
	return p, nil
}

func (p *Plan) add(kind StepKind, service, note string, containers ...string) {
	p.Steps = append(p.Steps, Step{Kind: kind, Service: service, Containers: containers, Note: note})
}

// bring adds how the containers of a service come up.
func (p *Plan) bring(c *change, revision int) {
	var created, started, kept []string
	for _, n := range c.missing {
		created = append(created, containerName(p.Stack, c.svc.Name, revision, n))
	}
	for _, r := range c.have {
		if r.running() {
			kept = append(kept, r.Name)
		} else {
			started = append(started, r.Name)
		}
	}
	gate := gateNote(c.svc)
	switch c.action {
	case actionDrop:
		return
	case actionDone:
		p.add(StepKeep, c.svc.Name, "the job was done for this version")
		return
	case actionJob:
		p.add(StepJob, c.svc.Name, "", containerName(p.Stack, c.svc.Name, revision, 1))
		return
	case actionReplace:
		if c.svc.Strategy == Rolling {
			p.add(StepReplace, c.svc.Name, rollNote(c.svc), slices.Concat(started, created)...)
			return
		}
	case actionAdd, actionKeep:
	}
	if len(kept) > 0 {
		p.add(StepKeep, c.svc.Name, "", kept...)
	}
	if len(started) > 0 {
		p.add(StepStart, c.svc.Name, gate, started...)
	}
	if len(created) > 0 {
		p.add(StepCreate, c.svc.Name, gate, created...)
	}
}

func gateNote(svc *Service) string {
	if svc.Update.Monitor <= 0 {
		return ""
	}
	return "has to hold for " + svc.Update.Monitor.String()
}

func rollNote(svc *Service) string {
	size := "all"
	if svc.Update.Parallelism > 0 {
		size = strconv.Itoa(svc.Update.Parallelism)
	}
	order := "stop first"
	if svc.Update.StartFirst {
		order = "start first"
	}
	return size + " at a time, " + order
}

// end adds the switch and what follows it.
func (p *Plan) end(o observed, to *versioned, changes []*change, revision int) {
	var gated []string
	for _, c := range changes {
		if c.action == actionReplace && c.svc.Strategy == Canary && !o.quick {
			for _, step := range c.svc.Steps {
				p.add(StepSwitch, c.svc.Name, fmt.Sprintf("%d %% for %s", step.Weight, step.Pause))
			}
		}
		if (c.action == actionAdd || c.action == actionReplace) && c.svc.Update.Monitor > 0 && !o.quick {
			gated = append(gated, c.svc.Name)
		}
	}
	p.add(StepSwitch, "", fmt.Sprintf("revision %d takes the traffic of the stack", revision))
	for _, name := range gated {
		p.add(StepGate, name, gateNote(to.Stack.service(name)))
	}
	stays := targets(to, o.found)
	for _, c := range changes {
		if old := leaving(c.old, stays); len(old) > 0 && (c.action == actionDrop || c.svc.Strategy != Rolling || c.action == actionKeep) {
			p.add(StepStop, c.svc.Name, "drained for "+max(c.svc.Drain, leastDrain).String()+" at most", namesOf(old)...)
		}
	}
}
