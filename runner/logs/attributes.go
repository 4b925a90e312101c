package logs

import (
	"net/url"
	"slices"
	"strings"

	"github.com/berth-registry/berth/runner/logs/remote"
)

// Container is what the attributes of a log are made of.
type Container struct {
	ID, Name           string
	ImageID, ImageName string
	Command            string
	DaemonName         string
	Labels             map[string]string
	Env                []string // as NAME=value
}

// Attributes are what Copy shows before each line when details are asked for.
func (o Options) Attributes(c Container) map[string]string {
	attrs := make(map[string]string)
	for name, value := range c.Labels {
		if slices.Contains(o.Labels, name) || o.LabelsRegex != nil && o.LabelsRegex.MatchString(name) {
			attrs[name] = value
		}
	}
	for _, env := range c.Env {
		name, value, ok := strings.Cut(env, "=")
		if ok && (slices.Contains(o.Env, name) || o.EnvRegex != nil && o.EnvRegex.MatchString(name)) {
			attrs[name] = value
		}
	}
	if o.Tag != "" && o.Remote == nil {
		attrs["tag"], _ = expandTag(o.Tag, c) // was checked when it was parsed
	}
	return attrs
}

// Source is how the log of a container is marked for a server.
func (o Options) Source(c Container) remote.Source {
	tag, _ := expandTag(o.Tag, c) // was checked when it was parsed
	return remote.Source{ID: c.ID, Name: c.Name, Image: c.ImageName, Tag: tag, Attrs: o.Attributes(c)}
}

// details renders attributes as Docker does.
func details(attrs map[string]string) string {
	pairs := make([]string, 0, len(attrs))
	for name, value := range attrs {
		pairs = append(pairs, url.QueryEscape(name)+"="+url.QueryEscape(value))
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",") + " "
}
