package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/network"
)

// A link is Docker's way, of before there were networks of users, to have a
// container on the bridge network find another one: by lines of its /etc/hosts and
// by variables of its environment. On a network of a user links are names of the
// endpoint, which the network knows. The record has links as "ID:ALIAS".

// splitLink makes out what --link says: NAME, NAME:ALIAS, or as an inspection shows
// it, /NAME:/CONTAINER/ALIAS.
func splitLink(s string) (name, alias string, err error) {
	name, alias, ok := strings.Cut(s, ":")
	switch {
	case s == "":
		return "", "", runner.Errorf(runner.ErrInvalid, "empty string specified for links")
	case !ok:
		alias = name
	case strings.HasPrefix(name, "/"):
		name, alias = name[1:], path.Base(alias)
	}
	if name == "" || alias == "" || strings.ContainsAny(alias, ":/= \t\r\n#\x00") {
		return "", "", runner.Errorf(runner.ErrInvalid, "bad format for links: %s", s)
	}
	return name, alias, nil
}

// resolveLinks replaces the names of links by the IDs of the containers. Those of a
// network of a user are left to the endpoints.
func (e *Engine) resolveLinks(hc *container.HostConfig) error {
	links := hc.Links
	hc.Links = nil
	if network.UserDefined(hc.NetworkMode.NetworkName()) && !hc.NetworkMode.IsContainer() {
		return nil
	}
	conflict := func(kind string) error {
		return runner.Errorf(runner.ErrInvalid, "conflicting options: %s networking can't be used with links. This would result in undefined behavior", kind)
	}
	switch {
	case len(links) == 0:
		return nil
	case hc.NetworkMode.IsHost():
		return conflict("host type")
	case hc.NetworkMode.IsContainer():
		return conflict("container type")
	}
	taken := map[string]string{}
	for _, l := range links {
		name, alias, err := splitLink(l)
		if err != nil {
			return err
		}
		c, err := e.findInNetwork(name)
		if err != nil { // not found would make the docker command pull the image
			return runner.Errorf(runner.ErrInvalid, "could not get container for %s: %s", name, err)
		}
		if rec, _ := c.snapshot(); rec.HostConfig.NetworkMode.IsHost() {
			return conflict("host type")
		}
		if other, ok := taken[alias]; ok && other != c.id {
			return runner.Errorf(runner.ErrConflict, "the alias %s links to two containers", alias)
		} else if !ok {
			taken[alias] = c.id
			hc.Links = append(hc.Links, c.id+":"+alias)
		}
	}
	return nil
}

// findInNetwork finds a container, or the one whose network it is in.
func (e *Engine) findInNetwork(ref string) (*ctr, error) {
	seen := map[string]bool{}
	for {
		c, err := e.find(ref)
		if err != nil {
			return nil, err
		}
		rec, _ := c.snapshot()
		if ref = rec.HostConfig.NetworkMode.ConnectedContainer(); ref == "" {
			return c, nil
		}
		if seen[c.id] { // names can lead round
			return nil, runner.Errorf(runner.ErrInvalid, "container %s is to share a network that is to be shared with it", c.id)
		}
		seen[c.id] = true
	}
}

// linked is a container that another one links to.
type linked struct {
	alias string
	rec   *runner.Container
	state runner.State
}

// links are those of a container whose ends are still there.
func (e *Engine) links(rec *runner.Container) []linked {
	var list []linked
	for _, l := range rec.HostConfig.Links {
		id, alias, _ := strings.Cut(l, ":")
		e.mu.RLock()
		c := e.containers[id]
		e.mu.RUnlock()
		if c != nil {
			one := linked{alias: alias}
			one.rec, one.state = c.snapshot()
			list = append(list, one)
		}
	}
	return list
}

