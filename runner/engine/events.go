package engine

import (
	"context"
	"iter"
	"maps"
	"os"
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
	counts    map[EventKind]uint64 // of all that there were
	closed    bool
}

// EventKind is what events are counted by: an action without what may follow it
// after a colon.
type EventKind struct {
	Type   events.Type
	Action string
}

func newEventLog() *eventLog {
	return &eventLog{listeners: map[chan events.Message]struct{}{}, counts: map[EventKind]uint64{}}
}

func (l *eventLog) publish(m events.Message) {
	now := time.Now()
	m.Scope = "local"
	m.Time, m.TimeNano = now.Unix(), now.UnixNano()
	action, _, _ := strings.Cut(string(m.Action), ":")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[EventKind{m.Type, action}]++
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

func (l *eventLog) counted() map[EventKind]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.counts)
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

// containerEvent tells of a container, with further attributes as key and value
// in turn.
func (e *Engine) containerEvent(c *ctr, action events.Action, extra ...string) {
	if action == events.ActionOOM {
		c.countOOM()
	}
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

// Reloaded tells that the configuration was read again, and which of its keys
// have changed.
func (e *Engine) Reloaded(changed []string) {
	attrs := map[string]string{"changed": strings.Join(changed, " ")}
	if name, err := os.Hostname(); err == nil {
		attrs["name"] = name
	}
	e.events.publish(events.Message{
		Type: events.DaemonEventType, Action: events.ActionReload,
		Actor: events.Actor{ID: e.instance, Attributes: attrs},
	})
}
