package stack

import (
	"context"
	"path/filepath"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/berth-registry/berth/runner"
)

// alone is why a published Compose file is refused that names others.
const alone = "a published Compose file stands alone, and names no other files"

// These bound the shape of a Compose file, which somebody else may have written. Files
// that people write are far from them.
const (
	maxDepth = 64      // of mappings and lists in each other
	maxNodes = 200_000 // with all aliases written out
	maxRange = 1000    // ports of an element of ports
)

// maxServices bounds the services of a stack.
const maxServices = 1000

// checkShape refuses what would have compose-go work for minutes.
func checkShape(s *sources) error {
	ps := &problems{src: s}
	for _, f := range s.files {
		sh := &shape{sizes: map[*yaml.Node]size{}}
		for _, doc := range f.parse() {
			if n, why := sh.measure(doc); n != nil {
				ps.errs = append(ps.errs, Problem{File: f.name, Line: n.Line, Message: why})
				return ps.err()
			}
		}
		for _, doc := range f.parse() {
			for _, services := range step(place{file: f, value: doc}, "services") {
				if n := len(resolve(services.value).Content) / 2; n > maxServices {
					ps.addf(keys{"services"}, "%d services are more than the %d that a stack may have", n, maxServices)
				}
				refuseWide(ps, f, resolve(services.value))
			}
		}
	}
	return ps.err()
}

// refuseWide refuses ranges of too many ports.
func refuseWide(ps *problems, f *source, services *yaml.Node) {
	for i := 0; services.Kind == yaml.MappingNode && i+1 < len(services.Content); i += 2 {
		name, service := services.Content[i].Value, services.Content[i+1]
		for i, port := range resolve(child(service, "ports")).Content {
			if !wide(resolve(port).Value) {
				continue
			}
			ps.errs = append(ps.errs, Problem{
				File: f.name, Line: port.Line, Path: keys{"services", name, "ports"}.index(i).String(),
				Message: resolve(port).Value + " has more than " + strconv.Itoa(maxRange) + " ports",
			})
		}
	}
}

// checkPublished refuses what would have compose-go read files of this host.
func checkPublished(s *sources) error {
	if err := checkShape(s); err != nil {
		return err
	}
	ps := &problems{src: s}
	if err := s.files[0].err; err != nil {
		return explain(ps, err)
	}
	for _, doc := range s.files[0].parse() {
		root := place{file: s.files[0], value: doc}
		if len(step(root, "include")) > 0 {
			ps.addf(keys{"include"}, "%s", alone)
		}
		for _, services := range step(root, "services") {
			refuseLocalServices(ps, resolve(services.value))
		}
	}
	return ps.err()
}

func refuseLocalServices(ps *problems, services *yaml.Node) {
	for i := 0; services.Kind == yaml.MappingNode && i+1 < len(services.Content); i += 2 {
		name, service := services.Content[i].Value, services.Content[i+1]
		for _, key := range []string{"env_file", "label_file"} {
			if len(step(place{value: service}, key)) > 0 {
				ps.addf(keys{"services", name, key}, "%s", alone)
			}
		}
		if ext := resolve(child(service, "extends")); len(step(place{value: ext}, "file")) > 0 {
			ps.addf(keys{"services", name, "extends", "file"}, "%s", alone)
		}
	}
}

// nothing is where a published Compose file finds other files.
type nothing struct{}

func (nothing) Accept(string) bool { return true }

func (nothing) Load(_ context.Context, name string) (string, error) {
	return "", runner.Errorf(runner.ErrInvalid, "%s: %s", name, alone)
}

func (nothing) Dir(name string) string { return filepath.Dir(name) }

// wide says whether one of the ranges of ports in a text is wider than maxRange.
func wide(text string) bool {
	for _, m := range portRange.FindAllStringSubmatch(text, -1) {
		from, _ := strconv.Atoi(m[1])
		to, err := strconv.Atoi(m[2])
		if err != nil || to-from >= maxRange {
			return true
		}
	}
	return false
}

var portRange = regexp.MustCompile(`(\d+)-(\d+)`)

// shape measures YAML with its aliases written out, without doing so.
type shape struct {
	sizes map[*yaml.Node]size
}

// size is what a node comes to. One that is not measured yet is open.
type size struct {
	open          bool
	nodes, height int
}

// measure returns a node that is out of bounds, and why, or nil.
func (s *shape) measure(n *yaml.Node) (bad *yaml.Node, why string) {
	if known, ok := s.sizes[n]; ok {
		if known.open {
			return n, "an alias that contains itself"
		}
		return nil, ""
	}
	s.sizes[n] = size{open: true}
	own := size{nodes: 1, height: 1}
	below := n.Content
	if n.Kind == yaml.AliasNode {
		below = []*yaml.Node{n.Alias}
	}
	for _, c := range below {
		if bad, why := s.measure(c); bad != nil {
			return bad, why
		}
		own.nodes += s.sizes[c].nodes
		own.height = max(own.height, s.sizes[c].height+1)
	}
	switch {
	case own.nodes > maxNodes:
		return n, "more than " + strconv.Itoa(maxNodes) + " values"
	case own.height > 2*maxDepth: // aliases count too
		return n, "mappings and lists more than " + strconv.Itoa(maxDepth) + " deep in each other"
	}
	s.sizes[n] = own
	return nil, ""
}
