// Package report tells registries which of their images this node runs, so that they
// do not remove them: neither a tag that moves on or is deleted nor a rule of
// retention then takes away what could not be started again elsewhere.
//
// What is told of are the images of containers that run, are paused, or are about to
// be started again by their restart policy: by the manifest that the container was
// made of and by all digests that the image has been pulled or pushed by, in the
// registry that the name says. A container that was created or has stopped does not
// count: what it needs to start is on this node.
//
// It promises that a registry hears of what runs when the runner starts, within
// seconds after that changes, and from time to time; each report holds for three times
// as long, and nothing takes it back when the runner ends: it covers a restart. A
// registry that is slow, down or unwilling is tried again with growing pauses, and
// disturbs neither the others nor the engine. Why it fails is logged when that
// changes, with what to do.
//
// It does not report to mirrors, keep anything on disk, or find out who the node is:
// two nodes of one name replace each other's reports.
package report

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/runner"
)

const (
	// lasts is how many intervals a report holds for.
	lasts = 3
	// settle is how long changes are gathered before they are reported.
	settle = 3 * time.Second
	// firstPause is how long after a failure a registry is left alone: longer with each
	// in a row, up to the interval.
	firstPause = 5 * time.Second
	// patience is how long a report may take.
	patience = time.Minute
)

// Engine is what runs the images, and reaches registries.
type Engine interface {
	// ImagesInUse lists the images that containers run, sorted.
	ImagesInUse(ctx context.Context) []reference.Canonical
	// Events are those from now on; they end if the reader is too slow.
	Events(ctx context.Context, since, until time.Time, filters runner.Filters) iter.Seq[events.Message]
	// ReportUse returns what the registry does not know. Errors are of the kinds of
	// package runner.
	ReportUse(ctx context.Context, host string, login *registry.AuthConfig, r runner.UseReport) (unknown []reference.Canonical, err error)
}

// Registry is where to report to.
type Registry struct {
	Host string // host[:port], as in the names of its images
	// Username and PasswordFile are of an account that may pull these. They are empty
	// where a certificate says who the node is, or the registry asks nobody.
	Username, PasswordFile string
}

// Options of a Reporter.
type Options struct {
	Node       string        // name of this node
	Interval   time.Duration // between reports: from a second to 56 hours
	Registries []Registry
	Log        *slog.Logger
}

// Reporter reports to registries.
type Reporter struct {
	engine  Engine
	o       Options
	settle  time.Duration
	targets []*target
}

// New returns a Reporter, which does nothing until it is run.
func New(e Engine, o Options) *Reporter {
	r := &Reporter{engine: e, o: o, settle: settle}
	for _, reg := range o.Registries {
		r.targets = append(r.targets, &target{Reporter: r, registry: reg, changed: make(chan struct{}, 1)})
	}
	return r
}

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, t := range r.targets {
		all.Go(func() { t.run(ctx) })
	}
	for ctx.Err() == nil {
		r.listen(ctx)
		r.poke() // what happened since then is not known
		pause(ctx, r.settle)
	}
}

// listen tells all targets of changes, until the events end.
func (r *Reporter) listen(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := runner.Filters{
		"type": {string(events.ContainerEventType), string(events.ImageEventType)},
		"event": {
			string(events.ActionStart), string(events.ActionDie), string(events.ActionDestroy),
			string(events.ActionPull), string(events.ActionTag), string(events.ActionUnTag), string(events.ActionDelete),
		},
	}
	for range r.engine.Events(ctx, time.Time{}, time.Time{}, changes) {
		r.poke()
	}
}

func (r *Reporter) poke() {
	for _, t := range r.targets {
		select {
		case t.changed <- struct{}{}:
		default: // it has yet to look
		}
	}
}

// pause waits, and says whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
