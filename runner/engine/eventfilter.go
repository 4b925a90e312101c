package engine

import (
	"strings"

	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
)

// eventMatches says whether an event is one that the filters of `docker events`
// let through. As in Docker, the name of an object may be given by its beginning.
func eventMatches(f runner.Filters, m events.Message) bool {
	of := func(t events.Type) bool {
		return f.MatchFunc(string(t), func(want string) bool {
			return m.Type == t && want != "" &&
				(strings.HasPrefix(m.Actor.ID, want) || strings.HasPrefix(m.Actor.Attributes["name"], want))
		})
	}
	return f.Match("type", string(m.Type)) &&
		f.Match("scope", m.Scope) &&
		f.MatchFunc("event", func(want string) bool { return isAction(m.Action, want) }) &&
		of(events.ContainerEventType) &&
		of(events.NetworkEventType) &&
		of(events.VolumeEventType) &&
		of(events.DaemonEventType) &&
		// There are none of these, so what is asked for is nothing.
		of(events.PluginEventType) &&
		of(events.NodeEventType) &&
		of(events.ServiceEventType) &&
		of(events.SecretEventType) &&
		of(events.ConfigEventType) &&
		f.MatchFunc("image", func(want string) bool { return ofImage(m, want) }) &&
		f.MatchLabels("label", m.Actor.Attributes)
}

// isAction says whether an action is the one wanted, with what may follow it after
// a colon or without.
func isAction(action events.Action, want string) bool {
	whole := string(action)
	short, _, _ := strings.Cut(whole, ":")
	return want == whole || want == short
}

// ofImage says whether an event is of an image, or of what was made of it.
func ofImage(m events.Message, want string) bool {
	ref := m.Actor.Attributes["image"]
	if m.Type == events.ImageEventType {
		ref = m.Actor.Attributes["name"]
		if want != "" && strings.HasPrefix(m.Actor.ID, want) {
			return true
		}
	}
	repo := ref
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		repo = ref[:i]
	}
	return want == ref || want == repo
}
