package stack

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// explain gives what compose-go found wrong its file and line, as far as its words
// tell where it is.
func explain(ps *problems, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	for _, err := range leaves(err) {
		for _, text := range decodings(err.Error()) {
			ps.errs = append(ps.errs, ps.src.explain(strings.Join(strings.Fields(text), " ")))
		}
	}
	return ps.err()
}

// decodings returns the lines of an error that tells several at once, each of which is
// about a value: 'services[web].mem_limit' invalid size: 'lots'.
func decodings(text string) []string {
	list, ok := strings.CutPrefix(text, "decoding failed due to the following error(s):")
	if !ok {
		return []string{text}
	}
	return strings.FieldsFunc(list, func(r rune) bool { return r == '\n' })
}

// leaves returns the errors that were joined.
func leaves(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range joined.Unwrap() {
			out = append(out, leaves(e)...)
		}
		if len(out) > 0 && errors.Join(joined.Unwrap()...).Error() == err.Error() {
			return out
		}
	}
	return []error{err}
}

// unknownKey is what a schema of JSON has other words for.
const unknownKey = "no such key in a Compose file"

func (s *sources) explain(text string) Problem {
	text = strings.TrimSuffix(text, ": invalid compose project") // the kind of compose-go's errors
	var named *source
	for _, re := range []string{`^(?:validating|failed to parse|failed to read) (\S+?): `} {
		if m := regexp.MustCompile(re).FindStringSubmatch(text); m != nil {
			text = strings.TrimPrefix(text, m[0])
			named = s.named(m[1])
		}
	}
	text = strings.TrimPrefix(text, "yaml: construct errors: line 1: ") // which is where the mapping begins
	if m := regexp.MustCompile(`\bline (\d+)(?:, column \d+)?:? ?`).FindStringSubmatch(text); m != nil && (named != nil || len(s.files) == 1) {
		line, _ := strconv.Atoi(m[1])
		if named == nil {
			named = s.files[0]
		}
		return Problem{File: named.name, Line: line, Message: strings.TrimPrefix(text, "yaml: ")}
	}
	if p := s.told(text); p != nil {
		return *p
	}
	p, message := s.pathIn(text)
	file, line := s.locate(p)
	if message == "false schema" {
		message = unknownKey
	}
	if m := regexp.MustCompile(`additional properties '([^']*)'`).FindStringSubmatch(message); m != nil {
		named := len(p) == 1 // not a key, but the name of a service or the like
		p = p.at(m[1])
		file, line = s.locate(p)
		switch {
		case m[1] == "":
			message = "a key cannot be empty"
		case named:
			message = "a name has letters, digits, dots, - and _, and no others"
		default:
			message = unknownKey
		}
	}
	if line == 0 && named != nil {
		file = named.name
	}
	return Problem{File: file, Line: line, Path: p.String(), Message: message}
}

// named returns the file of a path, or one of that name that has no lines.
func (s *sources) named(file string) *source {
	for _, f := range s.files {
		if f.path == file || f.name == file {
			return f
		}
	}
	return &source{name: display(filepath.Clean(file))}
}

// pathIn finds in a message of compose-go what it is about: "services.web.image ...",
// `service "web" ...`, or the same for networks and others.
func (s *sources) pathIn(text string) (keys, string) {
	dotted := regexp.MustCompile(`\b(?:services|networks|volumes|configs|secrets|include|jobs|models)\.[^\s:,'"]+`)
	if at := dotted.FindStringIndex(text); at != nil {
		p := s.split(strings.TrimRight(text[at[0]:at[1]], "."))
		if at[0] == 0 {
			return p, strings.TrimLeft(text[at[1]:], ": ")
		}
		return p, text
	}
	if m := regexp.MustCompile(`^'([a-z]+(?:\[[^\]]*\]|\.[A-Za-z0-9_-]+)+)' `).FindStringSubmatch(text); m != nil {
		return decoded(m[1]), strings.TrimPrefix(text, m[0])
	}
	quoted := regexp.MustCompile(`^(service|network|volume|config|secret) "?([A-Za-z0-9._-]+)"?`)
	if m := quoted.FindStringSubmatch(text); m != nil {
		return keys{m[1] + "s", m[2]}, text
	}
	if m := regexp.MustCompile(`^(services|networks|volumes|configs|secrets) (must|additional) `).FindStringSubmatch(text); m != nil {
		return keys{m[1]}, text
	}
	return nil, text
}

// decoded makes a path of one like services[web].ports[0].target.
func decoded(text string) keys {
	var p keys
	for _, m := range regexp.MustCompile(`\[([^\]]*)\]|[^.\[\]]+`).FindAllStringSubmatch(text, -1) {
		key := m[0]
		if m[1] != "" {
			key = m[1]
		}
		if _, err := strconv.Atoi(key); err == nil && len(p) > 2 {
			key = "[" + key + "]"
		}
		p = append(p, key)
	}
	return p
}

// split makes a path of a dotted one, whose keys may have dots themselves: those that
// the files have are preferred.
func (s *sources) split(dotted string) keys {
	dotted = regexp.MustCompile(`\[(\d+)\]`).ReplaceAllString(dotted, ".[$1]")
	var p keys
	parts := strings.Split(strings.ReplaceAll(dotted, ".[].", "."), ".")
	for len(parts) > 0 {
		n := 1
		for i := len(parts); i > 1; i-- {
			if s.exact(p.at(strings.Join(parts[:i], "."))) != nil {
				n = i
				break
			}
		}
		key := strings.Join(parts[:n], ".")
		if _, err := strconv.Atoi(key); err == nil && len(p) > 2 {
			key = "[" + key + "]"
		}
		p, parts = append(p, key), parts[n:]
	}
	return p
}

// withoutVersion returns a file without the key that Compose once had, in as many
// lines: compose-go would tell of it by a logger of its own.
func withoutVersion(ps *problems, f *source) []byte {
	lines := bytes.Split(f.data, []byte("\n"))
	changed := false
	for _, doc := range f.parse() {
		for _, at := range step(place{file: f, value: doc}, "version") {
			if n := at.key; n != nil && n.Column == 1 && n.Line <= len(lines) && bytes.HasPrefix(lines[n.Line-1], []byte("version:")) && at.value.Line == n.Line {
				lines[n.Line-1], changed = nil, true
				ps.warnings = append(ps.warnings, Problem{File: f.name, Line: n.Line, Path: "version", Message: "is obsolete, and not looked at"})
			}
		}
	}
	if !changed {
		return f.data
	}
	return bytes.Join(lines, []byte("\n"))
}

// clone copies what YAML is decoded into.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = clone(e)
		}
		return out
	default:
		return v
	}
}
