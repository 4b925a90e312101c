package settings

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// MaxFile is the greatest size of a configuration file in bytes.
const MaxFile = 1 << 20

// Setting sets a key from somewhere else than file and environment, a flag for
// example.
type Setting struct {
	Key    string // http.addr
	Value  string
	Source string // for errors: "flag --addr"
}

// Load returns the configuration made of the defaults, the file at path (none if
// path is empty), the environment as os.Environ returns it, and settings. What
// comes later in this list beats what comes before. The error joins everything
// that is wrong, each a *Problem or the failure to read the file.
func (s *Schema[T]) Load(path string, environ []string, settings ...Setting) (T, error) {
	l := s.newLoader()
	if path != "" {
		l.file(path)
	}
	l.environ(environ)
	l.settings(settings)
	return l.done()
}

// Parse returns the configuration made of the defaults and the text of a file of
// that name.
func (s *Schema[T]) Parse(name string, text []byte) (T, error) {
	l := s.newLoader()
	l.yaml(name, text)
	return l.done()
}

// loader collects values and what is wrong with them.
type loader[T any] struct {
	schema   *Schema[T]
	config   T
	sources  map[string]string // by key, unless it has its default
	problems []error
}

func (s *Schema[T]) newLoader() *loader[T] {
	return &loader[T]{schema: s, config: s.Default(), sources: map[string]string{}}
}

// done returns the configuration if nothing is wrong with it.
func (l *loader[T]) done() (T, error) {
	if len(l.problems) == 0 {
		for _, c := range l.schema.conflicts(l.config) {
			l.conflict(c)
		}
	}
	if len(l.problems) > 0 {
		var none T
		return none, errors.Join(l.problems...)
	}
	return l.config, nil
}

// conflict blames the first key that somebody has set.
func (l *loader[T]) conflict(c Conflict) {
	for _, k := range c.Keys {
		if source, ok := l.sources[k]; ok {
			l.report(source, k, "%s", c.Message)
			return
		}
	}
	l.report("", c.Keys[0], "%s", c.Message)
}

func (l *loader[T]) report(source, key, format string, args ...any) {
	l.problems = append(l.problems, &Problem{source, key, fmt.Sprintf(format, args...)})
}

// set sets a key to what source says.
func (l *loader[T]) set(k Key[T], text, source string, problem Problem) {
	v := k.Value(&l.config)
	if !v.assign(text) {
		problem.Message = v.expected(Quote(text))
		l.problems = append(l.problems, &problem)
		return
	}
	l.sources[k.Path] = source
}

func (l *loader[T]) settings(settings []Setting) {
	for _, s := range settings {
		k, ok := l.schema.Lookup(s.Key)
		if !ok || k.Value == nil {
			l.report(s.Source, show(s.Key), "unknown key%s", l.schema.hint("", s.Key))
			continue
		}
		l.set(k, s.Value, s.Source, Problem{Source: s.Source})
	}
}

func (l *loader[T]) file(path string) {
	data, err := read(path)
	if err != nil {
		l.problems = append(l.problems, err)
		return
	}
	l.yaml(path, data)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxFile {
		return nil, &Problem{Source: path, Message: fmt.Sprintf("expected at most %d bytes, found more", MaxFile)}
	}
	return data, nil
}

// environ sets keys from the environment. Variables that belong to no section,
// such as the BERTH_REGISTRY of the client commands, are not its business.
func (l *loader[T]) environ(environ []string) {
	values := map[string]string{}
	for _, entry := range environ {
		name, text, ok := strings.Cut(entry, "=")
		if _, twice := values[name]; ok && !twice { // of two, os.Getenv sees the first
			values[name] = text
		}
	}
	for _, k := range l.schema.Keys {
		name := l.schema.Variable(k)
		if text, ok := values[name]; ok {
			source := "environment " + name
			delete(values, name)
			if k.Value == nil {
				l.report(source, "", "expected %s in a file, which alone can set it", k.Path)
				continue
			}
			l.set(k, text, source, Problem{Source: source})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if near := l.neighbors(name); len(near) > 0 && !kubernetes.MatchString(name) {
			l.report("environment "+show(name), "", "unknown key%s", variableHint(name, near))
		}
	}
}

// neighbors lists the variables of the section that the variable name is named
// after, if it is. Those of keys that stand by themselves have no section in
// their names that would tell a slip from a variable of somebody else, so only
// one that is a letter off is near.
func (l *loader[T]) neighbors(name string) []string {
	var near []string
	for _, k := range l.schema.Keys {
		v := l.schema.Variable(k)
		if k.Section() == "" && distance(name, v) == 1 || k.Section() != "" && strings.HasPrefix(name, l.schema.variablePrefix(k.Section())) {
			near = append(near, v)
		}
	}
	return near
}

// kubernetes matches what Kubernetes puts into the environment of every pod for
// a service: BERTH_METRICS_SERVICE_HOST if one is called berth-metrics.
var kubernetes = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// variableHint says what may be meant with an unknown variable.
func variableHint(name string, near []string) string {
	if nearest := suggest(name, near); nearest != "" {
		return didYouMean(nearest)
	}
	return expectedOneOf(near)
}
