package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/daemon"
	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/internal/runnerconfig"
	"github.com/berth-registry/berth/internal/settings"
	"github.com/berth-registry/berth/runner/api"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/engine"
	"github.com/berth-registry/berth/runner/images/remote"
	"github.com/berth-registry/berth/runner/trust"
)

func newServeCmd() *cobra.Command {
	var file string
	flags := map[string]string{
		"socket": "socket.path", "data": "data", "run": "run", "runtime": "runtime", "metrics-addr": "metrics.addr",
	}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the agent",
		Long: `Run the agent until it gets SIGTERM or SIGINT. Containers go on running, and the
next start finds them again. SIGHUP makes it read its configuration again.

Each key of the configuration ('berth-runner config example' prints them all) can
be set in the file, by environment (socket.path is BERTH_RUNNER_SOCKET_PATH), and
the common ones by flag. A flag beats the environment, which beats the file.`,
		Example: "  berth-runner serve\n  berth-runner serve --socket /tmp/other.sock --data /var/lib/other --run /run/other\n" +
			"  berth-runner serve --config /etc/berth/runner.yaml",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			load := func() (runnerconfig.Config, error) {
				var set []settings.Setting
				for name, key := range flags {
					if f := cmd.Flags().Lookup(name); f.Changed {
						set = append(set, settings.Setting{Key: key, Value: f.Value.String(), Source: "flag --" + name})
					}
				}
				return runnerconfig.Load(file, os.Environ(), set...)
			}
			return serve(cmd.Context(), load, cmd.ErrOrStderr())
		},
	}
	d := runnerconfig.Default()
	cmd.Flags().StringVar(&file, "config", "", "read the configuration from this YAML `FILE`")
	cmd.Flags().String("socket", d.Socket.Path, "serve the Docker Engine API on this unix socket, a `PATH`")
	cmd.Flags().String("data", d.Data, "keep images, containers and volumes in this `DIR`ectory")
	cmd.Flags().String("run", d.Run, "keep what runs in this `DIR`ectory")
	cmd.Flags().String("runtime", d.Runtime, "run containers with this OCI runtime, a `NAME` or path")
	cmd.Flags().String("metrics-addr", d.Metrics.Addr, "serve metrics, health and profiles on `HOST:PORT`")
	return cmd
}

// serve wires the agent together and runs it until the process is told to stop.
func serve(ctx context.Context, load func() (runnerconfig.Config, error), stderr io.Writer) (err error) {
	cfg, err := load()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("containers need root: start it as root")
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	level := new(slog.LevelVar)
	level.Set(cfg.Log.Level)
	log, _ := daemon.NewLog(cfg.Log.Format, level, stderr, stderr)
	// Before anything is set up that a runner on this socket would not need.
	if err := unused(ctx, cfg.Socket.Path); err != nil {
		return err
	}
	unlock, err := durable.Lock(cfg.Run)
	if err != nil {
		return locked(err, "run", "--run")
	}
	defer func() { err = errors.Join(err, unlock()) }()
	e, err := engine.Open(ctx, engineOptions(cfg, log))
	if err != nil {
		return locked(err, "data", "--data")
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if err := useTemp(engineOptions(cfg, log).TempDir()); err != nil {
		return err
	}

	front, closeEdge, err := openEdge(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeEdge()) }()
	deployed, err := openStacks(ctx, cfg, e, front, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, deployed.Close()) }()
	following, err := newFollowers(ctx, cfg, e, deployed, log)
	if err != nil {
		return err
	}
	s := &server{cfg: cfg, load: load, level: level, log: log, failed: make(chan error, 8), reloaded: e.Reloaded, setTrust: e.SetTrust}
	m := newMetrics(e, edgeMetrics(front)...)
	s.metrics = daemon.Operations(m, s.ready)
	defer s.close()
	docker := api.New(e, api.Options{Log: log, Version: version, Observe: m.observe})
	if err := s.listen(ctx, withStacks(docker, deployed, following, log, m)); err != nil {
		return err
	}
	stopReports, err := startReports(ctx, cfg, e, log)
	if err != nil {
		return err
	}
	defer stopReports()
	defer following.start(ctx)()
	log.InfoContext(ctx, "ready", "version", version, "data", cfg.Data, "use", "export DOCKER_HOST=unix://"+cfg.Socket.Path)
	if err := s.run(ctx, signals); err != nil {
		return err
	}
	s.close()
	log.InfoContext(ctx, "stopped: containers go on running")
	return nil
}

// useTemp makes dir the directory of this process's temporary files, of which the
// next start finds what a killed one has left: BuildKit mounts there.
func useTemp(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Setenv("TMPDIR", dir)
}

// locked explains that another runner uses a directory.
func locked(err error, what, flag string) error {
	if errors.Is(err, durable.ErrLocked) {
		return fmt.Errorf("%w: another berth-runner uses this %s directory; stop it, or choose another directory with %s", err, what, flag)
	}
	return err
}

