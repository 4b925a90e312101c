package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// yaml sets keys from the text of the file name.
func (l *loader[T]) yaml(name string, data []byte) {
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
func (l *loader[T]) syntax(name string, err error) {
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
func (l *loader[T]) section(name, path string, node *yaml.Node) {
	if isNull(node) { // all that was in it is commented out
		return
	}
	if node.Kind != yaml.MappingNode {
		l.report(at(name, node.Line), path, "expected a mapping with the keys %s, found %s",
			strings.Join(l.schema.children(path), ", "), describe(node))
		return
	}
	l.pairs(name, path, node, func(k, v *yaml.Node) { l.entry(name, path, k, v) })
}

// pairs visits what is in a mapping, each key once.
func (l *loader[T]) pairs(name, path string, node *yaml.Node, visit func(k, v *yaml.Node)) {
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
		visit(k, v)
	}
}

// entry sets what is under one key of a section.
func (l *loader[T]) entry(name, section string, k, v *yaml.Node) {
	path := join(section, k.Value)
	nested := !strings.Contains(k.Value, ".")
	if known, ok := l.schema.Lookup(path); ok && nested {
		switch {
		case known.Named != nil:
			l.named(name, known, v)
		case known.Items != nil:
			l.items(name, known, v)
		default:
			l.value(name, known, v)
		}
		return
	}
	if nested && l.schema.isSection(path) {
		l.section(name, path, v)
		return
	}
	l.report(at(name, k.Line), show(path), "unknown key%s", l.schema.hint(section, path))
}

// value sets a key. Types are checked here and not left to the parser, for
// which 10 and "10" are one.
func (l *loader[T]) value(name string, k Key[T], node *yaml.Node) {
	source := at(name, node.Line)
	v := k.Value(&l.config)
	if v.tag == seqTag {
		v.clear()
		l.sources[k.Path] = source
		if !isNull(node) {
			l.field(name, k.Path, v, node)
		}
		return
	}
	if node.Kind != yaml.ScalarNode || !v.takes(node.ShortTag()) {
		l.report(source, k.Path, "%s", v.expected(describe(node)))
		return
	}
	l.set(k, node.Value, source, Problem{Source: source, Key: k.Path})
}

// named sets a part of the configuration whose names are the user's own.
func (l *loader[T]) named(name string, key Key[T], node *yaml.Node) {
	if isNull(node) {
		return
	}
	named := key.Named(&l.config)
	if node.Kind != yaml.MappingNode {
		l.report(at(name, node.Line), key.Path, "expected a mapping of %s, found %s", named.Want, describe(node))
		return
	}
	l.sources[key.Path] = at(name, node.Line)
	l.pairs(name, key.Path, node, func(k, v *yaml.Node) {
		path := join(key.Path, k.Value)
		fields := named.Entry(k.Value)
		switch {
		case fields == nil || k.ShortTag() == "!!null":
			l.report(at(name, k.Line), show(path), "expected %s, found %s", named.Want, describe(k))
		case fields[0].Name == "" && (len(fields) == 1 || v.Kind != yaml.MappingNode):
			l.field(name, path, fields[0].Value, v)
		case isNull(v):
		case fields[0].Name == "":
			l.fields(name, path, fields[1:], v)
		default:
			l.fields(name, path, fields, v)
		}
	})
}

// items sets a part of the configuration that is a list.
func (l *loader[T]) items(name string, key Key[T], node *yaml.Node) {
	if isNull(node) {
		return
	}
	items := key.Items(&l.config)
	if items.Text && isText(node) {
		l.sources[key.Path] = at(name, node.Line)
		l.field(name, key.Path, items.Entry(0)[0].Value, node)
		return
	}
	if node.Kind != yaml.SequenceNode {
		l.report(at(name, node.Line), key.Path, "expected a list of %s, found %s", items.Want, describe(node))
		return
	}
	l.sources[key.Path] = at(name, node.Line)
	for i, v := range node.Content {
		if len(l.problems) >= maxProblems {
			l.report(at(name, v.Line), "", "too many problems; what follows is not checked")
			return
		}
		path, fields := key.Path+"["+strconv.Itoa(i+1)+"]", items.Entry(i)
		if items.Text && isText(v) {
			l.field(name, path, fields[0].Value, v)
			continue
		}
		l.fields(name, path, fields, v)
	}
}

func isText(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.ShortTag() == strTag }

// fields sets the fields of an entry.
func (l *loader[T]) fields(name, path string, fields []Field, node *yaml.Node) {
	if node.Kind != yaml.MappingNode {
		l.report(at(name, node.Line), show(path), "expected a mapping with the keys %s, found %s", fieldNames(fields), describe(node))
		return
	}
	l.pairs(name, path, node, func(k, v *yaml.Node) {
		i := slices.IndexFunc(fields, func(f Field) bool { return f.Name == k.Value })
		if i < 0 {
			l.report(at(name, k.Line), show(join(path, k.Value)), "unknown key (expected one of %s)", fieldNames(fields))
			return
		}
		l.field(name, join(path, k.Value), fields[i].Value, v)
	})
}

func fieldNames(fields []Field) string {
	var names []string
	for _, f := range fields {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// field sets a field of a named entry.
func (l *loader[T]) field(name, path string, v *Value, node *yaml.Node) {
	list := v.tag == seqTag
	items := []*yaml.Node{node}
	if list && node.Kind == yaml.SequenceNode {
		items = node.Content
	}
	for _, item := range items {
		fits := v.takes(item.ShortTag())
		if list {
			fits = item.ShortTag() == strTag
		}
		switch {
		case list && node.Kind != yaml.SequenceNode, item.Kind != yaml.ScalarNode, !fits:
			l.report(at(name, item.Line), show(path), "%s", v.expected(describe(item)))
		case !v.set(item.Value):
			l.report(at(name, item.Line), show(path), "%s", v.expected(Quote(item.Value)))
		}
	}
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
		return "the text " + Quote(node.Value)
	case boolTag:
		return "the truth value " + show(node.Value)
	case intTag, floatTag:
		return "the number " + show(node.Value)
	default:
		return "a value of type " + show(tag)
	}
}
