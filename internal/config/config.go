// Package config is the configuration of berth serve: its keys, their defaults,
// and what they mean. Package settings reads it.
//
// Whether a port is free or a directory can be written is not its business: that
// shows when the server starts.
package config

import (
	"log/slog"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

// Config is the configuration of berth serve. The table in keys.go documents
// each field.
type Config struct {
	HTTP    HTTP
	Metrics Metrics
	Log     Log
	Storage Storage
	Auth    Auth
	Policy  []Rule // in order; see Restricted
	// Immutable are REPOSITORY:TAG patterns of tags that are created once.
	Immutable   []string
	Limits      Limits
	GC          GC
	Scrub       Scrub
	Retention   []Retention // in order
	Quota       []Quota
	Audit       Audit
	Webhooks    map[string]*Webhook
	Mirrors     []Mirror
	Sync        []Sync
	Replication []Replication
}

// HTTP configures the registry's listener.
type HTTP struct {
	Addr            string        // host:port
	HeaderTimeout   time.Duration // for the header of a request
	BodyTimeout     time.Duration // without a byte of a request's body
	IdleTimeout     time.Duration // between the requests of a connection
	ShutdownTimeout time.Duration // for requests in flight after SIGTERM
	PublicURL       string        // what clients call the registry, or empty
	RedirectAddr    string        // host:port of plain HTTP, or empty
	TrustedProxies  []string      // addresses or ranges
	ProxyProtocol   bool
	TLS             TLS
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
type LogFormat = settings.LogFormat

// The formats of the log.
const (
	LogAuto = settings.LogAuto // text on a terminal, JSON otherwise
	LogText = settings.LogText
	LogJSON = settings.LogJSON
)

// Storage configures where data is kept.
type Storage struct {
	Data         string        // directory; a relative path starts at the working directory
	UploadExpiry time.Duration // of an upload session that nobody writes to
	S3           S3
	Postgres     Postgres
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
		Storage: Storage{
			Data: "./data", UploadExpiry: 24 * time.Hour,
			S3:       S3{Encryption: "none", Redirect: true, RedirectExpiry: 20 * time.Minute},
			Postgres: Postgres{Schema: "berth", MaxConns: 16},
		},
		Auth: Auth{
			Challenge:    "bearer",
			Tokens:       Tokens{Service: "berth", TTL: 5 * time.Minute, RefreshTTL: 30 * 24 * time.Hour, Rotate: 30 * 24 * time.Hour},
			Certificates: Certificates{Account: "none", Groups: "none"},
			LDAP: LDAP{
				UserFilter: "(uid=%s)", Account: "uid", GroupFilter: "(|(member=%s)(uniqueMember=%s))", Group: "cn", Timeout: 10 * time.Second,
			},
		},
		Limits: Limits{Burst: 100},
		GC: GC{
			Grace: 24 * time.Hour, Lease: time.Hour, Untagged: true, History: 7 * 24 * time.Hour, Interval: time.Minute,
		},
		Scrub: Scrub{Interval: 30 * 24 * time.Hour, Rate: 20_000_000},
		Audit: Audit{MaxSize: 100_000_000, Keep: 10},
	}
}

type (
	// Problem is one thing that is wrong with a configuration.
	Problem = settings.Problem
	// Setting sets a key from somewhere else than file and environment.
	Setting = settings.Setting
)

// Load returns the configuration made of the defaults, the file at path (none if
// path is empty), the environment as os.Environ returns it, and set. What comes
// later in this list beats what comes before. The error joins everything that is
// wrong, each a *Problem or the failure to read the file.
func Load(path string, environ []string, set ...Setting) (Config, error) {
	return schema.Load(path, environ, set...)
}

// Validate checks a configuration that Load has not. Its error joins a *Problem
// for each thing that is wrong.
func (c Config) Validate() error { return schema.Validate(c) }

// Reloadable compares two configurations. It returns the keys that differ: those
// whose new value holds as soon as the server reloads, and those that need a
// restart.
func Reloadable(before, after Config) (changed, needRestart []string) {
	return schema.Reloadable(before, after)
}
