// Package runnerconfig is the configuration of berth-runner serve: its keys,
// their defaults, and what they mean. Package settings reads it.
//
// Whether a program is installed, a port is free or a directory can be written is
// not its business: that shows when the runner starts.
package runnerconfig

import (
	"cmp"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

// Config is the configuration of berth-runner serve. The table in keys.go
// documents each field.
type Config struct {
	Data     string              // directory of what is kept
	Run      string              // directory of what a reboot may clear
	Runtime  string              // name or path of the OCI runtime
	Runtimes map[string]*Runtime // further ones, by name
	Conmon   string              // path, or empty for the one on the PATH
	Init     string              // path, or empty for the one on the PATH

	UsernsRemap string   // USER[:GROUP], default, or empty for the host's users
	CDISpecDirs []string // absolute; none turns CDI off

	Socket     Socket
	TCP        TCP
	Metrics    Metrics
	Log        Log
	Registry   Registry
	Registries map[string]*Host // by host[:port]
	Report     Report
	Follow     []*Follow
	Node       Node
	Trust      []TrustRule // in order; none: everything runs
	Containers Containers
	Build      Build
	Network    Network
	Stacks     Stacks
	Edge       Edge
}

// Runtime is a further OCI runtime.
type Runtime struct {
	Path string   // absolute
	Args []string // before its command
}

// Socket configures the unix socket of the API.
type Socket struct {
	Path  string
	Group string // whose members may connect; empty is root alone
}

// TCP configures the API over TCP, which is there with mutual TLS only.
type TCP struct {
	Addr string // host:port, or empty for none
	TLS  TLS
}

// TLS is paths of PEM files.
type TLS struct {
	Cert, Key string // what the runner shows
	ClientCA  string // whose certificates clients must show
}

// Metrics configures the listener for metrics and health.
type Metrics struct {
	Addr string // host:port, or empty for none
}

// Log configures what is logged and how.
type Log struct {
	Level  slog.Level
	Format settings.LogFormat
}

// Registry configures where images without a registry in their name are, and
// where the certificates of all registries.
type Registry struct {
	Default  string // host[:port], or empty for Docker Hub
	CertsDir string // a directory for each host[:port]
}

// Host configures how one registry is spoken to.
type Host struct {
	Endpoint      string   // URL, where it is not https://HOST
	Mirrors       []string // URLs
	CA, Cert, Key string   // paths of PEM files
	Insecure      bool     // any certificate will do
	PlainHTTP     bool

	Report       bool   // what runs is reported to it
	Username     string // to report by, or empty
	PasswordFile string // path, or empty
}

// Report configures how registries are told what runs.
type Report struct {
	Name     string // of this node, or empty for that of the host
	Interval time.Duration
}

// Follow is a stack that this node runs as a tag of a registry names it.
type Follow struct {
	Stack string // HOST/REPOSITORY:TAG
	Name  string // of the stack here, or empty for the last part of the repository
}

// Host is the registry of the stack, as registries has it.
func (f Follow) Host() string {
	host, _, _ := strings.Cut(f.Stack, "/")
	return host
}

// StackName is the name of the stack on this node.
func (f Follow) StackName() string {
	repository := f.Stack[:max(0, strings.LastIndexByte(f.Stack, ':'))]
	return cmp.Or(f.Name, repository[strings.LastIndexByte(repository, '/')+1:])
}

// Node configures what this host is in a fleet.
type Node struct {
	Labels   map[string]string // by which rollouts choose nodes
	Interval time.Duration     // between reports to registries that are followed
	Poll     time.Duration     // between questions to those that tell nothing by themselves
}

// Containers configures what holds for containers that do not say otherwise.
type Containers struct {
	LogDriver    string
	LogOpts      map[string]string // of containers that have that driver
	LogMaxUnsent int64             // bytes of a log that may wait for its server
	LogMaxSize   int64             // bytes of a log's file
	LogMaxFile   int               // files of a log
	StopTimeout  time.Duration
}

// Stacks configures what is kept of stacks.
type Stacks struct {
	History int // revisions of each
}

// Build configures how images are built.
type Build struct {
	CacheMaxSize int64 // bytes; 0 for a tenth of the disk
}

// Network configures the network that containers are on by default.
type Network struct {
	Bridge          string // name of the device, or empty for one after the runner
	Subnet, Subnet6 netip.Prefix
}

// Default returns the configuration that holds when nothing is set.
func Default() Config {
	return Config{
		Data:        "/var/lib/berth-runner",
		Run:         "/run/berth-runner",
		Runtime:     "crun",
		CDISpecDirs: []string{"/etc/cdi", "/var/run/cdi"},
		Socket:      Socket{Path: "/run/berth/runner.sock", Group: "berth"},
		Log:         Log{Level: slog.LevelInfo, Format: settings.LogAuto},
		Registry:    Registry{CertsDir: "/etc/docker/certs.d"},
		Report:      Report{Interval: 10 * time.Minute},
		Node:        Node{Interval: 30 * time.Second, Poll: 2 * time.Second},
		Containers:  Containers{LogDriver: "json-file", LogMaxUnsent: 1_000_000_000, LogMaxSize: 10_000_000, LogMaxFile: 3, StopTimeout: 10 * time.Second},
		Stacks:      Stacks{History: 20},
	}
}

// Load returns the configuration made of the defaults, the file at path (none if
// path is empty), the environment as os.Environ returns it, and set. What comes
// later in this list beats what comes before. The error joins everything that is
// wrong, each a *settings.Problem or the failure to read the file.
func Load(path string, environ []string, set ...settings.Setting) (Config, error) {
	return schema.Load(path, environ, set...)
}

// Reloadable compares two configurations. It returns the keys that differ: those
// whose new value holds as soon as the runner reloads, and those that need a
// restart.
func Reloadable(before, after Config) (changed, needRestart []string) {
	return schema.Reloadable(before, after)
}

// Example returns a configuration file with every key, its default and a comment.
func Example() []byte { return schema.Example() }
