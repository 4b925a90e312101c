package classic

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/berth-registry/berth/runner"
)

// Options are what of a request for a build changes its steps.
type Options struct {
	Target string             // stage to stop at; empty is the last
	Args   map[string]*string // of the build
	Labels map[string]string  // that the image gets besides
}

// Plan is what a build is going to do. It does not change.
type Plan struct {
	steps  []planned
	stages map[string]*stage // by the names that BuildKit gives them
	unused []string          // arguments that no instruction asks for
}

// stage is one that is built.
type stage struct {
	number int
	size   int  // how many of its steps BuildKit numbers
	pulled bool // its first step is to get an image
}

// planned is an instruction.
type planned struct {
	text  string
	kind  kind
	stage int
	base  int   // of a FROM: the stage that it goes on from, or -1
	place place // zero: BuildKit has no step of its own for it
}

type kind int

const (
	other kind = iota
	arg        // before the first stage
	from
	run
)

// place is where a step stands in BuildKit's own count: the second of three of
// stage 0, say.
type place struct{ stage, index int }

// Parse makes the plan of a Dockerfile. Its errors are of the kind
// runner.ErrInvalid, in Docker's words.
//
// Stages that the target does not need are left out, since BuildKit leaves them
// out.
func Parse(name string, dockerfile []byte, o Options) (*Plan, error) {
	if len(bytes.TrimSpace(dockerfile)) == 0 {
		return nil, runner.Errorf(runner.ErrInvalid, "the Dockerfile (%s) cannot be empty", name)
	}
	parsed, err := parser.Parse(bytes.NewReader(dockerfile))
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "failed to parse %s: %w", name, err)
	}
	stages, args, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	if len(stages) == 0 {
		return nil, runner.Errorf(runner.ErrInvalid, "no build stage in current context")
	}
	target := len(stages) - 1
	if o.Target != "" {
		var ok bool
		if target, ok = instructions.HasStage(stages, o.Target); !ok {
			return nil, runner.Errorf(runner.ErrInvalid, "target stage %q could not be found", o.Target)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(o.Labels)) {
		stages[target].AddCommand(instructions.NewLabelCommand(key, o.Labels[key], true))
	}
	return newFile(stages, args, shell.NewLex(parsed.EscapeToken), o.Args).plan(target), nil
}

func (f *file) plan(target int) *Plan {
	p := &Plan{stages: map[string]*stage{}, unused: f.unused()}
	for i := range f.args {
		p.steps = append(p.steps, planned{text: f.args[i].String(), kind: arg})
	}
	needed := f.needed(target)
	for i := range f.stages {
		if !needed[i] {
			continue
		}
		base := f.bases[i]
		st := &stage{number: i, pulled: base < 0 && !f.scratch[i]}
		name := f.stages[i].Name
		if name == "" {
			name = fmt.Sprintf("stage-%d", i)
		}
		p.stages[name] = st
		if len(f.stages) == 1 {
			p.stages[""] = st
		}
		p.addStage(st, base, &f.stages[i])
	}
	return p
}

// addStage adds the steps of a stage.
func (p *Plan) addStage(st *stage, base int, is *instructions.Stage) {
	next := func() place {
		st.size++
		return place{st.number, st.size}
	}
	first := planned{text: is.SourceCode, kind: from, stage: st.number, base: base}
	if st.pulled {
		first.place = next()
	}
	p.steps = append(p.steps, first)
	for _, cmd := range is.Commands {
		s := planned{text: fmt.Sprint(cmd), stage: st.number}
		switch cmd.(type) {
		case *instructions.RunCommand:
			s.place, s.kind = next(), run
		case *instructions.AddCommand, *instructions.CopyCommand, *instructions.WorkdirCommand:
			s.place = next()
		}
		p.steps = append(p.steps, s)
	}
}
