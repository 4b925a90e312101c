package classic

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// file is a Dockerfile.
type file struct {
	stages []instructions.Stage
	args   []instructions.ArgCommand // before the first stage
	given  map[string]*string        // arguments of the build

	names   map[string][]int // of stages, in lower case: those that have it
	bases   []int            // of each stage, the stage that it begins with, or -1
	scratch []bool           // of each stage, whether it begins with nothing
}

func newFile(stages []instructions.Stage, args []instructions.ArgCommand, lex *shell.Lex, given map[string]*string) *file {
	f := &file{stages: stages, args: args, given: given, names: map[string][]int{}}
	values := f.values(lex)
	for i, s := range stages {
		base := s.BaseName
		if expanded, _, err := lex.ProcessWord(base, values); err == nil {
			base = expanded
		}
		f.bases = append(f.bases, f.named(base, i))
		f.scratch = append(f.scratch, base == "scratch")
		if s.Name != "" {
			name := strings.ToLower(s.Name)
			f.names[name] = append(f.names[name], i)
		}
	}
	return f
}

// values are what the arguments before the first stage stand for, as far as can be
// told.
func (f *file) values(lex *shell.Lex) env {
	values := env{}
	for _, cmd := range f.args {
		for _, a := range cmd.Args {
			if given := f.given[a.Key]; given != nil {
				values[a.Key] = *given
			} else if a.Value != nil {
				values[a.Key], _, _ = lex.ProcessWord(*a.Value, values)
			}
		}
	}
	return values
}

// named is the last stage of that name before another, or -1.
func (f *file) named(name string, before int) int {
	all := f.names[strings.ToLower(name)]
	if i, _ := slices.BinarySearch(all, before); i > 0 {
		return all[i-1]
	}
	return -1
}

// stage is the stage before another that a name or number means, or -1.
func (f *file) stage(name string, before int) int {
	if name == "" {
		return -1
	}
	if i := f.named(name, before); i >= 0 {
		return i
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < before {
		return i
	}
	return -1
}

// needed are the stages that the target is made of.
func (f *file) needed(target int) map[int]bool {
	needed := map[int]bool{}
	var visit func(i int)
	visit = func(i int) {
		if i < 0 || i > target || needed[i] {
			return
		}
		needed[i] = true
		visit(f.bases[i])
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
