package logs

import (
	"errors"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

// The drivers. The first two are names for the same.
const (
	DriverJSONFile = "json-file" // the default
	DriverLocal    = "local"
	DriverNone     = "none" // no log is kept
)

// What bounds a log of which nothing is said. Docker's default is unbounded.
const (
	DefaultMaxSize = 10_000_000
	DefaultMaxFile = 3
)

// Options say where a container's log goes and how much of it is kept.
type Options struct {
	Driver string
	// MaxSize is how long one file becomes, in bytes; negative is unlimited.
	MaxSize int64
	// MaxFile is how many files there are. Together they take about
	// MaxSize × MaxFile bytes.
	MaxFile int

	// What `docker logs --details` shows: names of labels and of environment
	// variables, patterns for more of them, and a text.
	Labels, Env           []string
	LabelsRegex, EnvRegex *regexp.Regexp
	Tag                   string
}

// ParseOptions makes Options of a container's configuration, with def for what it
// leaves open; the zero value stands for the defaults of this package. Errors are
// runner.ErrInvalid, with Docker's texts where Docker has the error.
//
// A log with max-size and without max-file has as many files as Docker would keep:
// one, or five of driver "local".
func ParseOptions(cfg container.LogConfig, def Options) (Options, error) {
	o := def
	if cfg.Type != "" {
		o.Driver = cfg.Type
	}
	if o.Driver == "" {
		o.Driver = DriverJSONFile
	}
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	if o.MaxFile == 0 {
		o.MaxFile = DefaultMaxFile
	}
	switch o.Driver {
	case DriverJSONFile, DriverLocal:
	case DriverNone:
		return Options{Driver: DriverNone, MaxSize: -1}, nil // Docker too ignores its options
	default:
		return Options{}, runner.Errorf(runner.ErrInvalid, "logger: no log driver named '%s' is registered", o.Driver)
	}
	if _, ok := cfg.Config["max-size"]; ok {
		o.MaxFile = 1
		if o.Driver == DriverLocal {
			o.MaxFile = 5
		}
	}
	for key, value := range cfg.Config {
		if err := o.set(key, value); err != nil {
			return Options{}, runner.Errorf(runner.ErrInvalid, "%w", err)
		}
	}
	return o, nil
}

// set sets one option.
func (o *Options) set(key, value string) (err error) {
	switch key {
	case "max-size":
		o.MaxSize, err = o.size(value)
		return err
	case "max-file":
		if o.MaxFile, err = strconv.Atoi(value); err == nil && o.MaxFile < 1 {
			err = errors.New("max-file cannot be less than 1")
		}
		return err
	case "mode":
		if value != "" && value != "blocking" {
			return errors.New("logger: logging mode not supported: " + value)
		}
		return nil
	case "compress":
		if on, err := strconv.ParseBool(value); err != nil || on {
			return errors.New("log opt 'compress' is not supported: rotated logs are kept as they are")
		}
		return nil
	}
	if o.Driver == DriverLocal {
		return errors.New("unknown log opt '" + key + "' for log driver local")
	}
	switch key {
	case "labels":
		o.Labels = strings.Split(value, ",")
	case "env":
		o.Env = strings.Split(value, ",")
	case "labels-regex":
		o.LabelsRegex, err = regexp.Compile(value)
	case "env-regex":
		o.EnvRegex, err = regexp.Compile(value)
	case "tag":
		o.Tag = value
		_, err = expandTag(value, Container{})
	default:
		err = errors.New("unknown log opt '" + key + "' for json-file log driver")
	}
	return err
}

// size parses a size as the driver of that name does in Docker: the units of
// "local" are powers of 1024, those of "json-file" powers of 1000.
func (o *Options) size(value string) (int64, error) {
	if value == "-1" {
		return -1, nil
	}
	parse := units.FromHumanSize
	if o.Driver == DriverLocal {
		parse = units.RAMInBytes
	}
	n, err := parse(value)
	if err == nil && n <= 0 {
		err = errors.New("max-size must be a positive number")
	}
	return n, err
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
	return max(o.MaxSize, minMonitorLimit)
}

// Readable returns the error of reading a log that is not kept, with Docker's
// text, or nil.
func (o Options) Readable() error {
	if o.Driver == DriverNone {
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

// Container is what the attributes of a log are made of.
type Container struct {
	ID, Name           string
	ImageID, ImageName string
	Command            string
	DaemonName         string
	Labels             map[string]string
	Env                []string // as NAME=value
}

// Attributes are what Copy shows before each line when details are asked for.
func (o Options) Attributes(c Container) map[string]string {
	attrs := make(map[string]string)
	for name, value := range c.Labels {
		if slices.Contains(o.Labels, name) || o.LabelsRegex != nil && o.LabelsRegex.MatchString(name) {
			attrs[name] = value
		}
	}
	for _, env := range c.Env {
		name, value, ok := strings.Cut(env, "=")
		if ok && (slices.Contains(o.Env, name) || o.EnvRegex != nil && o.EnvRegex.MatchString(name)) {
			attrs[name] = value
		}
	}
	if o.Tag != "" {
		attrs["tag"], _ = expandTag(o.Tag, c) // was checked when it was parsed
	}
	return attrs
}

// details renders attributes as Docker does.
func details(attrs map[string]string) string {
	pairs := make([]string, 0, len(attrs))
	for name, value := range attrs {
		pairs = append(pairs, url.QueryEscape(name)+"="+url.QueryEscape(value))
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",") + " "
}