// shownLinks are the links of a container as an inspection shows them.
func (e *Engine) shownLinks(rec *runner.Container) []string {
	var shown []string
	for _, l := range e.links(rec) {
		shown = append(shown, fmt.Sprintf("/%s:/%s/%s", l.rec.Name, rec.Name, l.alias))
	}
	return shown
}

// linkNames are the further names that containers have as ends of links, by ID.
func (e *Engine) linkNames() map[string][]string {
	names := map[string][]string{}
	for _, c := range e.all() {
		rec, _ := c.snapshot()
		for _, l := range e.links(rec) {
			names[l.rec.ID] = append(names[l.rec.ID], "/"+rec.Name+"/"+l.alias)
		}
	}
	for _, list := range names {
		slices.Sort(list)
	}
	return names
}

// withLinks returns the record of a container that starts with the variables of its
// links in its environment.
func (e *Engine) withLinks(ctx context.Context, rec *runner.Container) (*runner.Container, error) {
	if len(rec.HostConfig.Links) == 0 {
		return rec, nil
	}
	e.awaitLinks(ctx, rec)
	for _, l := range e.links(rec) {
		if !l.state.Running() {
			return nil, runner.Errorf(runner.ErrConflict, "Cannot link to a non running container: /%s AS /%s/%s", l.rec.Name, rec.Name, l.alias)
		}
		if l.state.Networks[apinetwork.NetworkBridge] == nil {
			return nil, runner.Errorf(runner.ErrConflict, "Cannot link to /%s, as it does not belong to the default network", l.rec.Name)
		}
	}
	return e.withLinkEnv(rec), nil
}

// withLinkEnv returns the record with the variables of those links that lead to a
// running container. What the container was created with goes before.
func (e *Engine) withLinkEnv(rec *runner.Container) *runner.Container {
	var env []string
	for _, l := range e.links(rec) {
		if l.state.Running() {
			env = append(env, l.environment(rec.Name)...)
		}
	}
	if len(env) == 0 {
		return rec
	}
	changed, cfg := *rec, *rec.Config
	cfg.Env = append(env, cfg.Env...)
	changed.Config = &cfg
	return &changed
}

// awaitLinks waits a while for the ends of links that are about to start, too, as
// after a reboot.
func (e *Engine) awaitLinks(ctx context.Context, rec *runner.Container) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for slices.ContainsFunc(e.links(rec), func(l linked) bool { return l.state.Status == container.StateRestarting }) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// environment are the variables of a link, as Docker names them. It is a pure
// function.
func (l linked) environment(parent string) []string {
	prefix := strings.ReplaceAll(strings.ToUpper(l.alias), "-", "_")
	var env []string
	set := func(format string, args ...any) { env = append(env, prefix+fmt.Sprintf(format, args...)) }
	var ip string
	if es := l.state.Networks[apinetwork.NetworkBridge]; es != nil {
		ip = es.IPAddress.String()
	}
	url := func(p apinetwork.Port) string { return fmt.Sprintf("%s://%s:%d", p.Proto(), ip, p.Num()) }
	ports := slices.Collect(func(yield func(apinetwork.Port) bool) {
		for p := range l.rec.Config.ExposedPorts {
			if !yield(p) {
				return
			}
		}
	})
	slices.SortFunc(ports, tcpFirst)
	for i, first := 0, 0; i < len(ports); i++ {
		p := ports[i]
		if i == 0 {
			set("_PORT=%s", url(p))
		}
		key := portKey(p)
		set("%s=%s", key, url(p))
		set("%s_ADDR=%s", key, ip)
		set("%s_PORT=%d", key, p.Num())
		set("%s_PROTO=%s", key, p.Proto())
		if i+1 < len(ports) && ports[i+1].Proto() == p.Proto() && ports[i+1].Num() == p.Num()+1 {
			continue // a range goes on
		}
		if first < i {
			key := portKey(ports[first])
			set("%s_START=%s", key, url(ports[first]))
			set("%s_PORT_START=%d", key, ports[first].Num())
			set("%s_END=%s", key, url(p))
			set("%s_PORT_END=%d", key, p.Num())
		}
		first = i + 1
	}
	set("_NAME=/%s/%s", parent, l.alias)
	for _, v := range l.rec.Config.Env {
		if name, value, ok := strings.Cut(v, "="); ok && name != "HOME" && name != "PATH" {
			set("_ENV_%s=%s", name, value)
		}
	}
	return env
}

