package stack

import (
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// findLinks makes names of links: a service that is linked to has the alias on each
// network that both are on.
func (t *translation) findLinks() {
	t.links = map[string]map[string][]string{}
	owner := map[string]string{}
	for name := range t.project.Services {
		owner[name] = name
	}
	for name, s := range byKey(t.project.Services) {
		for i, l := range s.Links {
			target, alias, ok := strings.Cut(l, ":")
			if !ok {
				alias = target
			}
			at := keys{"services", name, "links"}.index(i)
			if other, taken := owner[alias]; taken && other != target {
				t.addf(at, "the name %s leads to the service %s already", alias, other)
				continue
			}
			owner[alias] = target
			t.link(at, s, target, alias)
		}
	}
}

func (t *translation) link(p keys, s types.ServiceConfig, target, alias string) {
	shared := false
	other := t.project.Services[target]
	for key := range s.Networks {
		if _, ok := other.Networks[key]; !ok {
			continue
		}
		shared = true
		if t.links[target] == nil {
			t.links[target] = map[string][]string{}
		}
		t.links[target][key] = append(t.links[target][key], alias)
	}
	if !shared {
		t.addf(p, "there is no network that %s and %s are both on", s.Name, target)
	}
}
