package stack

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

// told finds what an error of compose-go is about that says no path, by looking for the
// value that has this error, or nil.
func (s *sources) told(text string) *Problem {
	for _, m := range []struct{ form, below string }{
		{`^dependency cycle detected: (\S+) -> `, "depends_on"},
		{`^cannot extend service "([^"]+)" in `, "extends"},
		{`^Circular reference: (\S+) in `, "extends"},
	} {
		if found := regexp.MustCompile(m.form).FindStringSubmatch(text); found != nil {
			p := keys{"services", found[1], m.below}
			file, line := s.locate(p)
			return &Problem{File: file, Line: line, Path: p.String(), Message: text}
		}
	}
	services := s.services() // which has the files read
	if strings.HasPrefix(text, "include cycle detected: ") {
		file, line := s.locate(keys{"include"})
		return &Problem{File: file, Line: line, Path: "include", Message: text}
	}
	for _, doc := range s.roots {
		for _, inc := range step(doc, "include") {
			if n := s.names(inc, text); n != nil {
				return &Problem{File: inc.file.name, Line: n.Line, Path: "include", Message: text}
			}
		}
	}
	for _, name := range services {
		p := keys{"services", name}
		if at := s.exact(p.at("extends", "file")); at != nil && s.names(*at, text) != nil {
			return &Problem{File: at.file.name, Line: at.value.Line, Path: p.at("extends", "file").String(), Message: text}
		}
		if at := s.exact(p.at("healthcheck", "test")); at != nil && isBadTest(resolve(at.value)) && strings.HasPrefix(text, "healthcheck.test must start") {
			return &Problem{File: at.file.name, Line: at.value.Line, Path: p.at("healthcheck", "test").String(), Message: text}
		}
		lists, whole := s.follow(p.at("ports"))
		for _, at := range lists {
			for i, port := range resolve(at.value).Content {
				if whole && s.portError(resolve(port)) == text {
					return &Problem{File: at.file.name, Line: port.Line, Path: p.at("ports").index(i).String(), Message: text}
				}
			}
		}
	}
	return nil
}

// services are the names of the services that the files have.
func (s *sources) services() []string {
	places, _ := s.follow(keys{"services"})
	var names []string
	for _, p := range places {
		for i := 0; p.key != nil && i+1 < len(resolve(p.value).Content); i += 2 {
			names = append(names, resolve(p.value).Content[i].Value)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// names returns the name of another Compose file at a place that an error is about, or
// nil.
func (s *sources) names(at place, text string) *yaml.Node {
	list := []*yaml.Node{resolve(at.value)}
	if list[0].Kind == yaml.SequenceNode {
		list = list[0].Content
	}
	for _, n := range list {
		for _, name := range includePaths(n) {
			file := name
			if !filepath.IsAbs(file) {
				file = filepath.Join(at.file.dir, name)
			}
			if text == name+": "+elsewhere || strings.HasPrefix(text, "open "+file+": ") || strings.HasPrefix(text, "read "+file+": ") {
				return n
			}
		}
	}
	return nil
}

// isBadTest says whether a test of a health check is a list that says not what it is.
func isBadTest(n *yaml.Node) bool {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		return false
	}
	return !slices.Contains([]string{"CMD", "CMD-SHELL", "NONE"}, resolve(n.Content[0]).Value)
}

// portError is what compose-go finds wrong with a port in its short form.
func (s *sources) portError(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || wide(n.Value) {
		return ""
	}
	value, err := template.SubstituteWithOptions(n.Value, template.Mapping(s.lookup), template.WithoutLogging)
	if err != nil {
		return ""
	}
	if _, err = types.ParsePortConfig(value); err != nil {
		return strings.Join(strings.Fields(err.Error()), " ")
	}
	return ""
}

// lookup returns a variable of the files.
func (s *sources) lookup(name string) (string, bool) {
	value, ok := s.env[name]
	return value, ok
}
