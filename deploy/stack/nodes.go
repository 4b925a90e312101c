package stack

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// step finds a key in a mapping, or what stands for it in a list of KEY=VALUE.
func step(p place, key string) []place {
	n := resolve(p.value)
	switch n.Kind { //nolint:exhaustive // a scalar has nothing below it
	case yaml.MappingNode:
		var out, own []place
		for i := 0; i+1 < len(n.Content); i += 2 {
			switch n.Content[i].Value {
			case "<<":
				out = append(out, merged(place{file: p.file, value: n.Content[i+1]}, key)...)
			case key:
				own = append(own, place{file: p.file, key: n.Content[i], value: n.Content[i+1]})
			}
		}
		return append(out, own...)
	case yaml.SequenceNode:
		for _, c := range n.Content {
			name, _, _ := strings.Cut(resolve(c).Value, "=")
			if name == key {
				return []place{{file: p.file, value: c}}
			}
		}
	}
	return nil
}

// merged finds a key in what << brings: a mapping, or several.
func merged(p place, key string) []place {
	n := resolve(p.value)
	if n.Kind != yaml.SequenceNode {
		return mergedOnce(p.file, n, key)
	}
	var out []place
	for _, c := range n.Content {
		out = append(out, mergedOnce(p.file, resolve(c), key)...)
	}
	return out
}

// mergedOnce does not follow << within <<, which may lead in circles.
func mergedOnce(f *source, n *yaml.Node, key string) []place {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return []place{{file: f, key: n.Content[i], value: n.Content[i+1]}}
		}
	}
	return nil
}

func child(n *yaml.Node, key string) *yaml.Node {
	for _, p := range step(place{value: n}, key) {
		return p.value
	}
	return &yaml.Node{}
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}
