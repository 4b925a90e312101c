package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

// sources finds the lines of a merged Compose file in the files that it was made of.
// It reads them again, and only once something is to be told.
type sources struct {
	files []*source
	dir   string        // of the project, that includes and extends are relative to
	local bool          // files that the files name may be read
	env   types.Mapping // variables
	model map[string]any
	roots []place

	opened int
}

// source is a file.
type source struct {
	name string // as it is told
	path string // empty: it is not in a file
	dir  string // that it has its own extends and includes relative to
	data []byte
	docs []*yaml.Node // mappings
	read bool
	err  error // why not all of it could be read
}

// place is a value in a file, with its key if it has one.
type place struct {
	file  *source
	key   *yaml.Node
	value *yaml.Node
}

// These bound what is done for the sake of a line: how deep extends and include are
// followed, and how many files are read.
const (
	maxExtends = 16
	maxOpened  = 1000
)

// parse reads the documents of a file. What cannot be read has no lines: compose-go
// has told why already.
func (s *source) parse() []*yaml.Node {
	if s.read {
		return s.docs
	}
	s.read = true
	if s.data == nil && s.path != "" {
		s.data, _ = os.ReadFile(s.path)
	}
	for d := yaml.NewDecoder(bytes.NewReader(s.data)); ; {
		var n yaml.Node
		if err := d.Decode(&n); err != nil {
			if !errors.Is(err, io.EOF) {
				s.err = err
			}
			return s.docs
		}
		if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
			s.docs = append(s.docs, n.Content[0])
		}
	}
}

// locate returns the file and the line that set the value at p, or the nearest one
// above it. Where several files set it, the last one counts.
func (s *sources) locate(p keys) (file string, line int) {
	found := s.find(p)
	if found == nil {
		if len(s.files) == 0 {
			return "", 0
		}
		return s.files[0].name, 0
	}
	if found.key != nil {
		return found.file.name, found.key.Line
	}
	return found.file.name, found.value.Line
}

// find returns the place of p, or of the nearest above it, or nil.
func (s *sources) find(p keys) *place {
	places, _ := s.follow(p)
	if len(places) == 0 {
		return nil
	}
	return &places[len(places)-1]
}

// exact returns the place of p alone, or nil.
func (s *sources) exact(p keys) *place {
	places, whole := s.follow(p)
	if !whole || len(places) == 0 {
		return nil
	}
	return &places[len(places)-1]
}

func (s *sources) follow(p keys) (places []place, whole bool) {
	if s.roots == nil {
		for _, f := range s.files {
			f.dir = s.dir
			s.roots = append(s.roots, s.root(f, 0)...)
		}
	}
	places = s.roots
	for i, key := range p {
		next := s.step(places, p[:i], key)
		if i == 1 && p[0] == "services" {
			next = s.extended(next, 0)
		}
		if len(next) == 0 {
			if i == 0 {
				return nil, false
			}
			return places, false
		}
		places = next
	}
	return places, true
}

// root returns the documents of a file, after those of the files that it includes.
func (s *sources) root(f *source, depth int) []place {
	var out []place
	for _, doc := range f.parse() {
		if depth < maxExtends && s.local {
			out = append(out, s.included(f, doc, depth)...)
		}
		out = append(out, place{file: f, value: doc})
	}
	return out
}

func (s *sources) included(f *source, doc *yaml.Node, depth int) []place {
	var out []place
	for _, inc := range step(place{file: f, value: doc}, "include") {
		for _, n := range resolve(inc.value).Content {
			for _, name := range includePaths(n) {
				if file := s.open(f.dir, name); file != nil {
					out = append(out, s.root(file, depth+1)...)
				}
			}
		}
	}
	return out
}

// includePaths returns the files of an element of include: a name, or a mapping whose
// path is a name or several.
func includePaths(n *yaml.Node) []string {
	n = resolve(n)
	if n.Kind == yaml.MappingNode {
		n = resolve(child(n, "path"))
	}
	if n.Kind == yaml.ScalarNode {
		return []string{n.Value}
	}
	var out []string
	for _, c := range n.Content {
		out = append(out, resolve(c).Value)
	}
	return out
}

// open returns the file of a name, or nil if it was opened as often as is of use for
// the sake of lines. Variables in the name are not followed.
func (s *sources) open(dir, name string) *source {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	if s.opened++; s.opened > maxOpened {
		return nil
	}
	return &source{name: display(name), path: name, dir: filepath.Dir(name)}
}

// extended puts before the definitions of a service those that they extend.
func (s *sources) extended(services []place, depth int) []place {
	var out []place
	for _, sv := range services {
		if depth < maxExtends {
			out = append(out, s.base(sv, depth)...)
		}
		out = append(out, sv)
	}
	return out
}

func (s *sources) base(sv place, depth int) []place {
	ext := resolve(child(resolve(sv.value), "extends"))
	name, file := ext.Value, sv.file
	if ext.Kind == yaml.MappingNode {
		name = resolve(child(ext, "service")).Value
		if f := resolve(child(ext, "file")).Value; f != "" {
			if !s.local {
				return nil
			}
			file = s.open(sv.file.dir, f)
		}
	}
	if name == "" || file == nil {
		return nil
	}
	var found []place
	for _, doc := range file.parse() {
		for _, all := range step(place{file: file, value: doc}, "services") {
			found = append(found, step(all, name)...)
		}
	}
	return s.extended(found, depth+1)
}

// step goes from places of the same value down to one of its keys. An element of a
// list is found if the lists that were merged are as long as what came out.
func (s *sources) step(places []place, above keys, key string) []place {
	var i int
	if n, _ := fmt.Sscanf(key, "[%d]", &i); n != 1 {
		var out []place
		for _, p := range places {
			out = append(out, step(p, key)...)
		}
		return out
	}
	var elements []place
	for _, p := range places {
		for _, n := range resolve(p.value).Content {
			elements = append(elements, place{file: p.file, value: n})
		}
	}
	if list, ok := lookup(s.model, above).([]any); !ok || len(list) != len(elements) || i >= len(elements) {
		return nil
	}
	return elements[i : i+1]
}

// display returns a file's name as somebody in this directory would write it.
func display(file string) string {
	wd, err := os.Getwd()
	if err != nil {
		return file
	}
	rel, err := filepath.Rel(wd, file)
	if err != nil || strings.HasPrefix(rel, "..") {
		return file
	}
	return rel
}

// lookup returns the value at p of a merged Compose file, or nil.
func lookup(model any, p keys) any {
	for _, key := range p {
		switch v := model.(type) {
		case map[string]any:
			model = v[key]
		case []any:
			var i int
			if n, _ := fmt.Sscanf(key, "[%d]", &i); n != 1 || i >= len(v) {
				return nil
			}
			model = v[i]
		default:
			return nil
		}
	}
	return model
}