func engineOptions(cfg runnerconfig.Config, log *slog.Logger) engine.Options {
	registries := map[string]remote.Host{}
	for name, h := range cfg.Registries {
		registries[name] = remote.Host{
			Endpoint: h.Endpoint, Mirrors: h.Mirrors, CA: h.CA, Cert: h.Cert, Key: h.Key, SkipVerify: h.Insecure, PlainHTTP: h.PlainHTTP,
		}
	}
	runtimes := map[string]shim.Runtime{}
	for name, r := range cfg.Runtimes {
		runtimes[name] = shim.Runtime{Path: r.Path, Args: r.Args}
	}
	return engine.Options{
		Data: cfg.Data, Run: cfg.Run, Version: version, Log: log,
		Runtime: cfg.Runtime, Runtimes: runtimes, Conmon: cfg.Conmon, Init: cfg.Init,
		Trust: trustRules(cfg), Login: logins(cfg),
		UsernsRemap: cfg.UsernsRemap, CDISpecDirs: cfg.CDISpecDirs,
		DefaultRegistry: cfg.Registry.Default, Registries: registries, CertsDir: cfg.Registry.CertsDir,
		Bridge: cfg.Network.Bridge, Subnet: cfg.Network.Subnet, Subnet6: cfg.Network.Subnet6,
		LogDriver: cfg.Containers.LogDriver, LogOpts: cfg.Containers.LogOpts, LogMaxUnsent: cfg.Containers.LogMaxUnsent, BuildCacheSize: cfg.Build.CacheMaxSize,
		LogMaxSize: cfg.Containers.LogMaxSize, LogMaxFile: cfg.Containers.LogMaxFile, StopTimeout: cfg.Containers.StopTimeout,
	}
}

// server runs the listeners of a runner and obeys signals.
type server struct {
	cfg      runnerconfig.Config
	load     func() (runnerconfig.Config, error)
	level    *slog.LevelVar
	log      *slog.Logger
	metrics  http.Handler
	servers  []*http.Server
	failed   chan error
	reloaded func(changed []string) // is told of keys that have changed
	setTrust func([]trust.Rule) error
	stopping atomic.Bool
}

// ready says whether requests are served.
func (s *server) ready(context.Context) error {
	if s.stopping.Load() {
		return errors.New("stopping")
	}
	return nil
}

// listen starts to serve all that is configured.
func (s *server) listen(ctx context.Context, h http.Handler) error {
	l, err := listenUnix(ctx, s.cfg.Socket, s.log)
	if err != nil {
		return err
	}
	s.serve(ctx, "API", h, l)
	if s.cfg.TCP.Addr != "" {
		listeners, err := listenTLS(ctx, s.cfg.TCP)
		if err != nil {
			return err
		}
		s.serve(ctx, "API", h, listeners...)
	}
	if addr := s.cfg.Metrics.Addr; addr != "" {
		listeners, err := daemon.Listen(ctx, addr, patience)
		if err != nil {
			return fmt.Errorf("cannot listen on %s: %w; choose another address with --metrics-addr", addr, err)
		}
		s.serve(ctx, "metrics", s.metrics, listeners...)
	}
	return nil
}

// patience is how long a client over TCP may take nothing of what it is sent.
const patience = time.Minute

// serve serves a handler on listeners of one address.
func (s *server) serve(ctx context.Context, what string, h http.Handler, listeners ...net.Listener) {
	hs := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)} //nolint:gosec // Configure sets the times
	api.Configure(hs)
	s.servers = append(s.servers, hs)
	for _, l := range listeners {
		s.log.InfoContext(ctx, "listening", "addr", l.Addr().String(), "for", what)
		go func() { s.failed <- hs.Serve(l) }()
	}
}

// run obeys signals until one says to stop, or a listener fails.
func (s *server) run(ctx context.Context, signals <-chan os.Signal) error {
	for {
		select {
		case err := <-s.failed:
			return fmt.Errorf("serve: %w", err)
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				s.log.InfoContext(ctx, "stopping", "signal", sig.String())
				return nil
			}
			s.reload(ctx)
		}
	}
}

// reload reads the configuration again. If it is wrong, all stays as it is.
func (s *server) reload(ctx context.Context) {
	cfg, err := s.load()
	if err != nil {
		s.log.ErrorContext(ctx, "configuration not reloaded: the old one stays in force", "error", err)
		return
	}
	// The files that the rules name are read again, too.
	if err := s.setTrust(trustRules(cfg)); err != nil {
		s.log.ErrorContext(ctx, "configuration not reloaded: the old one stays in force", "error", err)
		return
	}
	changed, needRestart := runnerconfig.Reloadable(s.cfg, cfg)
	s.level.Set(cfg.Log.Level)
	s.cfg.Log.Level, s.cfg.Trust = cfg.Log.Level, cfg.Trust
	s.log.InfoContext(ctx, "configuration reloaded", "changed", changed)
	s.reloaded(changed)
	if len(needRestart) > 0 {
		s.log.WarnContext(ctx, "changed keys that need a restart", "keys", needRestart)
	}
}

// drain is how long requests may go on when the runner stops. It is short: those
// that last are streams, whose clients come again.
const drain = 2 * time.Second

// close stops serving, once.
func (s *server) close() {
	if s.stopping.Swap(true) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	for _, hs := range s.servers {
		if err := hs.Shutdown(ctx); err != nil {
			_ = hs.Close() // Shutdown has said what is wrong: there are streams
		}
	}
}
