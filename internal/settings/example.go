package settings

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Example returns a configuration file with every key, its default and a comment.
func (s *Schema[T]) Example() []byte {
	var b strings.Builder
	for line := range strings.Lines(s.Head) {
		b.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
	c, open := s.Default(), []string(nil)
	for i, k := range s.Keys {
		sections := strings.Split(k.Path, ".")
		sections = sections[:len(sections)-1]
		same := 0
		for same < len(sections) && same < len(open) && sections[same] == open[same] {
			same++
		}
		if i == 0 || same == 0 && len(sections)+len(open) > 0 {
			b.WriteString("\n")
		}
		for depth := same; depth < len(sections); depth++ {
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", depth), sections[depth])
		}
		open = sections
		k.example(&b, &c, strings.Repeat("  ", len(sections)))
	}
	return []byte(b.String())
}

// example writes a key.
func (k Key[T]) example(b *strings.Builder, c *T, indent string) {
	doc := k.Doc
	if k.Reload {
		doc += " [reload]"
	}
	for line := range strings.SplitSeq(doc, "\n") {
		fmt.Fprintf(b, "%s# %s\n", indent, line)
	}
	if k.Value != nil {
		fmt.Fprintf(b, "%s%s: %s\n", indent, k.Name(), valueText(k.Value(c)))
		return
	}
	fmt.Fprintf(b, "%s%s:\n", indent, k.Name())
	var example string
	if k.Items != nil {
		example = k.Items(c).Example
	} else {
		example = k.Named(c).Example
	}
	for line := range strings.Lines(example) {
		fmt.Fprintf(b, "%s#  %s", indent, line)
	}
}

// valueText is a value as YAML, in quotes if it needs them.
func valueText(v *Value) string {
	if v.tag == seqTag {
		var items []string
		for _, item := range v.items() {
			items = append(items, strconv.Quote(item))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	if v.tag != strTag {
		return v.text()
	}
	return textNode(v.text())
}

func textNode(s string) string {
	node := yaml.Node{Kind: yaml.ScalarNode, Tag: strTag, Value: s}
	out, err := yaml.Marshal(&node)
	if err != nil {
		panic(err) // a string can always be written
	}
	return strings.TrimSpace(string(out))
}
