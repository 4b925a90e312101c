package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/daemon"
	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry"
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
	if err := usableStores(ctx, cfg.Storage); err != nil {
		return err
	}
	data, err := openUsable(ctx, cfg.Storage, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.close()) }()
	if err := migrated(ctx, cfg.Storage, data.meta); err != nil {
		return err
	}
	d.notes, d.meta = data.notes, d.gate.Meta(data.meta)
	d.migrator = &migrator{storage: cfg.Storage, data: data, gate: &d.gate, log: log}

	metrics := telemetry.NewMetrics(version, func(ctx context.Context) (registry.Stats, error) { return d.local.Stats(ctx) })
	var jsonLog io.Writer // where lines of JSON may be written too
	if isJSON {
		jsonLog = out
	}
	d.accessLog = telemetry.NewAccessLog(log, jsonLog)
	if err := d.open(ctx, metrics, metrics.Blobs(data.blobs), stdout); err != nil {
		return errors.Join(err, d.close())
	}
	defer func() { err = errors.Join(err, d.close()) }()
	return d.run(ctx, signals)
}
