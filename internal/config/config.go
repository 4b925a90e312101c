// Package config is the configuration of berth serve: its keys, their defaults,
// and how a YAML file, the environment and flags set them.
//
// It promises that a configuration it returns without an error is possible in
// itself, and that an error names every problem at once: where it is (file and
// line, variable or flag), the key, and what was expected. Nothing is guessed: an
// unknown key, a key given twice or a value of another type is an error.
//
// It touches nothing but the file that it reads: whether a port is free or a
// directory can be written shows when the server starts.
package config

import (
	"errors"
	"log/slog"
	"time"
)

// Config is the configuration of berth serve. The table in keys.go documents
// each field.
type Config struct {
	HTTP    HTTP
	Metrics Metrics
	Log     Log
	Storage Storage
}

// HTTP configures the registry's listener.
type HTTP struct {
	Addr            string        // host:port
	HeaderTimeout   time.Duration // for the header of a request
	BodyTimeout     time.Duration // without a byte of a request's body
	IdleTimeout     time.Duration // between the requests of a connection
	ShutdownTimeout time.Duration // for requests in flight after SIGTERM
}

// Metrics configures the listener for metrics and health.
type Metrics struct {
	Addr string // host:port, or empty for none
}

// Log configures what is logged and how.
type Log struct {
	Level  slog.Level
	Format LogFormat
	Access bool // log every request
}

// LogFormat says how log records are written.
type LogFormat string

// The formats of the log.
const (
	LogAuto LogFormat = "auto" // text on a terminal, JSON otherwise
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Storage configures where data is kept.
type Storage struct {
	Data         string        // directory; a relative path starts at the working directory
	UploadExpiry time.Duration // of an upload session that nobody writes to
}

// Default returns the configuration that holds when nothing is set.
func Default() Config {
	return Config{
		HTTP: HTTP{
			Addr:            "localhost:5000",
			HeaderTimeout:   10 * time.Second,
			BodyTimeout:     time.Minute,
			IdleTimeout:     2 * time.Minute,
			ShutdownTimeout: 30 * time.Second,
		},
		Metrics: Metrics{Addr: "localhost:5001"},
		Log:     Log{Level: slog.LevelInfo, Format: LogAuto, Access: true},
		Storage: Storage{Data: "./data", UploadExpiry: 24 * time.Hour},
	}
}

// Validate checks a configuration that Load has not. Its error joins a *Problem
// for each thing that is wrong.
func (c Config) Validate() error {
	var problems []error
	for _, k := range keys {
		v := k.value(&c) // c is a copy, so setting what is set does no harm
		if text := v.text(); !v.set(text) {
			problems = append(problems, &Problem{Key: k.path, Message: v.expected(quote(text))})
		}
	}
	for _, f := range conflicts(c) {
		problems = append(problems, &Problem{Key: f.keys[0], Message: f.message})
	}
	return errors.Join(problems...)
}

// Reloadable compares two configurations. It returns the keys that differ: those
// whose new value holds as soon as the server reloads, and those that need a
// restart.
func Reloadable(before, after Config) (changed, needRestart []string) {
	for _, k := range keys {
		switch {
		case k.value(&before).text() == k.value(&after).text():
		case k.reload:
			changed = append(changed, k.path)
		default:
			needRestart = append(needRestart, k.path)
		}
	}
	return changed, needRestart
}
