package logs

import (
	"math"
	"regexp"
	"slices"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/logs/remote"
)

// The drivers that keep a log here and nowhere else, and that which keeps none. The
// first two are names for the same; those of package remote send it besides.
const (
	DriverJSONFile = "json-file" // the default
	DriverLocal    = "local"
	DriverNone     = "none" // no log is kept
)

// Drivers are the names of all that keep or send a log.
func Drivers() []string {
	return slices.Sorted(slices.Values(append(remote.Drivers(), DriverJSONFile, DriverLocal)))
}

// What bounds a log of which nothing is said. Docker's default is unbounded.
const (
	DefaultMaxSize = 10_000_000
	DefaultMaxFile = 3
)

// What is kept of a log that is sent to a server, to be read here, as in Docker.
const (
	cacheMaxSize = 20 << 20
	cacheMaxFile = 5
)

// What may wait to be sent, in bytes.
const (
	DefaultMaxUnsent = 1 << 30 // in mode blocking
	maxBuffer        = 1 << 20 // in mode non-blocking
)

// Options say where a container's log goes and how much of it is kept.
type Options struct {
	Driver string
	// MaxSize is how long one file becomes, in bytes; negative is unlimited.
	MaxSize int64
	// MaxFile is how many files there are. Together they take about
	// MaxSize × MaxFile bytes, uncompressed.
	MaxFile int
	// Compress has all but the newest file compressed.
	Compress bool

	// Remote is where the log is sent to; nil for nowhere.
	Remote *remote.Settings
	// MaxUnsent is how many bytes of the log may wait for that.
	MaxUnsent int64
	// Hidden says that the log is kept to be sent, and not to be read here.
	Hidden bool

	// What `docker logs --details` shows, and a server is told: names of labels
	// and of environment variables, patterns for more of them, and a text.
	Labels, Env           []string
	LabelsRegex, EnvRegex *regexp.Regexp
	Tag                   string

	config container.LogConfig // what was asked for
}

// ParseOptions makes Options of a container's configuration, with def for what it
// leaves open; the zero value stands for the defaults of this package. Errors are
// runner.ErrInvalid, with Docker's texts where Docker has the error.
//
// A log with max-size and without max-file has as many files as Docker would keep:
// one, or five of driver "local".
//
// The drivers that only write files take mode and max-buffer-size, which change
// nothing: the kernel's cache is their buffer.
func ParseOptions(cfg container.LogConfig, def Options) (Options, error) {
	o := def
	if cfg.Type != "" {
		o.Driver = cfg.Type
	}
	if o.Driver == "" {
		o.Driver = DriverJSONFile
	}
	o.config = container.LogConfig{Type: o.Driver, Config: cfg.Config}
	o.defaults()
	if o.Driver == DriverNone {
		return Options{Driver: DriverNone, MaxSize: -1}, nil // Docker too ignores its options
	}
	if !slices.Contains(Drivers(), o.Driver) {
		return Options{}, runner.Errorf(runner.ErrInvalid, "logger: no log driver named '%s' is registered", o.Driver)
	}
	if err := o.parse(cfg.Config); err != nil {
		return Options{}, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	return o, nil
}

// defaults fills in what holds if nothing is said.
func (o *Options) defaults() {
	if o.MaxUnsent == 0 {
		o.MaxUnsent = DefaultMaxUnsent
	}
	if slices.Contains(remote.Drivers(), o.Driver) {
		o.MaxSize, o.MaxFile, o.Compress = cacheMaxSize, cacheMaxFile, true
		o.Tag = "{{.ID}}"
		return
	}
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	if o.MaxFile == 0 {
		o.MaxFile = DefaultMaxFile
	}
	o.Compress = o.Driver == DriverLocal
}

// minMonitorLimit is the least bound that a monitor gets: small enough for a disk,
// and long enough in the writing for a Keeper on a busy host to notice.
const minMonitorLimit = 8 << 20

// MonitorLimit is the bound of one file in bytes that the monitor keeps by itself
// (--log-size-max of conmon), so that the log is bounded when no daemon runs: by
// what was kept before, and three files of this length. Negative is no bound.
func (o Options) MonitorLimit() int64 {
	if o.MaxSize < 0 {
		return -1
	}
	if o.Remote != nil {
		return max(o.MaxSize, minMonitorLimit, o.MaxUnsent/3) // there is nobody to send it
	}
	return max(o.MaxSize, minMonitorLimit)
}

// Readable returns the error of reading a log that is not kept, with Docker's
// text, or nil.
func (o Options) Readable() error {
	if o.Driver == DriverNone || o.Hidden {
		return runner.Errorf(runner.ErrNotImplemented, "configured logging driver does not support reading")
	}
	return nil
}

// limit is what the whole log may take, and piece what its newest file may.
func (o Options) limit() (limit, piece int64) {
	limit = math.MaxInt64
	if o.MaxSize < limit/int64(o.MaxFile) {
		limit = o.MaxSize * int64(o.MaxFile)
	}
	return limit, limit / int64(max(o.MaxFile, 2)) // of one file, half stays when a new one begins
}
