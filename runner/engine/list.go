package engine

import (
	"cmp"
	"context"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

var listFilters = []string{
	"ancestor", "annotation", "before", "exited", "expose", "health", "id", "is-task", "label", "name",
	"network", "publish", "since", "status", "volume", "isolation",
}

// ListContainers implements runner/api's Containers.
func (e *Engine) ListContainers(ctx context.Context, opts runner.ListOptions) ([]container.Summary, error) {
	match, err := e.listMatcher(ctx, opts)
	if err != nil {
		return nil, err
	}
	list, links := []container.Summary{}, e.linkNames()
	for _, c := range e.newestFirst() {
		rec, st := c.snapshot()
		health := c.healthOf()
		if !match(rec, st, health) {
			continue
		}
		one := summary(rec, st, health)
		one.Names = append(one.Names, links[rec.ID]...)
		if opts.Size {
			if one.SizeRw, one.SizeRootFs, err = e.sizes(ctx, rec); err != nil {
				return nil, err
			}
		}
		list = append(list, one)
		if opts.Limit > 0 && len(list) == opts.Limit {
			break
		}
	}
	return list, nil
}

// newestFirst returns the containers there are, the newest first.
func (e *Engine) newestFirst() []*ctr {
	type aged struct {
		*ctr
		created time.Time
	}
	var rows []aged
	for _, c := range e.all() {
		rec, _ := c.snapshot()
		rows = append(rows, aged{c, rec.Created})
	}
	slices.SortFunc(rows, func(a, b aged) int {
		return cmp.Or(b.created.Compare(a.created), cmp.Compare(a.id, b.id))
	})
	list := make([]*ctr, len(rows))
	for i, row := range rows {
		list[i] = row.ctr
	}
	return list
}

// listMatcher makes of the options a predicate, and checks them.
func (e *Engine) listMatcher(ctx context.Context, opts runner.ListOptions) (func(*runner.Container, runner.State, *container.Health) bool, error) {
	f := opts.Filters
	if err := f.Allow(listFilters...); err != nil {
		return nil, err
	}
	_, byStatus := f["status"]
	_, byCode := f["exited"]
	all := opts.All || opts.Limit > 0 || byStatus || byCode
	for _, status := range f["status"] {
		if err := container.ValidateContainerState(container.ContainerState(status)); err != nil {
			return nil, runner.Errorf(runner.ErrInvalid, "invalid filter 'status=%s'", status)
		}
	}
	for _, code := range f["exited"] {
		if _, err := strconv.Atoi(code); err != nil {
			return nil, runner.Errorf(runner.ErrInvalid, "invalid filter 'exited=%s'", code)
		}
	}
	names, err := compileAll(f["name"])
	if err != nil {
		return nil, err
	}
	ancestors := e.ancestors(ctx, f["ancestor"])
	before, since, err := e.listBounds(f)
	if err != nil {
		return nil, err
	}
	return func(rec *runner.Container, st runner.State, health *container.Health) bool {
		return (all || st.Running() || st.Status == container.StateRestarting) &&
			f.Match("status", string(st.Status)) &&
			(!byCode || st.Status == container.StateExited && f.Match("exited", strconv.Itoa(st.ExitCode))) &&
			f.MatchFunc("id", func(want string) bool { return strings.HasPrefix(rec.ID, want) }) &&
			matchesName(names, rec.Name) &&
			f.MatchLabels("label", rec.Config.Labels) &&
			f.MatchLabels("annotation", rec.HostConfig.Annotations) &&
			f.MatchFunc("ancestor", func(want string) bool { return ancestors[want] == rec.ImageID || want == rec.Config.Image }) &&
			f.MatchFunc("volume", func(want string) bool { return mounts(rec, want) }) &&
			f.MatchFunc("network", func(want string) bool { return connected(rec, want) }) &&
			f.MatchFunc("publish", func(want string) bool { return publishes(st.Ports, want) }) &&
			f.MatchFunc("expose", func(want string) bool { return exposes(rec.Config.ExposedPorts, want) }) &&
			f.MatchFunc("health", func(want string) bool { return want == string(healthStatus(health)) }) &&
			f.MatchFunc("is-task", func(want string) bool { return want == "false" || want == "0" }) &&
			(before == nil || rec.Created.Before(before.Created)) &&
			(since == nil || rec.Created.After(since.Created))
	}, nil
}

// ancestors finds the images that the filter names, by the name given.
func (e *Engine) ancestors(ctx context.Context, refs []string) map[string]string {
	ids := map[string]string{}
	for _, ref := range refs {
		if img, err := e.images.Get(ctx, ref); err == nil {
			ids[ref] = img.ID
		}
	}
	return ids
}

func (e *Engine) listBounds(f runner.Filters) (before, since *runner.Container, err error) {
	for key, into := range map[string]**runner.Container{"before": &before, "since": &since} {
		for _, ref := range f[key] {
			c, err := e.find(ref)
			if err != nil {
				return nil, nil, err
			}
			*into, _ = c.snapshot()
		}
	}
	return before, since, nil
}

func compileAll(patterns []string) ([]*regexp.Regexp, error) {
	var all []*regexp.Regexp
	for _, pattern := range patterns {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, runner.Errorf(runner.ErrInvalid, "invalid filter 'name=%s': %w", pattern, err)
		}
		all = append(all, re)
	}
	return all, nil
}

