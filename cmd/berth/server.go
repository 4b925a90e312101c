package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/gate"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/daemon"
	"github.com/berth-registry/berth/internal/edge"
	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/migrating"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/namespace"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/replicas"
)

// server is a registry with all that is around it: its callers, its listeners,
// what it records. It obeys signals.
type server struct {
	cfg       config.Config
	load      func() (config.Config, error)
	log       *slog.Logger
	level     *slog.LevelVar
	accessLog *telemetry.AccessLog
	meta      storage.Meta
	notes     storage.Notes
	local     *registry.Local
	auditLog  *audit.Log
	outbox    *audit.Outbox
	access    *access
	others    *others
	content   registry.Registry // what is stored here, behind what mirrors fetch
	health    *health
	fleets    *fleets
	edge      *edge.Edge
	readiness *readiness
	api       http.Handler // all that the main listener serves
	ops       http.Handler
	admin     http.Handler // for who is on this machine
	stopping  atomic.Bool
	gate      migrating.Gate // shut while the registry is moved elsewhere
	migrator  *migrator
}

// open prepares the parts of a server, each of which close can close.
func (d *server) open(ctx context.Context, metrics *telemetry.Metrics, blobs storage.Blobs, stdout io.Writer) (err error) {
	c := d.cfg
	members := replicas.New(d.meta, replicas.Options{Log: d.log})
	d.readiness = newReadiness(c.Storage, d.meta, blobs)
	if d.auditLog, err = audit.NewLog(audit.LogOptions{
		Instance: instance(d.meta, members), Output: c.Audit.Output, MaxSize: c.Audit.MaxSize, Keep: c.Audit.Keep, Stdout: stdout, Log: d.log,
	}); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	hooks, err := webhookOptions(c)
	if err != nil {
		return err
	}
	meta := metrics.Meta(d.meta)
	if d.outbox, err = audit.NewOutbox(meta, hooks, audit.OutboxOptions{Source: c.EventSource(), Log: d.log}); err != nil {
		return fmt.Errorf("webhooks: %w", err)
	}
	recorder := audit.Recorders(d.auditLog, metrics.Events())
	if d.others, err = newOthers(c, meta, d.log); err != nil {
		return err
	}
	d.local, err = registry.NewLocal(ctx, blobs, meta, registry.Options{
		UploadExpiry: c.Storage.UploadExpiry, Journal: d.others.replicator.Journal(audit.NewJournal(recorder, d.outbox)), Actor: actor, Log: d.log,
	})
	if err != nil {
		return err
	}
	d.fleets = newFleets(meta, d.local, d.log)
	d.health = newHealth(c, healthOptions{local: d.local, meta: meta, blobs: blobs, notes: d.notes, audit: recorder, log: d.log, heal: d.others.refetch})
	if d.edge, err = edge.New(ctx, edgeOptions(c, d.log)); err != nil {
		return err
	}
	if d.access, err = newAccess(ctx, c, accessOptions{
		meta: meta, members: members, base: edge.Base, audit: recorder, log: d.log,
		observe: func(ctx context.Context, r registry.Record) { d.observe(ctx, metrics, r) },
	}); err != nil {
		return err
	}
	d.access.runs = append(d.access.runs, d.readiness.run)
	metrics.Gauge("berth_replicas", "Servers that live and share the metadata, this one included.", func(context.Context) float64 { return float64(members.Live()) })
	if d.content, err = d.others.open(c, d.local, d.health.retainer.pulls, d.authority(), meta, d.log); err != nil {
		return err
	}
	if err := d.apply(c); err != nil {
		return err
	}
	d.handlers(metrics, recorder)
	return nil
}

// authority says who may do what; nil if anybody may do anything.
func (d *server) authority() auth.Authority {
	if !d.cfg.Restricted() {
		return nil
	}
	return d.access.policy
}

