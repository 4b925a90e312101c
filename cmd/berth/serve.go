package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/daemon"
	"github.com/berth-registry/berth/internal/durable"
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
			return serve(cmd.Context(), load, cmd.ErrOrStderr())
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
func serve(ctx context.Context, load func() (config.Config, error), stderr io.Writer) (err error) {
	cfg, err := load()
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	out := telemetry.NewBuffer(stderr)
	defer func() { err = errors.Join(err, out.Flush()) }()
	level := new(slog.LevelVar)
	level.Set(cfg.Log.Level)
	log, isJSON := daemon.NewLog(cfg.Log.Format, level, out, stderr)

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
	meta, err := bolt.Open(filepath.Join(cfg.Storage.Data, "meta.db"))
	if err != nil {
		return fmt.Errorf("cannot open the metadata: %w", err)
	}
	defer func() { err = errors.Join(err, meta.Close()) }()

	var local *registry.Local
	metrics := telemetry.NewMetrics(version, func(ctx context.Context) (registry.Stats, error) { return local.Stats(ctx) })
	local, err = registry.NewLocal(ctx, metrics.Blobs(blobs), metrics.Meta(meta), registry.Options{UploadExpiry: cfg.Storage.UploadExpiry, Log: log})
	if err != nil {
		return err
	}
	defer local.Close()

	var jsonLog io.Writer // where lines of JSON may be written too
	if isJSON {
		jsonLog = out
	}
	access := telemetry.NewAccessLog(log, jsonLog)
	d := &server{cfg: cfg, load: load, log: log, apply: func(c config.Config) {
		level.Set(c.Log.Level)
		access.SetEnabled(c.Log.Access)
		local.SetUploadExpiry(c.Storage.UploadExpiry)
	}}
	d.apply(cfg)
	d.ready = func(ctx context.Context) error {
		if d.stopping.Load() {
			return errors.New("stopping")
		}
		return meta.View(ctx, func(storage.Tx) error { return nil })
	}
	api := registry.NewServer(local, registry.ServerOptions{
		BodyTimeout: cfg.HTTP.BodyTimeout, Log: log,
		Observe: func(_ context.Context, r registry.Record) { metrics.Observe(r); access.Observe(r, "") },
	})
	return d.run(ctx, api, metrics.Handler(d.ready), signals)
}

// server runs the listeners of a registry and obeys signals.
type server struct {
	cfg      config.Config
	load     func() (config.Config, error)
	apply    func(config.Config) // what can change while it runs
	ready    func(context.Context) error
	log      *slog.Logger
	stopping atomic.Bool
}

// run serves until a signal says to stop, or a listener fails.
func (d *server) run(ctx context.Context, api, ops http.Handler, signals <-chan os.Signal) error {
	health := http.NewServeMux()
	daemon.Health(health, d.ready)
	servers := []*http.Server{d.httpServer(d.cfg.HTTP.Addr, withHealth(health, api))}
	if d.cfg.Metrics.Addr != "" {
		servers = append(servers, d.httpServer(d.cfg.Metrics.Addr, ops))
	}
	failed := make(chan error, 8)
	for i, s := range servers {
		listeners, err := daemon.Listen(ctx, s.Addr, d.cfg.HTTP.BodyTimeout)
		if err != nil {
			flag := []string{"--addr", "--metrics-addr"}[i]
			return fmt.Errorf("cannot listen on %s: %w; choose another address with %s", s.Addr, err, flag)
		}
		for _, l := range listeners {
			d.log.InfoContext(ctx, "listening", "addr", l.Addr().String(), "for", []string{"registry", "metrics"}[i])
			go func() { failed <- s.Serve(l) }()
		}
	}
	d.log.InfoContext(ctx, "ready", "version", version, "data", d.cfg.Storage.Data, "push", "docker push "+d.cfg.HTTP.Addr+"/NAME")
	for {
		select {
		case err := <-failed:
			return fmt.Errorf("serve: %w", err)
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				d.reload()
				continue
			}
			d.log.InfoContext(ctx, "stopping", "signal", sig.String(), "limit", d.cfg.HTTP.ShutdownTimeout.String())
			return d.stop(servers, signals)
		}
	}
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

// reload reads the configuration again. If it is wrong, all stays as it is.
func (d *server) reload() {
	cfg, err := d.load()
	if err != nil {
		d.log.Error("configuration not reloaded: the old one stays in force", "error", err)
		return
	}
	changed, needRestart := config.Reloadable(d.cfg, cfg)
	d.apply(cfg)
	d.log.Info("configuration reloaded", "changed", changed)
	if len(needRestart) > 0 {
		d.log.Warn("changed keys that need a restart", "keys", needRestart)
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
