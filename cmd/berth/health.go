package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/gc"
	"github.com/berth-registry/berth/gc/caching"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/lease"
)

// health is what keeps the stored content healthy: garbage goes, what is damaged is
// found.
type health struct {
	local     *registry.Local
	collector *gc.Worker
	usage     *usageCounter
	scrub     *scrubber
	retainer  *retainer
	evictor   *caching.Evictor
	noter     *noter
	backuper  *backuper
	runs      []func(context.Context) // until the registry ends
}

// healthOptions are what the rest of a server, or of a command without a server,
// gives to its health.
type healthOptions struct {
	local *registry.Local
	meta  storage.Meta
	blobs storage.Blobs
	notes storage.Notes
	audit audit.Recorder
	log   *slog.Logger
	heal  func(ctx context.Context, d digest.Digest, repos []string) error // stores damaged bytes anew; or nil
}

// newHealth prepares everything; what prepare returns must be called before it is
// used.
func newHealth(c config.Config, o healthOptions) *health {
	h := &health{local: o.local}
	h.collector = gc.New(o.local, gc.Options{Interval: c.GC.Interval, Log: o.log})
	h.usage = newUsageCounter(o)
	h.scrub = newScrubber(c, o)
	h.runs = append(h.runs, h.scrub.Run, o.alone("first look", h.scrub.firstLook))
	h.retainer = newRetainer(o.local, o.meta, o.log)
	h.runs = append(h.runs, as(collectionName, h.collector.Run), o.alone("recount", h.usage.Run), as("berth retention", o.alone("retention", h.retainer.keeper.Run)), h.retainer.pulls.Run)
	h.evictor = newEvictor(c, o, h.retainer)
	h.runs = append(h.runs, as(collectionName, o.alone("eviction", h.evictor.Run)))
	h.noter, h.backuper = newNoter(o), &backuper{healthOptions: o, data: c.Storage.Data, hold: o.local.HoldCollection, busy: make(chan struct{}, 1)}
	h.runs = append(h.runs, o.alone("notes", h.noter.Run))
	return h
}

// shared says that other servers may have the same metadata.
func (o healthOptions) shared() bool {
	_, alone := o.meta.(storage.Versioner)
	return !alone
}

// alone has run act in one server at a time, of those that share the metadata.
func (o healthOptions) alone(job string, run func(context.Context)) func(context.Context) {
	return func(ctx context.Context) {
		host, _ := os.Hostname() // it is for people who look
		lease.Run(ctx, o.meta, job, lease.Options{Owner: host, Log: o.log}, run)
	}
}

// prepare reads what can change while the server runs. What it returns makes it
// hold, and cannot fail.
func (h *health) prepare(c config.Config) (apply func(), err error) {
	retain, err := h.retainer.prepare(c.Retention)
	if err != nil {
		return nil, err
	}
	return func() {
		retain()
		h.local.SetKeeping(keeping(c.GC))
		h.collector.SetInterval(c.GC.Interval)
		h.usage.set(c.Quota)
		h.scrub.set(c.Scrub)
	}, nil
}

// administer adds to the administration's options what health has.
func (h *health) administer(o *admin.Options) {
	o.Collector, o.Content, o.Usage = h.collector, h.local, h.local
	o.Scrub = h.scrub
	o.Retention = h.retainer
	o.Backups = h.backuper
}

// measure adds gauges.
func (h *health) measure(m *telemetry.Metrics) {
	collectorGauges(m, h.collector, h.local)
	usageGauges(m, h.local)
	scrubGauges(m, h.scrub)
	noteGauges(m, h.noter)
	cacheGauges(m, h.evictor)
}

// as has run act under a name, for audit and the history of tags. No account can have
// a name with a space.
func as(name string, run func(context.Context)) func(context.Context) {
	return func(ctx context.Context) { run(audit.NewContext(ctx, &audit.Actor{Account: name})) }
}

// actor names who acts in a context, for the history of tags.
func actor(ctx context.Context) string {
	if a := audit.FromContext(ctx); a != nil {
		return a.Account
	}
	return ""
}
