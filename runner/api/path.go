package api

import "strings"

// pattern is the path of a route: literal parts, and between them names. A name
// may hold slashes, as those of images do, so what follows decides where it ends.
type pattern []string

func parsePattern(s string) pattern {
	var p pattern
	for {
		literal, rest, ok := strings.Cut(s, "{")
		p = append(p, literal)
		if !ok {
			return p
		}
		_, s, _ = strings.Cut(rest, "}")
	}
}

// match returns the names in path. It is a pure function.
func (p pattern) match(path string) (names []string, ok bool) {
	rest, ok := strings.CutPrefix(path, p[0])
	if !ok {
		return nil, false
	}
	last := len(p) - 1
	if last == 0 {
		return nil, rest == ""
	}
	rest, ok = strings.CutSuffix(rest, p[last])
	if !ok {
		return nil, false
	}
	for _, literal := range p[1:last] {
		name, after, found := strings.Cut(rest, literal)
		if !found {
			return nil, false
		}
		names, rest = append(names, name), after
	}
	return append(names, rest), true
}

// splitVersion takes the version off the path: "1.50" and "/info" of
// "/v1.50/info", or no version.
func splitVersion(path string) (v, rest string) {
	after, ok := strings.CutPrefix(path, "/v")
	if !ok {
		return "", path
	}
	v, _, ok = strings.Cut(after, "/")
	if !ok || v == "" || strings.Trim(v, "0123456789.") != "" {
		return "", path
	}
	return v, after[len(v):]
}
