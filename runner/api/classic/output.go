package classic

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
)

// Output writes what a build does. It is not safe for concurrent use.
//
// BuildKit works on several steps at once and begins with the last; what is written
// is in the order of the Dockerfile. What a step prints before its turn is kept
// until then.
type Output struct {
	send     func(jsonstream.Message)
	removals bool
	plan     *Plan // nil: steps are shown as they come

	steps    []*step
	places   map[place]*step
	vertices map[digest.Digest]*vertex
	current  int
	last     map[int]string  // the IDs that the stages have shown last
	pulled   map[string]bool // what was said of layers, once each
}

// step is where a planned instruction has come to.
type step struct {
	planned

	number  string // as "1/3"
	titled  bool
	running bool // it was said that it runs
	kept    []byte
	parts   []*vertex
}

// vertex is one of BuildKit's own steps.
type vertex struct {
	client.Vertex

	step *step // that it is a part of, or nil
}

// New begins the output of a build. plan is nil if the Dockerfile is not known:
// then only instructions with steps of BuildKit's are seen. removals says whether
// to tell that the container of a step is gone.
func New(plan *Plan, removals bool, send func(jsonstream.Message)) *Output {
	o := &Output{
		send: send, removals: removals, plan: plan,
		places: map[place]*step{}, vertices: map[digest.Digest]*vertex{}, last: map[int]string{}, pulled: map[string]bool{},
	}
	if plan == nil {
		return o
	}
	for i, p := range plan.steps {
		s := &step{planned: p, number: fmt.Sprintf("%d/%d", i+1, len(plan.steps))}
		o.steps = append(o.steps, s)
		if p.place != (place{}) {
			o.places[p.place] = s
		}
	}
	o.advance()
	return o
}

func (o *Output) write(text string) { o.send(jsonstream.Message{Stream: text}) }

// Update takes in what BuildKit says.
func (o *Output) Update(status *client.SolveStatus) {
	for _, v := range status.Vertexes {
		known := o.vertices[v.Digest]
		if known == nil {
			known = &vertex{}
			o.vertices[v.Digest] = known
		}
		known.Vertex = *v
		if known.step == nil {
			if known.step = o.find(v); known.step != nil {
				known.step.parts = append(known.step.parts, known)
			}
		}
	}
	for _, l := range status.Logs {
		if v := o.vertices[l.Vertex]; v != nil && v.step != nil {
			v.step.kept = append(v.step.kept, colored(l)...)
		}
	}
	for _, st := range status.Statuses {
		if v := o.vertices[st.Vertex]; v != nil && v.step != nil && o.current < len(o.steps) && v.step == o.steps[o.current] {
			o.pull(st)
		}
	}
	o.advance()
}

// find returns the step that a vertex is a part of, or nil.
func (o *Output) find(v *client.Vertex) *step {
	n, ok := parseName(v.Name)
	if !ok {
		return nil
	}
	if o.plan == nil {
		if v.Started == nil {
			return nil // its turn comes when it starts
		}
		s := &step{number: n.count(), planned: planned{text: n.text, place: place{0, n.index}}}
		if strings.HasPrefix(n.text, "RUN ") {
			s.kind = run
		}
		o.steps = append(o.steps, s)
		return s
	}
	st := o.plan.stages[n.stage]
	if st == nil {
		return nil
	}
	// Instructions that the base image has for those who build on it are counted,
	// too, and come right after it.
	triggers, first := max(n.total-st.size, 0), 0
	if st.pulled {
		first = 1
	}
	switch {
	case n.index <= first:
	case n.index <= first+triggers:
		n.index = first
	default:
		n.index -= triggers
	}
	return o.places[place{st.number, n.index}]
}

// advance writes of the steps whose turn it is.
func (o *Output) advance() {
	for ; o.current < len(o.steps); o.current++ {
		s := o.steps[o.current]
		o.title(s)
		o.announce(s)
		if !o.done(s) {
			return
		}
		if o.plan != nil && o.current == len(o.steps)-1 {
			return // its ID is the image's, which is not known yet
		}
		o.finish(s, o.id(s))
	}
}

func (o *Output) title(s *step) {
	if !s.titled {
		s.titled = true
		o.write("Step " + s.number + " : " + s.text + "\n")
	}
}

// announce says that a command runs, and what it has printed.
func (o *Output) announce(s *step) {
	for _, v := range s.parts {
		if s.kind == run && !s.running && v.Started != nil && !v.Cached {
			s.running = true
			o.write(" ---> Running in " + container(v) + "\n")
		}
	}
	if len(s.kept) > 0 {
		o.write(string(s.kept))
		s.kept = nil
	}
}

// done says whether a step is over, as far as is known.
func (o *Output) done(s *step) bool {
	if s.place == (place{}) {
		return true
	}
	for _, v := range s.parts {
		if v.Completed == nil || v.Error != "" {
			return false
		}
	}
	return len(s.parts) > 0
}

// finish writes the last lines of a step.
func (o *Output) finish(s *step, id string) {
	switch {
	case s.kind == arg:
		return
	case s.running && o.removals:
		o.write(" ---> Removed intermediate container " + container(s.parts[0]) + "\n")
	case s.cached():
		o.write(" ---> Using cache\n")
	}
	o.write(" ---> " + id + "\n")
	o.last[s.stage] = id
}

func (s *step) cached() bool {
	if s.kind == from || len(s.parts) == 0 {
		return false
	}
	for _, v := range s.parts {
		if !v.Cached {
			return false
		}
	}
	return true
}

// Finish writes what is left to say of a build that has succeeded. imageID is
// empty if there is no image of it.
func (o *Output) Finish(imageID string) {
	for ; o.current < len(o.steps); o.current++ {
		s := o.steps[o.current]
		o.title(s)
		o.announce(s)
		id := o.id(s)
		if o.current == len(o.steps)-1 && imageID != "" {
			id = Short(imageID)
		}
		o.finish(s, id)
	}
	if o.plan != nil && len(o.plan.unused) > 0 {
		o.write(fmt.Sprintf("[Warning] One or more build-args %v were not consumed\n", o.plan.unused))
	}
}

// colored is output as the classic builder sent it: errors in red.
func colored(l *client.VertexLog) []byte {
	const stderr = 2
	if l.Stream != stderr || len(l.Data) == 0 {
		return l.Data
	}
	return append(append([]byte("\x1b[91m"), l.Data...), "\x1b[0m"...)
}
