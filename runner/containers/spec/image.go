package spec

import (
	"maps"
	"slices"
	"strings"
	"syscall"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/signal"

	"github.com/berth-registry/berth/runner"
)

// MergeImage returns a container's configuration with what its image adds to
// it, and the command that they make together. cfg is not changed.
func MergeImage(cfg *container.Config, img dockerspec.DockerOCIImageConfig) (merged *container.Config, path string, args []string, err error) {
	c := *cfg
	if err := mergeImage(&c, img); err != nil {
		return nil, "", nil, err
	}
	// An empty word as the entry point, --entrypoint "", means none, not the
	// image's.
	if len(c.Entrypoint) == 0 || len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		c.Entrypoint = nil
	}
	words := slices.Concat(c.Entrypoint, c.Cmd)
	if len(words) == 0 {
		return nil, "", nil, runner.Errorf(runner.ErrInvalid, "no command specified")
	}
	return &c, words[0], words[1:], nil
}

func mergeImage(c *container.Config, img dockerspec.DockerOCIImageConfig) error {
	orDefault := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	orDefault(&c.User, img.User)
	orDefault(&c.WorkingDir, img.WorkingDir)
	orDefault(&c.StopSignal, img.StopSignal)
	for _, entry := range img.Env {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.ContainsFunc(c.Env, func(e string) bool {
			own, _, _ := strings.Cut(e, "=")
			return own == name
		}) {
			c.Env = append(slices.Clip(c.Env), entry)
		}
	}
	c.Labels = mergeMaps(c.Labels, img.Labels)
	c.Volumes = mergeMaps(c.Volumes, img.Volumes)
	ports := network.PortSet{}
	for text := range img.ExposedPorts {
		port, err := network.ParsePort(text)
		if err != nil {
			return runner.Errorf(runner.ErrInvalid, "the image exposes an %w", err)
		}
		ports[port] = struct{}{}
	}
	c.ExposedPorts = mergeMaps(c.ExposedPorts, ports)
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = img.Cmd
			c.ArgsEscaped = img.ArgsEscaped //nolint:staticcheck // images of Windows only, but inspect shows it
		}
		if c.Entrypoint == nil {
			c.Entrypoint = img.Entrypoint
		}
	}
	if len(c.Shell) == 0 {
		c.Shell = img.Shell
	}
	c.Healthcheck = mergeHealthcheck(c.Healthcheck, img.Healthcheck)
	return nil
}

// mergeMaps returns a map with what is in b and, over it, a. It is nil if both
// are.
func mergeMaps[K comparable, V any](a, b map[K]V) map[K]V {
	if len(b) == 0 {
		return a
	}
	m := maps.Clone(b)
	maps.Copy(m, a)
	return m
}

func mergeHealthcheck(own, img *container.HealthConfig) *container.HealthConfig {
	if own == nil || img == nil {
		if own == nil {
			return img
		}
		return own
	}
	h := *own
	if len(h.Test) == 0 {
		h.Test = img.Test
	}
	if h.Interval == 0 {
		h.Interval = img.Interval
	}
	if h.Timeout == 0 {
		h.Timeout = img.Timeout
	}
	if h.StartPeriod == 0 {
		h.StartPeriod = img.StartPeriod
	}
	if h.StartInterval == 0 {
		h.StartInterval = img.StartInterval
	}
	if h.Retries == 0 {
		h.Retries = img.Retries
	}
	return &h
}

// StopSignal is the signal that asks a container to end.
func StopSignal(cfg *container.Config) syscall.Signal {
	if cfg.StopSignal != "" {
		if s, err := signal.ParseSignal(cfg.StopSignal); err == nil { // Validate has checked it
			return s
		}
	}
	return syscall.SIGTERM
}

// ParseSignal reads a signal as KILL, SIGKILL or 9.
func ParseSignal(text string) (syscall.Signal, error) {
	s, err := signal.ParseSignal(text)
	if err != nil {
		return 0, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	if !signal.ValidSignalForPlatform(s) {
		return 0, runner.Errorf(runner.ErrInvalid, "the linux daemon does not support signal %d", s)
	}
	return s, nil
}
