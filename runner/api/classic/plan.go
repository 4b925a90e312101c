package classic

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

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
	f := &file{stages: stages, args: args, lex: shell.NewLex(parsed.EscapeToken), given: o.Args}
	return f.plan(target), nil
}

// file is a Dockerfile.
type file struct {
	stages []instructions.Stage
	args   []instructions.ArgCommand
	lex    *shell.Lex
	given  map[string]*string
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
		base := f.base(i)
		st := &stage{number: i, pulled: base < 0 && !f.scratch(i)}
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

// needed are the stages that the target is made of, and all if that cannot be told.
func (f *file) needed(target int) map[int]bool {
	needed := map[int]bool{}
	var visit func(i int)
	visit = func(i int) {
		if i < 0 || i > target || needed[i] {
			return
		}
		needed[i] = true
		visit(f.base(i))
		for _, cmd := range f.stages[i].Commands {
			switch c := cmd.(type) {
			case *instructions.CopyCommand:
				visit(f.stage(c.From, i))
			case *instructions.RunCommand:
				for _, m := range instructions.GetMounts(c) {
					visit(f.stage(m.From, i))
				}
			}
		}
	}
	visit(target)
	return needed
}

// stage is the stage before another that a name or number means, or -1.
func (f *file) stage(name string, before int) int {
	if name == "" {
		return -1
	}
	for i := before - 1; i >= 0; i-- {
		if strings.EqualFold(f.stages[i].Name, name) {
			return i
		}
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < before {
		return i
	}
	return -1
}

// base is the stage that another begins with, or -1.
func (f *file) base(i int) int {
	name := f.expand(f.stages[i].BaseName)
	for j := i - 1; j >= 0; j-- {
		if f.stages[j].Name != "" && strings.EqualFold(f.stages[j].Name, name) {
			return j
		}
	}
	return -1
}

func (f *file) scratch(i int) bool { return f.expand(f.stages[i].BaseName) == "scratch" }

// expand puts the arguments before the first stage into a word, as far as it can.
func (f *file) expand(word string) string {
	values := map[string]string{}
	for _, cmd := range f.args {
		for _, a := range cmd.Args {
			if given := f.given[a.Key]; given != nil {
				values[a.Key] = *given
			} else if a.Value != nil {
				values[a.Key], _, _ = f.lex.ProcessWord(*a.Value, env(values))
			}
		}
	}
	if out, _, err := f.lex.ProcessWord(word, env(values)); err == nil {
		return out
	}
	return word
}

type env map[string]string

// Get implements shell.EnvGetter.
func (e env) Get(key string) (string, bool) {
	v, ok := e[key]
	return v, ok
}

// Keys implements shell.EnvGetter.
func (e env) Keys() []string { return slices.Collect(maps.Keys(e)) }

// unused are the arguments that were given, and that no instruction declares.
func (f *file) unused() []string {
	left := maps.Clone(f.given)
	maps.DeleteFunc(left, func(key string, _ *string) bool {
		return isPredefined(key) || strings.HasPrefix(key, "BUILDKIT_")
	})
	forget := func(args []instructions.KeyValuePairOptional) {
		for _, a := range args {
			delete(left, a.Key)
		}
	}
	for _, a := range f.args {
		forget(a.Args)
	}
	for _, s := range f.stages {
		for _, cmd := range s.Commands {
			if a, ok := cmd.(*instructions.ArgCommand); ok {
				forget(a.Args)
			}
		}
	}
	return slices.Sorted(maps.Keys(left))
}

// isPredefined says whether an argument holds without being declared.
func isPredefined(key string) bool {
	switch strings.ToLower(key) {
	case "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy", "source_date_epoch":
		return true
	}
	return false
}
