package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/berth-registry/berth/deploy"
)

// display shows how a deployment goes.
type display interface {
	event(deploy.Event)
	end(ok bool)
}

// jsonDisplay prints each event as JSON.
type jsonDisplay struct{ enc *json.Encoder }

func (d jsonDisplay) event(e deploy.Event) {
	_ = d.enc.Encode(map[string]any{"event": e}) // the last line says what fails
}

func (d jsonDisplay) end(bool) {}

// lineDisplay prints a line for each event.
type lineDisplay struct {
	w       io.Writer
	start   time.Time
	details map[string]time.Time // when the last one of a service was shown
}

// detailPause is for how long details of a service are left out behind one.
const detailPause = time.Second

func newLineDisplay(w io.Writer) *lineDisplay {
	return &lineDisplay{w: w, start: time.Now(), details: map[string]time.Time{}}
}

func (d *lineDisplay) event(e deploy.Event) {
	now := time.Now()
	switch e.Kind {
	case deploy.EventLog, deploy.EventFailure:
		return // the end says it, with what it means
	case deploy.EventDetail:
		if now.Sub(d.details[e.Service]) < detailPause {
			return
		}
		d.details[e.Service] = now
	default:
	}
	fmt.Fprintf(d.w, "%6.1fs  %s\n", now.Sub(d.start).Seconds(), eventText(e))
}

func (d *lineDisplay) end(bool) {}

// eventText is an event as a line.
func eventText(e deploy.Event) string {
	text := printable(e.Message)
	switch {
	case e.Container != "" && strings.Contains(e.Message, e.Container): // it says so itself
	case e.Container != "":
		text = printable(e.Container) + ": " + text
	case e.Service != "":
		text = printable(e.Service) + ": " + text
	}
	if e.Kind == deploy.EventWarning {
		text = "warning: " + text
	}
	return text
}

// liveDisplay has a line on the terminal for each service, that says what happens to
// it. Events come one after the other; the lines are drawn beside them.
type liveDisplay struct {
	p    *mpb.Progress
	rows map[string]*liveRow

	mu    sync.Mutex // of what follows, and the rows' fields
	width int        // of the longest name
}

// liveRow is the line of a service.
type liveRow struct {
	bar *mpb.Bar

	name, text  string
	first, last time.Time // of its events
	mark        string    // how it has ended; empty: it has not
}

func newLiveDisplay(w io.Writer, services []string) *liveDisplay {
	d := &liveDisplay{p: mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh()), rows: map[string]*liveRow{}}
	for _, name := range services {
		d.row(name, "")
	}
	return d
}

// row returns the line of a service; that of none is the stack's own.
func (d *liveDisplay) row(name, stack string) *liveRow {
	if r, ok := d.rows[name]; ok {
		return r
	}
	r := &liveRow{name: cmp.Or(name, stack)}
	d.rows[name] = r
	d.mu.Lock()
	d.width = max(d.width, len(r.name))
	d.mu.Unlock()
	// Not under the lock, which drawing takes.
	r.bar = d.p.New(0, mpb.NopStyle(), mpb.BarFillerTrim(), mpb.PrependDecorators(decor.Any(func(s decor.Statistics) string {
		d.mu.Lock()
		defer d.mu.Unlock()
		return r.line(d.width, s.AvailableWidth, time.Now())
	})))
	return r
}

// line is the row, in a width that it must not exceed.
func (r *liveRow) line(name, width int, now time.Time) string {
	mark := "…"
	if r.mark != "" {
		mark, now = r.mark, r.last
	}
	took := "       "
	if !r.first.IsZero() {
		took = fmt.Sprintf("%6.1fs", now.Sub(r.first).Seconds())
	}
	text := []rune(fmt.Sprintf("%s %-*s  %s  %s", mark, name, r.name, took, r.text))
	if len(text) >= width {
		text = append(text[:max(0, width-2)], '…')
	}
	return string(text)
}

func (d *liveDisplay) event(e deploy.Event) {
	if e.Kind == deploy.EventWarning {
		_, _ = fmt.Fprintln(d.p, eventText(e)) // a terminal that is gone shows nothing
		return
	}
	r := d.row(e.Service, e.Stack)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch e.Kind {
	case deploy.EventLog: // the end says it
	case deploy.EventFailure:
		r.mark = "✗"
	default:
		e.Service = ""
		r.text, r.last = eventText(e), time.Now()
		if r.first.IsZero() {
			r.first = r.last
		}
	}
}

// end leaves the lines as they are.
func (d *liveDisplay) end(ok bool) {
	d.mu.Lock()
	for _, r := range d.rows {
		switch {
		case r.mark != "":
		case ok:
			r.mark = "✓"
		default:
			r.mark = "-"
		}
	}
	d.mu.Unlock()
	for _, r := range d.rows {
		r.bar.SetTotal(-1, true)
	}
	d.p.Wait()
}
