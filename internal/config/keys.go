package config

import (
	"fmt"
	"slices"

	"github.com/berth-registry/berth/internal/settings"
)

const exampleHead = `The configuration of berth serve: every key with its default. What is left out
has its default, and anything that is not here is an error.

Each key can also be set in the environment: http.addr is BERTH_HTTP_ADDR. A flag
beats the environment, the environment beats this file. Durations are written
like 30s, 5m or 24h. On SIGHUP the server reads this file again and takes over
the keys marked [reload]; the others need a restart.
`

// schema is all that berth serve can be told.
var schema = settings.Schema[Config]{
	Prefix:    "BERTH",
	Head:      exampleHead,
	Default:   Default,
	Keys:      keys,
	Conflicts: conflicts,
}

// keys lists every key there is. Keys of a section stand together.
var keys = slices.Concat(httpKeys, edgeKeys, serverKeys, scaleKeys, healthKeys, mirrorKeys, accessKeys)

var httpKeys = []settings.Key[Config]{
	{
		Path:  "http.addr",
		Doc:   "Where the registry listens, host:port. Without a host it listens on all\naddresses of the machine.",
		Value: func(c *Config) *settings.Value { return settings.Address(&c.HTTP.Addr) },
	}, {
		Path:  "http.header_timeout",
		Doc:   "How long a client may take to send the header of a request.",
		Value: func(c *Config) *settings.Value { return settings.Duration(&c.HTTP.HeaderTimeout) },
	}, {
		Path:  "http.body_timeout",
		Doc:   "How long a client may send no byte of a request's body.",
		Value: func(c *Config) *settings.Value { return settings.Duration(&c.HTTP.BodyTimeout) },
	}, {
		Path:  "http.idle_timeout",
		Doc:   "How long a connection may stay open between two requests.",
		Value: func(c *Config) *settings.Value { return settings.Duration(&c.HTTP.IdleTimeout) },
	}, {
		Path:  "http.shutdown_timeout",
		Doc:   "How long requests in flight may go on after SIGTERM; 0s ends them at once.",
		Value: func(c *Config) *settings.Value { return settings.DurationOrZero(&c.HTTP.ShutdownTimeout) },
	},
}

var serverKeys = []settings.Key[Config]{
	{
		Path:  "metrics.addr",
		Doc:   "Where metrics, health and profiles are served, host:port; \"\" turns it off.",
		Value: func(c *Config) *settings.Value { return settings.AddressOrNone(&c.Metrics.Addr) },
	}, {
		Path:   "log.level",
		Doc:    "What is logged: debug, info, warn or error and all that is worse.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.Level(&c.Log.Level) },
	}, {
		Path:  "log.format",
		Doc:   "text, json, or auto: text on a terminal, JSON otherwise.",
		Value: func(c *Config) *settings.Value { return settings.Format(&c.Log.Format) },
	}, {
		Path:   "log.access",
		Doc:    "Whether each request is logged.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.Boolean(&c.Log.Access) },
	}, {
		Path:  "storage.data",
		Doc:   "The directory of all data. A relative path starts at the working directory.",
		Value: func(c *Config) *settings.Value { return settings.Directory(&c.Storage.Data) },
	}, {
		Path:   "storage.upload_expiry",
		Doc:    "How long an upload session is kept that nobody writes to.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.Duration(&c.Storage.UploadExpiry) },
	},
}

// conflicts checks the rules that concern several keys.
func conflicts(c Config) []settings.Conflict {
	found := slices.Concat(accessConflicts(c), healthConflicts(c), mirrorConflicts(c), scaleConflicts(c))
	if !settings.Overlap(c.HTTP.Addr, c.Metrics.Addr) {
		return found
	}
	return append(found, settings.Conflict{
		Keys: []string{"metrics.addr", "http.addr"},
		Message: fmt.Sprintf("expected two addresses that differ, found %s for metrics.addr and %s for http.addr",
			settings.Quote(c.Metrics.Addr), settings.Quote(c.HTTP.Addr)),
	})
}
