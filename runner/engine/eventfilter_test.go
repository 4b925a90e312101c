package engine

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
)

func TestEventFilters(t *testing.T) {
	of := func(typ events.Type, action events.Action, id string, attrs ...string) events.Message {
		m := events.Message{Type: typ, Action: action, Scope: "local", Actor: events.Actor{ID: id, Attributes: map[string]string{}}}
		for i := 0; i < len(attrs); i += 2 {
			m.Actor.Attributes[attrs[i]] = attrs[i+1]
		}
		return m
	}
	web := of(events.ContainerEventType, "health_status: healthy", "abcdef", "name", "web", "image", "localhost:5000/web:v1", "tier", "front")
	pull := of(events.ImageEventType, events.ActionPull, "sha256:1234", "name", "localhost:5000/web:v1")
	mount := of(events.VolumeEventType, events.ActionMount, "data", "container", "abcdef")
	for _, tt := range []struct {
		f    runner.Filters
		m    events.Message
		want bool
	}{
		{nil, web, true},
		{runner.Filters{"container": {"web"}}, web, true},
		{runner.Filters{"container": {"abc"}}, web, true},
		{runner.Filters{"container": {"other", "we"}}, web, true},
		{runner.Filters{"container": {"eb"}}, web, false},
		{runner.Filters{"container": {""}}, web, false},
		{runner.Filters{"container": {"abc"}}, mount, false},
		{runner.Filters{"event": {"health_status"}}, web, true},
		{runner.Filters{"event": {"health_status: healthy"}}, web, true},
		{runner.Filters{"event": {"health_status: unhealthy"}}, web, false},
		{runner.Filters{"event": {"die", "pull"}}, pull, true},
		{runner.Filters{"type": {"container", "image"}, "event": {"pull"}}, pull, true},
		{runner.Filters{"type": {"volume"}}, pull, false},
		{runner.Filters{"image": {"localhost:5000/web"}}, web, true},
		{runner.Filters{"image": {"localhost:5000/web:v1"}}, pull, true},
		{runner.Filters{"image": {"sha256:12"}}, pull, true},
		{runner.Filters{"image": {"web"}}, pull, false},
		{runner.Filters{"label": {"tier=front"}}, web, true},
		{runner.Filters{"label": {"tier"}}, web, true},
		{runner.Filters{"label": {"tier", "zone"}}, web, false},
		{runner.Filters{"volume": {"data"}}, mount, true},
		{runner.Filters{"network": {"bridge"}}, mount, false},
		{runner.Filters{"scope": {"local"}}, mount, true},
		{runner.Filters{"scope": {"swarm"}}, mount, false},
		{runner.Filters{"daemon": {"abcdef"}}, web, false},
		{runner.Filters{"plugin": {"abcdef"}}, web, false},
		{runner.Filters{"node": {"abcdef"}}, web, false},
		{runner.Filters{"service": {"abcdef"}}, web, false},
		{runner.Filters{"secret": {"abcdef"}}, web, false},
		{runner.Filters{"config": {"abcdef"}}, web, false},
	} {
		if got := eventMatches(tt.f, tt.m); got != tt.want {
			t.Errorf("%v of %s %s: %v", tt.f, tt.m.Type, tt.m.Action, got)
		}
	}
}

func TestEventsAreCounted(t *testing.T) {
	l := newEventLog()
	_, slow := l.listen(time.Time{})
	for range 3 * eventsKept {
		l.publish(events.Message{Type: events.ContainerEventType, Action: "exec_start: x"})
	}
	if len(l.kept) != eventsKept {
		t.Errorf("%d events are kept", len(l.kept))
	}
	if n := l.counted()[EventKind{events.ContainerEventType, "exec_start"}]; n != 3*eventsKept {
		t.Errorf("%d events were counted", n)
	}
	n := 0
	for range slow { // it was dropped: the channel has an end
		n++
	}
	if n != eventBacklog {
		t.Errorf("the one who did not listen has %d events", n)
	}
}
