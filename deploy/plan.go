package deploy

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Plan is what is done to put a stack into service, in this order.
type Plan struct {
	Stack    string
	Revision int // that it will be
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
	StepRestart StepKind = "restart" // containers are restarted, because of what they need
	StepSwitch  StepKind = "switch"  // the traffic is moved
	StepGate    StepKind = "gate"    // the gate has to hold with the traffic
	StepStop    StepKind = "stop"    // containers are drained, stopped and kept
	StepRemove  StepKind = "remove"  // containers are removed
)

// String returns a line for each step, aligned.
func (p Plan) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, s := range p.Steps {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Kind, s.Service, strings.Join(s.Containers, " "), s.Note)
	}
	_ = w.Flush()
	return b.String()
}
