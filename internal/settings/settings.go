// Package settings reads the configuration of a program: a table of keys says
// what there is, and a YAML file, the environment and flags set it.
//
// It promises that a configuration it returns without an error is possible in
// itself, and that an error names every problem at once: where it is (file and
// line, variable or flag), the key, and what was expected. Nothing is guessed: an
// unknown key, a key given twice or a value of another type is an error.
//
// It touches nothing but the file that it reads: whether a port is free or a
// directory can be written shows when the program starts.
package settings

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Schema is all that a program of the configuration T can be told.
type Schema[T any] struct {
	Prefix  string   // of the variables: BERTH
	Head    string   // lines at the top of the example, without their "# "
	Default func() T // the configuration that holds when nothing is set
	// Keys are the keys in the order of the example. Keys of a section stand
	// together, those of a section in it behind them.
	Keys []Key[T]
	// Conflicts checks the rules that concern several keys; it may be nil.
	Conflicts func(T) []Conflict
}

// Key is a configuration key. It drives the file, the environment, flags and the
// example alike.
type Key[T any] struct {
	Path   string // section.name
	Doc    string // lines of the example's comment
	Reload bool   // a running program takes a new value on SIGHUP
	// Value is the field of a configuration that the key sets. Named or Items, in
	// its place, is a part of it that only a file can set.
	Value func(*T) *Value
	Named func(*T) *Named
	Items func(*T) *Items
}

// Items is a part of a configuration that is a list of entries.
type Items struct {
	Want    string // what the entries are, for people
	Example string // lines of YAML, which stand in the example as a comment
	Len     int
	// Text says that an entry can be a text, which is its first field, and a list of one
	// such entry that text alone.
	Text bool
	// Entry returns the fields of the entry i, which it makes if i is Len.
	Entry func(i int) []Field
}

// Named is a part of a configuration whose names are the user's own.
type Named struct {
	Want    string   // what a name is, for people
	Example string   // lines of YAML, which stand in the example as a comment
	Names   []string // those that are there, in their order
	// Entry returns the fields of the entry of that name, which it makes if it is
	// not there; nil if the name is impossible. A field without a name, which is the
	// first, is the entry itself: always if it is the only one, and otherwise where
	// the entry is a text instead of a mapping.
	Entry func(name string) []Field
}

// Field is a field of a named entry.
type Field struct {
	Name  string
	Value *Value
}

// Conflict says that values, each possible, are impossible together.
type Conflict struct {
	Keys    []string // the first of them that somebody has set is to blame
	Message string
}

// Validate checks a configuration that Load has not, but for its named parts. Its
// error joins a *Problem for each thing that is wrong.
func (s *Schema[T]) Validate(c T) error {
	var problems []error
	for _, k := range s.Keys {
		if k.Value == nil {
			continue
		}
		v := k.Value(&c) // c is a copy, so setting what is set does no harm
		if text := v.text(); !v.possible() {
			problems = append(problems, &Problem{Key: k.Path, Message: v.expected(Quote(text))})
		}
	}
	for _, f := range s.conflicts(c) {
		problems = append(problems, &Problem{Key: f.Keys[0], Message: f.Message})
	}
	return errors.Join(problems...)
}

func (s *Schema[T]) conflicts(c T) []Conflict {
	if s.Conflicts == nil {
		return nil
	}
	return s.Conflicts(c)
}

// Reloadable compares two configurations. It returns the keys that differ: those
// whose new value holds as soon as the program reloads, and those that need a
// restart.
func (s *Schema[T]) Reloadable(before, after T) (changed, needRestart []string) {
	for _, k := range s.Keys {
		switch {
		case k.text(&before) == k.text(&after):
		case k.Reload:
			changed = append(changed, k.Path)
		default:
			needRestart = append(needRestart, k.Path)
		}
	}
	return changed, needRestart
}

// Check says what is wrong with the table itself: a path or a variable that is
// taken, a key without a comment, apart from its section, or whose variable
// Kubernetes may set. It is for tests.
func (s *Schema[T]) Check() error {
	var problems []error
	seen, sections, last := map[string]bool{}, map[string]bool{}, ""
	for _, k := range s.Keys {
		v := s.Variable(k)
		report := func(what string) { problems = append(problems, fmt.Errorf("%s: %s", k.Path, what)) }
		if seen[k.Path] || seen[v] {
			report("path or variable is taken")
		}
		if k.Doc == "" {
			report("there is no comment")
		}
		if section := k.Section(); section != "" && section != last && sections[section] {
			report("not beside its section")
		}
		if kubernetes.MatchString(v) {
			report("may be a variable of Kubernetes")
		}
		kinds := 0
		for _, has := range []bool{k.Value != nil, k.Named != nil, k.Items != nil} {
			if has {
				kinds++
			}
		}
		if kinds != 1 {
			report("not one of a value, named entries and a list of entries")
		}
		last = k.Section()
		seen[k.Path], seen[v], sections[last] = true, true, true
	}
	return errors.Join(problems...)
}

// text is the key's part of a configuration as text.
func (k Key[T]) text(c *T) string {
	if k.Value != nil {
		return k.Value(c).text()
	}
	var b strings.Builder
	write := func(name string, fields []Field) {
		for _, f := range fields {
			fmt.Fprintf(&b, "%q %q %q\n", name, f.Name, f.Value.text())
		}
	}
	if k.Items != nil {
		items := k.Items(c)
		for i := range items.Len {
			write(strconv.Itoa(i), items.Entry(i))
		}
		return b.String()
	}
	named := k.Named(c)
	for _, name := range named.Names {
		write(name, named.Entry(name))
	}
	return b.String()
}

// Section is the part of the key's path before its name; "" for a key that stands
// by itself.
func (k Key[T]) Section() string { return k.Path[:max(0, strings.LastIndexByte(k.Path, '.'))] }

// Name is the part of the key's path behind its section.
func (k Key[T]) Name() string { return k.Path[strings.LastIndexByte(k.Path, '.')+1:] }

// Variable is the name of a key in the environment.
func (s *Schema[T]) Variable(k Key[T]) string {
	return s.variablePrefix(k.Section()) + strings.ToUpper(k.Name())
}

// variablePrefix is how the names of a section's variables start.
func (s *Schema[T]) variablePrefix(section string) string {
	if section == "" {
		return s.Prefix + "_"
	}
	return s.Prefix + "_" + strings.ToUpper(strings.ReplaceAll(section, ".", "_")) + "_"
}

// Lookup finds a key by its path.
func (s *Schema[T]) Lookup(path string) (Key[T], bool) {
	i := slices.IndexFunc(s.Keys, func(k Key[T]) bool { return k.Path == path })
	if i < 0 {
		return Key[T]{}, false
	}
	return s.Keys[i], true
}

// isSection says whether there are keys in path, or in sections of it.
func (s *Schema[T]) isSection(path string) bool {
	return slices.ContainsFunc(s.Keys, func(k Key[T]) bool { return strings.HasPrefix(k.Path, path+".") })
}

// children lists the names of what is directly in a section; "" is the root.
func (s *Schema[T]) children(section string) []string {
	var names []string
	for _, k := range s.Keys {
		rest, ok := k.Path, true
		if section != "" {
			rest, ok = strings.CutPrefix(k.Path, section+".")
		}
		name, _, _ := strings.Cut(rest, ".")
		if ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
