package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/gate"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/daemon"
	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/internal/edge"
	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
)

func newServeCmd() *cobra.Command {
	var file string
	flags := map[string]string{"addr": "http.addr", "data": "storage.data", "metrics-addr": "metrics.addr"}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the registry",
		Long: `Run the registry until it gets SIGTERM or SIGINT; it then finishes the requests
in flight. SIGHUP makes it read its configuration again.

Each key of the configuration ('berth config example' prints them all) can be
set in the file, by environment (http.addr is BERTH_HTTP_ADDR), and the common
ones by flag. A flag beats the environment, which beats the file.`,
		Example: "  berth serve\n  berth serve --addr :5000 --data /var/lib/berth\n  berth serve --config /etc/berth.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			load := func() (config.Config, error) {
				var settings []config.Setting
				for name, key := range flags {
					if f := cmd.Flags().Lookup(name); f.Changed {
						settings = append(settings, config.Setting{Key: key, Value: f.Value.String(), Source: "flag --" + name})
					}
				}
				return config.Load(file, os.Environ(), settings...)
			}
			return serve(cmd.Context(), load, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	d := config.Default()
	cmd.Flags().StringVar(&file, "config", "", "read the configuration from this YAML `FILE`")
	cmd.Flags().String("addr", d.HTTP.Addr, "listen on `HOST:PORT`")
	cmd.Flags().String("data", d.Storage.Data, "keep all data in this `DIR`ectory")
	cmd.Flags().String("metrics-addr", d.Metrics.Addr, "serve metrics, health and profiles on `HOST:PORT`; \"\" turns it off")
	return cmd
}