func portKey(p apinetwork.Port) string {
	return fmt.Sprintf("_PORT_%d_%s", p.Num(), strings.ToUpper(string(p.Proto())))
}

func tcpFirst(a, b apinetwork.Port) int {
	rank := func(p apinetwork.Port) int {
		if p.Proto() == apinetwork.TCP {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Proto(), b.Proto()), cmp.Compare(a.Num(), b.Num()))
}

// linkedHosts are the lines that links add to a container's /etc/hosts.
func (e *Engine) linkedHosts(rec *runner.Container) []network.HostsLine {
	var lines []network.HostsLine
	for _, l := range e.links(rec) {
		lines = append(lines, l.hosts()...)
	}
	return lines
}

// hosts are the lines of one link.
func (l linked) hosts() []network.HostsLine {
	es := l.state.Networks[apinetwork.NetworkBridge]
	if es == nil {
		return nil
	}
	names := []string{l.alias, l.rec.Config.Hostname}
	if l.rec.Name != l.alias {
		names = append(names, l.rec.Name)
	}
	return network.HostsLines(names, addressesOf(map[string]*apinetwork.EndpointSettings{"": es}))
}

// followLinks tells the running containers that link to one which has started where
// it is now.
func (e *Engine) followLinks(ctx context.Context, c *ctr) {
	for _, other := range e.all() {
		rec, st := other.snapshot()
		if len(rec.HostConfig.Links) == 0 || !st.Running() {
			continue
		}
		for _, l := range e.links(rec) {
			if l.rec.ID != c.id {
				continue
			}
			if err := e.editHosts(e.filesOf(other.id).Hosts, ofLink(l.alias), l.hosts()...); err != nil {
				e.log.WarnContext(ctx, "follow a link in /etc/hosts", "container", other.id, "link", l.alias, "error", err)
			}
		}
	}
}

// ofLink chooses the lines of a link.
func ofLink(alias string) func(network.HostsLine) bool {
	return func(l network.HostsLine) bool { return len(l.Names) > 1 && l.Names[0] == alias }
}

// removeLink removes the link CONTAINER/ALIAS.
func (e *Engine) removeLink(ctx context.Context, ref string) error {
	parent, alias := path.Split(strings.TrimPrefix(ref, "/"))
	parent = strings.TrimSuffix(parent, "/")
	if parent == "" {
		if _, err := e.find(ref); err != nil {
			return err
		}
		return runner.Errorf(runner.ErrConflict, "Conflict, cannot remove the default link name of the container")
	}
	c, unlock, err := e.findLocked(ctx, parent)
	if err != nil {
		if errors.Is(err, runner.ErrNotFound) {
			return runner.Errorf(runner.ErrNotFound, "Cannot get parent /%s for link name /%s/%s", parent, parent, alias)
		}
		return err
	}
	defer unlock()
	rec, st := c.snapshot()
	changed, hc := *rec, *rec.HostConfig
	hc.Links = slices.DeleteFunc(slices.Clone(hc.Links), func(l string) bool { return strings.HasSuffix(l, ":"+alias) })
	if len(hc.Links) == len(rec.HostConfig.Links) {
		return noSuchContainer(ref)
	}
	changed.HostConfig = &hc
	if err := e.replaceRecord(c, &changed); err != nil {
		return err
	}
	if st.Running() {
		return e.editHosts(e.filesOf(c.id).Hosts, ofLink(alias))
	}
	return nil
}