// handlers puts together what is served.
func (d *server) handlers(metrics *telemetry.Metrics, recorder audit.Recorder) {
	content := d.health.retainer.pulls.Wrap(audit.Pulls(d.content, d.outbox))
	authority := d.authority()
	if authority != nil {
		content = auth.Restrict(content, authority, func(ctx context.Context, denied auth.Denial) {
			recorder.Record(ctx, denialEvent(denied))
		})
	}
	api := registry.NewServer(content, registry.ServerOptions{
		BodyTimeout: d.cfg.HTTP.BodyTimeout, Log: d.log,
		Observe: func(ctx context.Context, r registry.Record) {
			d.observe(ctx, metrics, r)
			if e, ok := refusedEvent(r); ok {
				recorder.Record(ctx, e)
			}
		},
	})
	options := admin.Options{Accounts: d.access.accounts, Tokens: d.access.tokens, Authority: authority, Lasts: d.access.gate.Lasts, Audit: recorder, Log: d.log}
	d.health.administer(&options)
	d.health.measure(metrics)
	d.fleets.administer(&options, d.local)
	d.fleets.measure(metrics)
	d.others.administer(&options, d.health.evictor)
	d.migrator.local = d.local
	options.Migrator = d.migrator
	d.others.measure(metrics)
	administration := admin.New(options)
	d.admin = admin.Local(administration)
	d.ops = metrics.Handler(d.ready)
	metrics.Gauge("berth_audit_failures", "Lines of the audit log that could not be written.", func(context.Context) float64 { return float64(d.auditLog.Failures()) })
	metrics.Gauge("berth_webhook_events_pending", "Events in the outbox that webhooks have not taken yet.", func(ctx context.Context) (pending float64) {
		stats, err := d.outbox.Stats(ctx)
		for _, w := range stats.Webhooks {
			pending += float64(w.Pending)
		}
		if err != nil {
			return math.NaN()
		}
		return pending
	})
	health := http.NewServeMux()
	daemon.Health(health, d.ready)
	d.api = d.edge.Handler(withHealth(health, d.named(d.access.routes(d.cfg, d.gate.Handler(api), administration))))
}

// named has clients find what mirrors have by the upstream's names.
func (d *server) named(next http.Handler) http.Handler {
	o := namespace.Options{Mirrors: namespaces(d.cfg), Has: func(ctx context.Context, repo string) bool {
		has, err := d.local.HasRepository(ctx, repo)
		return has || err != nil // then it is not to be asked for elsewhere
	}}
	if u, err := url.Parse(d.cfg.HTTP.PublicURL); err == nil && u.Host != "" {
		o.Own = append(o.Own, u.Host)
	}
	o.Own = append(o.Own, d.cfg.HTTP.TLS.ACME.Domains...)
	return namespace.Handler(next, o)
}

// observe counts and logs a request.
func (d *server) observe(ctx context.Context, metrics *telemetry.Metrics, r registry.Record) {
	metrics.Observe(r)
	account := ""
	if actor := audit.FromContext(ctx); actor != nil {
		account = actor.Account
	}
	d.accessLog.Observe(r, account)
}

// ready says whether requests can be served.
func (d *server) ready(ctx context.Context) error {
	if d.stopping.Load() {
		return errors.New("stopping")
	}
	return d.readiness.check(ctx)
}

// close closes what open has opened.
func (d *server) close() (err error) {
	if d.edge != nil {
		err = d.edge.Close()
	}
	if d.others != nil {
		err = errors.Join(err, d.others.close())
	}
	if d.local != nil {
		d.local.Close()
	}
	if d.auditLog != nil {
		err = errors.Join(err, d.auditLog.Close())
	}
	return err
}

// apply makes hold what can change while the server runs: all of it, or nothing
// after an error.
func (d *server) apply(c config.Config) error {
	rules, err := newRules(c)
	if err != nil {
		return err
	}
	hooks, err := webhookOptions(c)
	if err != nil {
		return err
	}
	applyHealth, err := d.health.prepare(c)
	if err != nil {
		return err
	}
	applyOthers, err := d.others.prepare(c)
	if err != nil {
		return err
	}
	if err := applyOthers(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := d.outbox.SetHooks(hooks); err != nil {
		return fmt.Errorf("webhooks: %w", err)
	}
	d.level.Set(c.Log.Level)
	d.accessLog.SetEnabled(c.Log.Access)
	d.local.SetUploadExpiry(c.Storage.UploadExpiry)
	d.local.SetLimits(registry.Limits{Blob: c.Limits.Blob, Manifest: c.Limits.Manifest})
	d.local.SetImmutable(rules.isImmutable)
	applyHealth()
	d.access.policy.Set(rules.policy)
	d.access.gate.Set(gate.Live{Limits: gateLimits(c), Basic: c.Auth.Challenge == "basic"})
	return nil
}
