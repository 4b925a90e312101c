package stack

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-registry/berth/runner"
)

// Error is why a Compose file cannot be deployed: all that is wrong with it. It is of
// the kind runner.ErrInvalid.
type Error struct {
	Problems []Problem // sorted by file and line
	More     int       // how many there are beside those
}

// Problem is one thing that is wrong, and where.
type Problem struct {
	File    string // as it was named, or found
	Line    int    // from 1; 0: not known
	Path    string // of the key, "services.web.ports[0]"; empty: the whole file
	Message string
}

// Error implements error: a line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	if e.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", e.More))
	}
	return strings.Join(lines, "\n")
}

// Is says that the error is of the kind runner.ErrInvalid.
func (e *Error) Is(target error) bool { return target == runner.ErrInvalid }

// String returns FILE:LINE: PATH: MESSAGE, as compilers write it.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d", s, p.Line)
	}
	if s != "" {
		s += ": "
	}
	if p.Path != "" {
		s += p.Path + ": "
	}
	return s + p.Message
}

// keys are where a value is in the merged Compose file: keys, and "[i]" for elements
// of lists.
type keys []string

// at returns the path of what is below p.
func (p keys) at(below ...string) keys { return append(slices.Clip(p), below...) }

// index returns the path of an element of the list at p.
func (p keys) index(i int) keys { return p.at(fmt.Sprintf("[%d]", i)) }

func (p keys) String() string {
	return strings.ReplaceAll(strings.Join(p, "."), ".[", "[")
}

// problems collects what is wrong, and what is only to be told.
type problems struct {
	src      *sources
	errs     []Problem
	warnings []Problem
	more     int // that are wrong too
}

// maxProblems bounds how many are told.
const maxProblems = 100

// addf adds something that is wrong with the value at p.
func (ps *problems) addf(p keys, format string, args ...any) {
	if len(ps.errs) < maxProblems {
		ps.errs = append(ps.errs, ps.problem(p, format, args...))
		return
	}
	ps.more++
}

// warnf adds something that is to be told about the value at p.
func (ps *problems) warnf(p keys, format string, args ...any) {
	if len(ps.warnings) < maxProblems {
		ps.warnings = append(ps.warnings, ps.problem(p, format, args...))
	}
}

// unsupportedf refuses the value at p, which Compose knows and Berth does not do.
func (ps *problems) unsupportedf(p keys, format string, args ...any) {
	ps.addf(p, "not supported by berth-runner: "+format, args...)
}

func (ps *problems) problem(p keys, format string, args ...any) Problem {
	file, line := ps.src.locate(p)
	return Problem{File: file, Line: line, Path: p.String(), Message: fmt.Sprintf(format, args...)}
}

// err returns all that is wrong, or nil.
func (ps *problems) err() error {
	if len(ps.errs) == 0 {
		return nil
	}
	return &Error{Problems: sorted(ps.errs), More: ps.more}
}

func sorted(list []Problem) []Problem {
	slices.SortStableFunc(list, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(list)
}
