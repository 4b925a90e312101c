package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// yaml sets keys from the text of the file name.
func (l *loader) yaml(name string, data []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			l.syntax(name, err)
		}
		return
	}
	if err := dec.Decode(&second); err == nil {
		l.report(at(name, second.Line), "", "expected one YAML document, found another")
	} else if !errors.Is(err, io.EOF) {
		l.syntax(name, err)
	}
	for _, root := range doc.Content {
		l.section(name, "", root)
	}
}

func at(name string, line int) string { return fmt.Sprintf("%s:%d", name, max(1, line)) }

// yamlLine finds the line in an error of the YAML parser.
var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// syntax reports that the file is no YAML.
func (l *loader) syntax(name string, err error) {
	message := err.Error()
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		name, message = name+":"+m[1], message[len(m[0]):]
	}
	l.report(name, "", "not valid YAML: %s", strings.TrimPrefix(message, "yaml: "))
}

// maxProblems is how many problems of a file are told, at least. Nobody reads
// more of them.
const maxProblems = 100

// section sets the keys of a section; "" is the whole file. It goes only where
// the table of keys does, so depth and size of what it visits are bounded.
func (l *loader) section(name, path string, node *yaml.Node) {
	if isNull(node) { // all that was in it is commented out
		return
	}
	if node.Kind != yaml.MappingNode {
		l.report(at(name, node.Line), path, "expected a mapping with the keys %s, found %s",
			strings.Join(children(path), ", "), describe(node))
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		k, v := node.Content[i], node.Content[i+1]
		if len(l.problems) >= maxProblems {
			l.report(at(name, k.Line), "", "too many problems; what follows is not checked")
			return
		}
		if k.Kind != yaml.ScalarNode {
			l.report(at(name, k.Line), path, "expected a key, found %s", describe(k))
			continue
		}
		if line, twice := lines[k.Value]; twice {
			l.report(at(name, k.Line), show(join(path, k.Value)), "expected once, found again after line %d", line)
			continue
		}
		lines[k.Value] = k.Line
		l.entry(name, path, k, v)
	}
}

// entry sets what is under one key of a section.
func (l *loader) entry(name, section string, k, v *yaml.Node) {
	path := join(section, k.Value)
	nested := !strings.Contains(k.Value, ".")
	if known, ok := lookup(path); ok && nested {
		l.scalar(name, known, v)
		return
	}
	if nested && isSection(path) {
		l.section(name, path, v)
		return
	}
	l.report(at(name, k.Line), show(path), "unknown key%s", hint(section, path))
}

// scalar sets a key. Types are checked here and not left to the parser, for
// which 10 and "10" are one.
func (l *loader) scalar(name string, k key, node *yaml.Node) {
	source := at(name, node.Line)
	if v := k.value(&l.config); node.Kind != yaml.ScalarNode || node.ShortTag() != v.tag {
		l.report(source, k.path, "%s", v.expected(describe(node)))
		return
	}
	l.set(k, node.Value, source, Problem{Source: source, Key: k.path})
}

func join(section, name string) string {
	if section == "" {
		return name
	}
	return section + "." + name
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" }

// describe says what a node is.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias, which is not supported here"
	case yaml.DocumentNode, yaml.ScalarNode: // by its tag
	}
	switch tag := node.ShortTag(); tag {
	case "!!null":
		return "nothing"
	case strTag:
		return "the text " + quote(node.Value)
	case boolTag:
		return "the truth value " + show(node.Value)
	case "!!int", "!!float":
		return "the number " + show(node.Value)
	default:
		return "a value of type " + show(tag)
	}
}