func matchesName(names []*regexp.Regexp, name string) bool {
	return len(names) == 0 || slices.ContainsFunc(names, func(re *regexp.Regexp) bool {
		return re.MatchString(name) || re.MatchString("/"+name)
	})
}

func mounts(rec *runner.Container, want string) bool {
	return slices.ContainsFunc(rec.Mounts, func(m container.MountPoint) bool {
		return m.Name == want || m.Source == want || path.Clean(m.Destination) == path.Clean(want)
	})
}

func connected(rec *runner.Container, want string) bool {
	for name, ep := range rec.Networks {
		if name == want || ep.NetworkID != "" && strings.HasPrefix(ep.NetworkID, want) {
			return true
		}
	}
	return false
}

func publishes(ports network.PortMap, want string) bool {
	r, err := network.ParsePortRange(want)
	if err != nil {
		return false
	}
	for port, bindings := range ports {
		if port.Proto() != r.Proto() {
			continue
		}
		for _, b := range bindings {
			if n, err := strconv.ParseUint(b.HostPort, 10, 16); err == nil && n >= uint64(r.Start()) && n <= uint64(r.End()) {
				return true
			}
		}
	}
	return false
}

func exposes(ports network.PortSet, want string) bool {
	r, err := network.ParsePortRange(want)
	if err != nil {
		return false
	}
	for port := range ports {
		if port.Proto() == r.Proto() && port.Num() >= r.Start() && port.Num() <= r.End() {
			return true
		}
	}
	return false
}

// untilFilter returns the one time of the filter "until", or zero: a duration
// before now, seconds since 1970, or a date.
func untilFilter(f runner.Filters) (time.Time, error) {
	values := f["until"]
	switch len(values) {
	case 0:
		return time.Time{}, nil
	case 1:
	default:
		return time.Time{}, runner.Errorf(runner.ErrInvalid, "more than one until filter specified")
	}
	value := values[0]
	if d, err := time.ParseDuration(value); err == nil {
		return time.Now().Add(-d), nil
	}
	if s, err := strconv.ParseFloat(value, 64); err == nil {
		return time.Unix(0, int64(s*float64(time.Second))), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, value, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, runner.Errorf(runner.ErrInvalid, "invalid filter 'until=%s'", value)
}

func hasExcludedLabel(f runner.Filters, labels map[string]string) bool {
	for _, label := range f["label!"] {
		if (runner.Filters{"label": {label}}).MatchLabels("label", labels) {
			return true
		}
	}
	return false
}
