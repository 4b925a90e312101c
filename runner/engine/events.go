package engine

import (
	"context"
	"iter"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
)

const (
	eventsKept   = 1024    // events that --since can still find
	eventsSize   = 8 << 20 // bytes that they may have together
	eventBacklog = 1024    // events that a slow reader may be behind before it is dropped
)

// eventLog passes events on to everybody who listens, and remembers the last.
// Publishing never blocks: a listener that is too far behind loses its stream.
type eventLog struct {
	mu        sync.Mutex
	kept      []events.Message // the oldest first
	size      int              // bytes of those
	listeners map[chan events.Message]struct{}
	closed    bool
}

func newEventLog() *eventLog {
	return &eventLog{listeners: map[chan events.Message]struct{}{}}
}

func (l *eventLog) publish(m events.Message) {
	now := time.Now()
	m.Scope = "local"
	m.Time, m.TimeNano = now.Unix(), now.UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, m)
	l.size += eventSize(m)
	for len(l.kept) > eventsKept || l.size > eventsSize {
		l.size -= eventSize(l.kept[0])
		l.kept[0] = events.Message{} // append moves the rest to a new array only now and then
		l.kept = l.kept[1:]
	}
	for ch := range l.listeners {
		select {
		case ch <- m:
		default:
			delete(l.listeners, ch)
			close(ch)
		}
	}
}

// eventSize is about what an event takes in memory.
func eventSize(m events.Message) int {
	n := 256 + len(m.Action)
	for key, value := range m.Actor.Attributes {
		n += len(key) + len(value) + 48
	}
	return n
}

// listen returns the events since a time, and a channel of those to come. The
// channel is closed when the log is, or when the listener is too slow.
func (l *eventLog) listen(since time.Time) (past []events.Message, ch chan events.Message) {
	ch = make(chan events.Message, eventBacklog)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !since.IsZero() {
		for _, m := range l.kept {
			if m.TimeNano >= since.UnixNano() {
				past = append(past, m)
			}
		}
	}
	if l.closed {
		close(ch)
	} else {
		l.listeners[ch] = struct{}{}
	}
	return past, ch
}

func (l *eventLog) unlisten(ch chan events.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.listeners, ch)
}

func (l *eventLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.listeners)
}

func (l *eventLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for ch := range l.listeners {
		delete(l.listeners, ch)
		close(ch)
	}
}

// Events implements runner/api's System.
func (e *Engine) Events(ctx context.Context, since, until time.Time, filters runner.Filters) iter.Seq[events.Message] {
	// It listens from now on, not only when the first event is asked for.
	past, ch := e.events.listen(since)
	context.AfterFunc(ctx, func() { e.events.unlisten(ch) })
	return func(yield func(events.Message) bool) {
		defer e.events.unlisten(ch)
		for _, m := range past {
			if !until.IsZero() && m.TimeNano > until.UnixNano() {
				return
			}
			if eventMatches(filters, m) && !yield(m) {
				return
			}
		}
		var expired <-chan time.Time
		if !until.IsZero() {
			timer := time.NewTimer(time.Until(until))
			defer timer.Stop()
			expired = timer.C
		}
		for {
			select {
			case m, ok := <-ch:
				if !ok || eventMatches(filters, m) && !yield(m) {
					return
				}
			case <-expired:
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// eventMatches says whether an event is one that the filters of `docker events`
// let through.
func eventMatches(f runner.Filters, m events.Message) bool {
	name := m.Actor.Attributes["name"]
	named := func(t events.Type, keys ...string) func(string) bool {
		return func(want string) bool {
			if m.Type != t || want == "" {
				return false
			}
			for _, key := range keys {
				if m.Actor.Attributes[key] == want {
					return true
				}
			}
			return strings.HasPrefix(m.Actor.ID, want)
		}
	}
	action := func(want string) bool {
		whole := string(m.Action)
		short, _, _ := strings.Cut(whole, ":")
		return want == whole || want == short
	}
	image := func(want string) bool {
		ref := m.Actor.Attributes["image"]
		if m.Type == events.ImageEventType {
			ref = name
		}
		repo := ref
		if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
			repo = ref[:i]
		}
		return want == ref || want == repo || m.Type == events.ImageEventType && strings.HasPrefix(m.Actor.ID, want)
	}
	return f.Match("type", string(m.Type)) &&
		f.Match("scope", m.Scope) &&
		f.MatchFunc("event", action) &&
		f.MatchFunc("container", named(events.ContainerEventType, "name")) &&
		f.MatchFunc("network", named(events.NetworkEventType, "name")) &&
		f.MatchFunc("volume", named(events.VolumeEventType)) &&
		f.MatchFunc("daemon", named(events.DaemonEventType, "name")) &&
		f.MatchFunc("image", image) &&
		f.MatchLabels("label", m.Actor.Attributes)
}

// containerEvent tells of a container, with further attributes as key and value
// in turn.
func (e *Engine) containerEvent(c *ctr, action events.Action, extra ...string) {
	rec, _ := c.snapshot()
	attrs := map[string]string{}
	maps.Copy(attrs, rec.Config.Labels)
	attrs["image"] = rec.Config.Image
	attrs["name"] = rec.Name
	for i := 0; i+1 < len(extra); i += 2 {
		attrs[extra[i]] = extra[i+1]
	}
	e.events.publish(events.Message{
		Type: events.ContainerEventType, Action: action,
		Actor: events.Actor{ID: rec.ID, Attributes: attrs},
	})
}

func (e *Engine) imageEvent(action events.Action, ref string, attrs map[string]string) {
	if attrs == nil {
		attrs = map[string]string{"name": ref}
	}
	e.events.publish(events.Message{
		Type: events.ImageEventType, Action: action,
		Actor: events.Actor{ID: ref, Attributes: attrs},
	})
}
