package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/berth-registry/berth/deploy"
)

// follow prints what containers write, those that start later included, until ctx
// ends.
func (l *logReader) follow(ctx context.Context, s deploy.Status) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &following{logReader: l, seen: map[string]*followed{}, failed: make(chan error, 1)}
	defer f.running.Wait()
	defer cancel() // before they are waited for
	// What starts from here on is told, so that none is missed.
	started := l.client.docker.Events(ctx, client.EventsListOptions{
		Filters: make(client.Filters).Add("type", "container").Add("event", "start").Add("label", stackLabel+"="+l.stack),
	})
	sources, err := l.containers(ctx, s)
	if err != nil {
		return err
	}
	for _, s := range sources {
		f.begin(ctx, s, l.o.since, l.o.tail)
	}
	for {
		select {
		case e := <-started.Messages:
			f.started(ctx, e)
		case err := <-started.Err:
			return fmt.Errorf("the runner went away: %w", err)
		case err := <-f.failed:
			return err
		}
	}
}

// following are the logs that are followed.
type following struct {
	*logReader

	running sync.WaitGroup
	failed  chan error // the first failure

	mu   sync.Mutex
	seen map[string]*followed // by the containers' IDs
}

// followed is how far the log of a container was followed.
type followed struct {
	active      bool
	since, tail string // where to go on
}

// started follows a container that has started, if nobody does.
func (f *following) started(ctx context.Context, e events.Message) {
	if !f.wants(e.Actor.Attributes[serviceLabel]) {
		return
	}
	s, err := f.source(ctx, e.Actor.ID)
	if err == nil { // else it is gone again, and with it its log
		f.begin(ctx, s, "", "all")
	}
}

// begin follows a container until it has ended or ctx has: from where it was followed
// before, or from since and tail on.
func (f *following) begin(ctx context.Context, s source, since, tail string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.seen[s.id]
	if !ok {
		l = &followed{since: since, tail: tail}
		f.seen[s.id] = l
	}
	if l.active {
		return
	}
	l.active = true
	f.running.Go(func() {
		if err := f.one(ctx, s, l); err != nil {
			select {
			case f.failed <- err:
			default:
			}
		}
	})
}

// one follows a container as long as it runs. Only what cannot be printed is an error.
func (f *following) one(ctx context.Context, s source, l *followed) error {
	for again := true; again; again = f.goesOn(ctx, s.id, l) {
		var last logLine
		for line, err := range f.lines(ctx, s, l.since, l.tail, true) {
			if err != nil {
				if ctx.Err() == nil {
					f.warn(s, err)
				}
				break
			}
			last = line
			if err := f.out.print(line); err != nil {
				return err
			}
		}
		if t := when(last); !t.IsZero() {
			t = t.Add(time.Nanosecond)
			l.since, l.tail = fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()), "all"
		}
	}
	return nil
}

// goesOn says whether a container whose log has ended runs again. If not, it is told
// when it starts: under the lock, so that one of the two sees it.
func (f *following) goesOn(ctx context.Context, id string, l *followed) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	res, err := f.client.docker.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	l.active = err == nil && res.Container.State != nil && res.Container.State.Running && ctx.Err() == nil
	return l.active
}

// logWriter prints lines of several containers, each behind its name.
type logWriter struct {
	timestamps bool
	colour     bool

	mu      sync.Mutex
	w       io.Writer
	width   int               // of the longest name
	colours map[string]string // by name
}

func newLogWriter(w io.Writer, timestamps bool) *logWriter {
	return &logWriter{w: w, timestamps: timestamps, colour: coloured(w), colours: map[string]string{}}
}

func (o *logWriter) print(l logLine) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.width = max(o.width, len(l.from))
	prefix := fmt.Sprintf("%-*s | ", o.width, l.from)
	if o.colour {
		c, ok := o.colours[l.from]
		if !ok {
			c = "\x1b[3" + strconv.Itoa(1+len(o.colours)%6) + "m" // red to cyan
			o.colours[l.from] = c
		}
		prefix = colour(true, c, prefix)
	}
	if o.timestamps {
		prefix += l.at + " "
	}
	_, err := fmt.Fprintf(o.w, "%s%s\n", prefix, l.text)
	return err
}
