// Package logs reads, follows and bounds the logs of containers.
package logs

import (
	"context"
	"errors"
	"log/slog"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

var errNotYet = errors.New("not yet")

// Options say where a container's log goes and how much of it is kept.
type Options struct {
	Driver  string // "json-file", "local" or "none"
	MaxSize int64  // bytes of one file; negative is unlimited
	MaxFile int    // files
	// Labels, Env and others are the names that --log-opt gives to "labels",
	// "labels-regex", "env" and "env-regex".
	Labels, Env           []string
	LabelsRegex, EnvRegex string
}

// ParseOptions makes Options of a container's configuration.
func ParseOptions(cfg container.LogConfig, def Options) (Options, error) { return def, errNotYet }

// MonitorLimit is the --log-size-max of conmon in bytes; negative: none.
func (o Options) MonitorLimit() int64 { return -1 }

// Attributes are what `docker logs --details` shows of a container.
func (o Options) Attributes(labels map[string]string, env []string) map[string]string { return nil }

// Keeper bounds logs while the daemon runs.
type Keeper struct{}

// NewKeeper returns a Keeper of no logs.
func NewKeeper(log *slog.Logger) *Keeper { return &Keeper{} }

// Watch keeps the log in dir.
func (k *Keeper) Watch(id, dir string, o Options, reopen func(ctx context.Context) error) {}

// Unwatch ends keeping a log whose monitor has ended, and trims it once more.
func (k *Keeper) Unwatch(id string) {}

// Close stops keeping logs; their monitors go on.
func (k *Keeper) Close() {}

// Copy writes a log to the streams.
func Copy(ctx context.Context, dir string, o runner.LogOptions, attrs map[string]string, ended <-chan struct{}, tty bool, s runner.Streams) error {
	return errNotYet
}

// Remove removes a log.
func Remove(dir string) error { return errNotYet }