// serve wires the registry together and runs it until the process is told to
// stop.
func serve(ctx context.Context, load func() (config.Config, error), stdout, stderr io.Writer) (err error) {
	cfg, err := load()
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	out := telemetry.NewBuffer(stderr)
	defer func() { err = errors.Join(err, out.Flush()) }()
	d := &server{cfg: cfg, load: load, level: new(slog.LevelVar)}
	d.level.Set(cfg.Log.Level)
	log, isJSON := daemon.NewLog(cfg.Log.Format, d.level, out, stderr)
	d.log = log

	unlock, err := durable.Lock(cfg.Storage.Data)
	if errors.Is(err, durable.ErrLocked) {
		return fmt.Errorf("%w: another berth serves this directory; stop it, or choose another directory with --data", err)
	}
	if err != nil {
		return fmt.Errorf("cannot use the data directory: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	blobs, err := fs.Open(cfg.Storage.Data, log)
	if err != nil {
		return fmt.Errorf("cannot use the data directory: %w", err)
	}
	defer func() { err = errors.Join(err, blobs.Close()) }()
	d.meta, err = bolt.Open(filepath.Join(cfg.Storage.Data, metaFile))
	if err != nil {
		return fmt.Errorf("cannot open the metadata: %w", err)
	}
	defer func() { err = errors.Join(err, d.meta.Close()) }()

	metrics := telemetry.NewMetrics(version, func(ctx context.Context) (registry.Stats, error) { return d.local.Stats(ctx) })
	var jsonLog io.Writer // where lines of JSON may be written too
	if isJSON {
		jsonLog = out
	}
	d.accessLog = telemetry.NewAccessLog(log, jsonLog)
	if err := d.open(ctx, metrics, metrics.Blobs(blobs), stdout, stderr); err != nil {
		return errors.Join(err, d.close())
	}
	defer func() { err = errors.Join(err, d.close()) }()
	return d.run(ctx, signals)
}

// server is a registry with all that is around it: its callers, its listeners,
// what it records. It obeys signals.
type server struct {
	cfg       config.Config
	load      func() (config.Config, error)
	log       *slog.Logger
	level     *slog.LevelVar
	accessLog *telemetry.AccessLog
	meta      *bolt.Meta
	local     *registry.Local
	auditLog  *audit.Log
	outbox    *audit.Outbox
	access    *access
	edge      *edge.Edge
	api       http.Handler // all that the main listener serves
	ops       http.Handler
	admin     http.Handler // for who is on this machine
	stopping  atomic.Bool
}

// open prepares the parts of a server, each of which close can close.
func (d *server) open(ctx context.Context, metrics *telemetry.Metrics, blobs storage.Blobs, stdout, stderr io.Writer) (err error) {
	c := d.cfg
	if d.auditLog, err = audit.NewLog(audit.LogOptions{
		Output: c.Audit.Output, MaxSize: c.Audit.MaxSize, Keep: c.Audit.Keep, Stdout: stdout, Log: d.log,
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
	d.local, err = registry.NewLocal(ctx, blobs, meta, registry.Options{
		UploadExpiry: c.Storage.UploadExpiry, Journal: audit.NewJournal(recorder, d.outbox), Log: d.log,
	})
	if err != nil {
		return err
	}
	if d.edge, err = edge.New(ctx, edgeOptions(c, d.log)); err != nil {
		return err
	}
	if d.access, err = newAccess(ctx, c, accessOptions{meta: meta, base: edge.Base, audit: recorder, log: d.log}); err != nil {
		return err
	}
	if err := d.apply(c); err != nil {
		return err
	}
	d.handlers(metrics, recorder)
	return nil
}

// handlers puts together what is served.
func (d *server) handlers(metrics *telemetry.Metrics, recorder audit.Recorder) {
	var content registry.Registry = d.local
	authority := auth.Authority(nil)
	if d.cfg.Restricted() {
		authority = d.access.policy
		content = auth.Restrict(content, authority, func(ctx context.Context, denied auth.Denial) {
			recorder.Record(ctx, denialEvent(denied))
		})
	}
	api := registry.NewServer(audit.Pulls(content, d.outbox), registry.ServerOptions{
		BodyTimeout: d.cfg.HTTP.BodyTimeout, Log: d.log,
		Observe: func(ctx context.Context, r registry.Record) {
			metrics.Observe(r)
			if actor := audit.FromContext(ctx); actor != nil {
				d.accessLog.Observe(r, actor.Account)
				return
			}
			d.accessLog.Observe(r, "")
		},
	})
	administration := admin.New(admin.Options{Accounts: d.access.accounts, Tokens: d.access.tokens, Authority: authority, Audit: recorder, Log: d.log})
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
	d.api = d.edge.Handler(withHealth(health, d.access.routes(d.cfg, api, administration)))
}

// ready says whether requests can be served.
func (d *server) ready(ctx context.Context) error {
	if d.stopping.Load() {
		return errors.New("stopping")
	}
	return d.meta.View(ctx, func(storage.Tx) error { return nil })
}

// close closes what open has opened.
func (d *server) close() (err error) {
	if d.edge != nil {
		err = d.edge.Close()
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
	rules, err := policyRules(c)
	if err != nil {
		return err
	}
	policy, err := auth.NewPolicy(rules)
	if err != nil {
		return err
	}
	immutable, err := auth.NewTagPatterns(c.Immutable)
	if err != nil {
		return err
	}
	hooks, err := webhookOptions(c)
	if err != nil {
		return err
	}
	if err := d.outbox.SetHooks(hooks); err != nil {
		return fmt.Errorf("webhooks: %w", err)
	}
	d.level.Set(c.Log.Level)
	d.accessLog.SetEnabled(c.Log.Access)
	d.local.SetUploadExpiry(c.Storage.UploadExpiry)
	d.local.SetLimits(registry.Limits{Blob: c.Limits.Blob, Manifest: c.Limits.Manifest})
	d.local.SetImmutable(func(repo, tag string) bool {
		_, is := immutable.Match(repo, tag)
		return is
	})
	d.access.policy.Set(policy)
	d.access.gate.Set(gate.Live{Limits: gateLimits(c), Basic: c.Auth.Challenge == "basic"})
	return nil
}

// run serves until a signal says to stop, or a listener fails.
func (d *server) run(ctx context.Context, signals <-chan os.Signal) error {
	background, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, run := range append(d.access.runs, d.outbox.Run) {
		running.Go(func() { run(background) })
	}
	failed := make(chan error, 8)
	servers, err := d.listen(ctx, failed)
	if err != nil {
		return err
	}
	if !d.cfg.Restricted() && !isLoopback(d.cfg.HTTP.Addr) {
		d.log.WarnContext(ctx, "no policy: anyone who reaches the address may push, pull and delete", "addr", d.cfg.HTTP.Addr)
	}
	d.log.InfoContext(ctx, "ready", "version", version, "data", d.cfg.Storage.Data, "push", "docker push "+d.cfg.HTTP.Addr+"/NAME")
	for {
		select {
		case err := <-failed:
			return fmt.Errorf("serve: %w", err)
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				d.reload(ctx)
				continue
			}
			d.log.InfoContext(ctx, "stopping", "signal", sig.String(), "limit", d.cfg.HTTP.ShutdownTimeout.String())
			return d.stop(servers, signals)
		}
	}
}

// listen opens every listener and serves it.
func (d *server) listen(ctx context.Context, failed chan<- error) (servers []*http.Server, err error) {
	main := d.httpServer(d.cfg.HTTP.Addr, d.api)
	d.edge.Configure(main)
	listeners, err := d.edge.Listen(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w; choose another address with --addr", d.cfg.HTTP.Addr, err)
	}
	for _, l := range listeners {
		d.log.InfoContext(ctx, "listening", "addr", l.Addr().String(), "for", "registry", "tls", d.edge.TLS())
		go func() { failed <- d.edge.Serve(main, l) }()
	}
	servers = append(servers, main)
	serve := func(s *http.Server, what string, listeners ...net.Listener) {
		for _, l := range listeners {
			d.log.InfoContext(ctx, "listening", "addr", l.Addr().String(), "for", what)
			go func() { failed <- s.Serve(l) }()
		}
		servers = append(servers, s)
	}
	if redirect := d.edge.RedirectServer(); redirect != nil {
		serve(redirect, "redirect to https", d.edge.RedirectListeners()...)
	}
	if addr := d.cfg.Metrics.Addr; addr != "" {
		listeners, err := daemon.Listen(ctx, addr, d.cfg.HTTP.BodyTimeout)
		if err != nil {
			return servers, fmt.Errorf("cannot listen on %s: %w; choose another address with --metrics-addr", addr, err)
		}
		serve(d.httpServer(addr, d.ops), "metrics", listeners...)
	}
	socket, err := admin.ListenSocket(filepath.Join(d.cfg.Storage.Data, admin.SocketName))
	if err != nil {
		return servers, fmt.Errorf("cannot listen for administration: %w", err)
	}
	serve(d.httpServer("", d.admin), "administration", socket)
	return servers, nil
}

func (d *server) httpServer(addr string, h http.Handler) *http.Server {
	return &http.Server{
		Addr: addr, Handler: h,
		ReadHeaderTimeout: d.cfg.HTTP.HeaderTimeout,
		IdleTimeout:       d.cfg.HTTP.IdleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
}

// maxHeader is the greatest size of a request's header in bytes.
const maxHeader = 64 << 10

// withHealth serves /healthz and /readyz by health and all else by api, which
// gets the path as the client sent it.
func withHealth(health, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
			health.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// reload reads the configuration again, and the files that it names. If it is
// wrong, all stays as it is.
func (d *server) reload(ctx context.Context) {
	cfg, err := d.load()
	if err == nil && cfg.Restricted() != d.cfg.Restricted() {
		err = errors.New("a policy can be changed, but not taken away or given for the first time, without a restart")
	}
	if err == nil {
		err = d.apply(cfg)
	}
	if err != nil {
		d.log.ErrorContext(ctx, "configuration not reloaded: the old one stays in force", "error", err)
		return
	}
	changed, needRestart := config.Reloadable(d.cfg, cfg)
	d.log.InfoContext(ctx, "configuration reloaded", "changed", changed)
	if len(needRestart) > 0 {
		d.log.WarnContext(ctx, "changed keys that need a restart", "keys", needRestart)
	}
	for what, again := range map[string]func() error{
		"certificates": d.edge.Reload, "audit log": d.auditLog.Reopen, "htpasswd": d.access.reload,
	} {
		if err := again(); err != nil {
			d.log.ErrorContext(ctx, "not read again: the last good one stays in force", "what", what, "error", err)
		}
	}
}

// stop lets the requests in flight finish, for as long as the configuration
// says or until another signal.
func (d *server) stop(servers []*http.Server, signals <-chan os.Signal) error {
	d.stopping.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), d.cfg.HTTP.ShutdownTimeout)
	defer cancel()
	go func() {
		for sig := range signals {
			if sig != syscall.SIGHUP {
				cancel()
			}
		}
	}()
	for _, s := range servers {
		if err := s.Shutdown(ctx); err != nil {
			d.log.Warn("requests were cut off", "addr", s.Addr, "reason", err)
			_ = s.Close() // Shutdown has said what is wrong
		}
	}
	d.log.Info("stopped")
	return nil
}
