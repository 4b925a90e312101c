package config

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
func Load(path string, environ []string, settings ...Setting) (Config, error) {
	l := newLoader()
	if path != "" {
		l.file(path)
	}
	l.environ(environ)
	l.settings(settings)
	return l.done()
}

// loader collects values and what is wrong with them.
type loader struct {
	config   Config
	sources  map[string]string // by key, unless it has its default
	problems []error
}

func newLoader() *loader {
	return &loader{config: Default(), sources: map[string]string{}}
}

// done returns the configuration if nothing is wrong with it.
func (l *loader) done() (Config, error) {
	if len(l.problems) == 0 {
		for _, c := range conflicts(l.config) {
			l.conflict(c)
		}
	}
	if len(l.problems) > 0 {
		return Config{}, errors.Join(l.problems...)
	}
	return l.config, nil
}

// conflict blames the first key that somebody has set.
func (l *loader) conflict(c conflict) {
	for _, k := range c.keys {
		if source, ok := l.sources[k]; ok {
			l.report(source, k, "%s", c.message)
			return
		}
	}
	l.report("", c.keys[0], "%s", c.message)
}

func (l *loader) report(source, key, format string, args ...any) {
	l.problems = append(l.problems, &Problem{source, key, fmt.Sprintf(format, args...)})
}

// set sets a key to what source says.
func (l *loader) set(k key, text, source string, problem Problem) {
	v := k.value(&l.config)
	if !v.set(text) {
		problem.Message = v.expected(quote(text))
		l.problems = append(l.problems, &problem)
		return
	}
	l.sources[k.path] = source
}

func (l *loader) settings(settings []Setting) {
	for _, s := range settings {
		k, ok := lookup(s.Key)
		if !ok {
			l.report(s.Source, show(s.Key), "unknown key%s", hint("", s.Key))
			continue
		}
		l.set(k, s.Value, s.Source, Problem{Source: s.Source})
	}
}

func (l *loader) file(path string) {
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
func (l *loader) environ(environ []string) {
	values := map[string]string{}
	for _, entry := range environ {
		name, text, ok := strings.Cut(entry, "=")
		if _, twice := values[name]; ok && !twice { // of two, os.Getenv sees the first
			values[name] = text
		}
	}
	for _, k := range keys {
		name := k.variable()
		if text, ok := values[name]; ok {
			source := "environment " + name
			l.set(k, text, source, Problem{Source: source})
			delete(values, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if near := neighbors(name); len(near) > 0 && !kubernetes.MatchString(name) {
			l.report("environment "+show(name), "", "unknown key%s", variableHint(name, near))
		}
	}
}

// neighbors lists the variables of the section that the variable name is named
// after, if it is.
func neighbors(name string) []string {
	var near []string
	for _, k := range keys {
		if strings.HasPrefix(name, variablePrefix(k.section())) {
			near = append(near, k.variable())
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
