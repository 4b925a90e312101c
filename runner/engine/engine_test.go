package engine

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
)

func TestRetryAfter(t *testing.T) {
	start := time.Unix(1700000000, 0)
	policy := func(name container.RestartPolicyMode, limit int) container.RestartPolicy {
		return container.RestartPolicy{Name: name, MaximumRetryCount: limit}
	}
	for _, tt := range []struct {
		what   string
		policy container.RestartPolicy
		tries  int
		state  runner.State
		exit   shim.Exit
		delay  time.Duration
		again  bool
	}{
		{"no policy", policy("no", 0), 0, runner.State{}, shim.Exit{Code: 1}, 0, false},
		{"always", policy("always", 0), 0, runner.State{}, shim.Exit{}, firstRetry, true},
		{"always, asked to stop", policy("always", 0), 0, runner.State{StoppedByUser: true}, shim.Exit{}, 0, false},
		{"a third failure in a row", policy("always", 0), 2, runner.State{}, shim.Exit{Code: 1}, 4 * firstRetry, true},
		{"after very many", policy("always", 0), 1000, runner.State{}, shim.Exit{Code: 1}, lastRetry, true},
		{"after a steady run", policy("unless-stopped", 0), 9, runner.State{RestartCount: 9, StartedAt: start}, shim.Exit{At: start.Add(time.Minute)}, firstRetry, true},
		{"on-failure, none", policy("on-failure", 0), 0, runner.State{}, shim.Exit{}, 0, false},
		{"on-failure, one", policy("on-failure", 3), 0, runner.State{}, shim.Exit{Code: 1}, firstRetry, true},
		{"on-failure, the limit", policy("on-failure", 3), 0, runner.State{RestartCount: 3}, shim.Exit{Code: 1}, 0, false},
	} {
		if tt.state.StartedAt.IsZero() {
			tt.state.StartedAt, tt.exit.At = start, start
		}
		if delay, again := (&ctr{tries: tt.tries}).retryAfter(tt.policy, tt.state, tt.exit); delay != tt.delay || again != tt.again {
			t.Errorf("%s: %v, %v, want %v, %v", tt.what, delay, again, tt.delay, tt.again)
		}
	}
}

func TestStatusText(t *testing.T) {
	now := time.Unix(1700000000, 0)
	before := now.Add(-3 * time.Minute)
	for _, tt := range []struct {
		state runner.State
		want  string
	}{
		{runner.State{Status: container.StateCreated}, "Created"},
		{runner.State{Status: container.StateRunning, StartedAt: before}, "Up 3 minutes"},
		{runner.State{Status: container.StatePaused, StartedAt: before}, "Up 3 minutes (Paused)"},
		{runner.State{Status: container.StateExited, ExitCode: 7, FinishedAt: before}, "Exited (7) 3 minutes ago"},
		{runner.State{Status: container.StateRestarting, ExitCode: 1, FinishedAt: before}, "Restarting (1) 3 minutes ago"},
	} {
		if got := statusText(tt.state, now); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.state.Status, got, tt.want)
		}
	}
}

func event(action events.Action, id string) events.Message {
	return events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: id, Attributes: map[string]string{"name": "n-" + id, "image": "busybox:1"}}}
}

func TestEventsSinceAndUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Engine{events: newEventLog()}
		for i := range eventsKept + 10 { // the first are forgotten
			e.events.publish(event(events.ActionStart, strconv.Itoa(i)))
			time.Sleep(time.Millisecond)
		}
		since := time.Now()
		e.events.publish(event(events.ActionDie, "last"))
		time.AfterFunc(time.Second, func() { e.events.publish(event(events.ActionDestroy, "live")) })
		time.AfterFunc(time.Minute, func() { e.events.publish(event(events.ActionCreate, "late")) })
		var got []string
		for m := range e.Events(t.Context(), since, since.Add(2*time.Second), nil) {
			got = append(got, m.Actor.ID)
		}
		if len(got) != 2 || got[0] != "last" || got[1] != "live" {
			t.Errorf("got %v", got)
		}
		count := 0
		for range e.Events(t.Context(), time.Unix(1, 0), time.Now(), nil) {
			count++
		}
		if count != eventsKept {
			t.Errorf("%d events are remembered, want %d", count, eventsKept)
		}
		time.Sleep(time.Minute) // let the last timer fire
	})
}

func TestEventsSlowListener(t *testing.T) {
	l := newEventLog()
	_, ch := l.listen(time.Time{})
	for range eventBacklog + 1 {
		l.publish(event(events.ActionStart, "a")) // must not block
	}
	n := 0
	for range ch {
		n++
	}
	if n != eventBacklog || l.count() != 0 {
		t.Errorf("%d events before the stream ended, %d listeners left", n, l.count())
	}
}

func TestEventMatches(t *testing.T) {
	m := event(events.ActionExecCreate+": ls", "abcdef")
	for _, tt := range []struct {
		filters runner.Filters
		want    bool
	}{
		{nil, true},
		{runner.Filters{"container": {"n-abcdef"}}, true},
		{runner.Filters{"container": {"abc"}}, true},
		{runner.Filters{"container": {"other"}}, false},
		{runner.Filters{"event": {"exec_create"}}, true},
		{runner.Filters{"event": {"start"}}, false},
		{runner.Filters{"image": {"busybox"}}, true},
		{runner.Filters{"type": {"image"}}, false},
		{runner.Filters{"label": {"x"}}, false},
	} {
		if got := eventMatches(tt.filters, m); got != tt.want {
			t.Errorf("%v: %v", tt.filters, got)
		}
	}
}

func TestEventsEndWithTheClient(t *testing.T) {
	e := &Engine{events: newEventLog()}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range e.Events(ctx, time.Time{}, time.Time{}, nil) {
		t.Error("an event for nobody")
	}
	if e.events.count() != 0 {
		t.Error("the listener is still there")
	}
}

func TestParsePS(t *testing.T) {
	out := []byte("UID   PID  PPID CMD\nroot  1 0 /sbin/init\nroot  42 1 sleep 10 20\nroot  43 1 other\n")
	resp, err := parsePS(out, []int{42})
	if err != nil || len(resp.Processes) != 1 || resp.Processes[0][3] != "sleep 10 20" {
		t.Errorf("%+v, %v", resp, err)
	}
	if _, err := parsePS([]byte("UID CMD\nroot x\n"), []int{1}); err == nil {
		t.Error("a table without PID was read")
	}
}

func TestNamesAreFree(t *testing.T) {
	e := &Engine{names: map[string]string{}}
	if name, err := e.reserve("/web", "1"); name != "web" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	if _, err := e.reserve("web", "2"); err == nil {
		t.Error("a name was given twice")
	}
	if _, err := e.reserve("a b", "2"); err == nil {
		t.Error("a bad name was given")
	}
	for i := range 500 {
		if _, err := e.reserve("", newID()); err != nil {
			t.Fatalf("made-up name %d: %v", i, err)
		}
	}
}
