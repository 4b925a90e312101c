package logs

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner/logs/remote"
)

// parse reads the options of a container.
func (o *Options) parse(config map[string]string) (err error) {
	if err := o.setMode(config); err != nil {
		return err
	}
	if _, ok := config["max-size"]; ok {
		o.MaxFile = 1
		if o.Driver == DriverLocal {
			o.MaxFile = 5
		}
	}
	server := map[string]string{}
	remotely := o.isRemote()
	for key, value := range config {
		switch known, err := o.set(key, value, remotely); {
		case err != nil:
			return err
		case known:
		case remotely:
			server[key] = value
		default:
			return o.unknown(key)
		}
	}
	if remotely {
		return o.setRemote(server, config)
	}
	if o.Compress && (o.MaxFile < 2 || o.MaxSize < 0) {
		if _, asked := config["compress"]; asked {
			return errors.New("compress cannot be true when max-file is less than 2 or max-size is not set")
		}
		o.Compress = false
	}
	return nil
}

func (o *Options) isRemote() bool {
	return o.Driver != DriverJSONFile && o.Driver != DriverLocal
}

func (o *Options) unknown(key string) error {
	if o.Driver == DriverLocal {
		return fmt.Errorf("unknown log opt '%s' for log driver local", key)
	}
	return fmt.Errorf("unknown log opt '%s' for json-file log driver", key)
}

// setMode reads what happens if the log's destination does not keep up.
func (o *Options) setMode(config map[string]string) error {
	mode := container.LogMode(config["mode"])
	switch mode {
	case "", container.LogModeBlocking, container.LogModeNonBlock:
	default:
		return fmt.Errorf("logger: logging mode not supported: %s", mode)
	}
	if mode == container.LogModeNonBlock {
		o.MaxUnsent = maxBuffer
	}
	size, ok := config["max-buffer-size"]
	if !ok {
		return nil
	}
	if mode != container.LogModeNonBlock {
		return fmt.Errorf("logger: max-buffer-size option is only supported with 'mode=%s'", container.LogModeNonBlock)
	}
	n, err := units.RAMInBytes(size)
	if err != nil {
		return fmt.Errorf("error parsing option max-buffer-size: %w", err)
	}
	o.MaxUnsent = max(n, batchSize)
	return nil
}

// setRemote reads where the log is sent to.
func (o *Options) setRemote(server, config map[string]string) error {
	settings, err := remote.Parse(o.Driver, server)
	if err != nil {
		return err
	}
	o.Remote = &settings
	if settings.BufferLimit > 0 && config["mode"] != string(container.LogModeNonBlock) {
		o.MaxUnsent = max(settings.BufferLimit, batchSize)
	}
	if o.Hidden { // as much as is needed to send it
		o.MaxSize, o.MaxFile, o.Compress = hiddenSize, 2, false
	}
	if o.MaxFile < 2 || o.MaxSize < 0 {
		o.Compress = false
	}
	return nil
}

// hiddenSize is how long a file of a log becomes that is not to be read here.
const hiddenSize = 1 << 20

// set sets one option. It is false for one that only the log's server can know.
func (o *Options) set(key, value string, remotely bool) (known bool, err error) {
	if remotely {
		known, err = o.setCache(key, value)
	} else {
		known, err = o.setFiles(key, value)
	}
	if known || err != nil {
		return known, err
	}
	if key == "mode" || key == "max-buffer-size" {
		return true, nil
	}
	if o.Driver == DriverLocal {
		return false, nil
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
		if value != "" || !remotely {
			o.Tag = value
		}
		_, err = expandTag(value, Container{})
	default:
		return false, nil
	}
	return true, err
}

// setFiles sets an option of the drivers that only keep files.
func (o *Options) setFiles(key, value string) (known bool, err error) {
	switch key {
	case "max-size":
		o.MaxSize, err = o.size(key, value)
	case "max-file":
		o.MaxFile, err = count(key, value)
	case "compress":
		o.Compress, err = strconv.ParseBool(value)
	default:
		return false, nil
	}
	return true, err
}

// setCache sets an option of what is kept of a log that is sent.
func (o *Options) setCache(key, value string) (known bool, err error) {
	switch key {
	case "cache-disabled":
		o.Hidden, err = strconv.ParseBool(value)
	case "cache-max-size":
		o.MaxSize, err = o.size(key, value)
	case "cache-max-file":
		o.MaxFile, err = count(key, value)
	case "cache-compress":
		o.Compress, err = strconv.ParseBool(value)
	default:
		return false, nil
	}
	return true, err
}

func count(key, value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err == nil && n < 1 {
		err = errors.New(key + " cannot be less than 1")
	}
	return n, err
}

// size parses a size as the driver of that name does in Docker: the units of
// "json-file" are powers of 1000, those of all others powers of 1024.
func (o *Options) size(key, value string) (int64, error) {
	if value == "-1" {
		return -1, nil
	}
	parse := units.RAMInBytes
	if o.Driver == DriverJSONFile {
		parse = units.FromHumanSize
	}
	n, err := parse(value)
	if err == nil && n <= 0 {
		err = errors.New(key + " must be a positive number")
	}
	return n, err
}
