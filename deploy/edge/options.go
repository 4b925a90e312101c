package edge

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
)

// Options are what the program is started with.
type Options struct {
	HTTP  string // address, host:port, of HTTP; empty: none
	HTTPS string // address, host:port, of HTTPS; empty: none
	// TrustedProxies are ranges of addresses whose X-Forwarded headers are believed.
	TrustedProxies []string
	ACME           ACME
	// Certs is a directory of certificates NAME.crt with their keys NAME.key, which come
	// before all others; empty: none.
	Certs     string
	AccessLog bool // requests are logged, in Data
	// Data is the directory of routes, certificates and logs, Run that of sockets. Both
	// are absolute.
	Data, Run string
}

// ACME says how certificates are obtained (RFC 8555). Using it agrees to the terms of
// service of the authority.
type ACME struct {
	Email     string // where the authority reaches the operator, or empty
	Directory string // URL of the authority; Let's Encrypt's if empty
	// DirectoryCA is a PEM file of the authorities of the directory's own certificate, in
	// place of the system's; or empty.
	DirectoryCA string
}

// Load reads the options that the program is started with.
func Load(path string) (Options, error) {
	var o Options
	text, err := os.ReadFile(path)
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(text, &o); err != nil {
		return o, fmt.Errorf("options in %s: %w", path, err)
	}
	return o, nil
}

func (o Options) equal(other Options) bool {
	if len(o.TrustedProxies) == 0 && len(other.TrustedProxies) == 0 {
		o.TrustedProxies, other.TrustedProxies = nil, nil
	}
	return reflect.DeepEqual(o, other)
}

// Control is the socket by which the program that serves is told what to do.
func (o Options) Control() string { return filepath.Join(o.Run, "control.sock") }

// Sockets is the socket by which the program hands its listening sockets over.
func (o Options) Sockets() string { return filepath.Join(o.Run, "sockets.sock") }

// Retired is the socket of a program that serves no longer, but has requests still.
func (o Options) Retired(pid int) string {
	return filepath.Join(o.Run, fmt.Sprintf("retired-%d.sock", pid))
}

// allRetired are the sockets of all that have retired. Some may be left over.
func (o Options) allRetired() []string {
	all, err := filepath.Glob(filepath.Join(o.Run, "retired-*.sock"))
	if err != nil {
		return nil // the pattern is one
	}
	return all
}

// Lock is the directory whose lock the program that serves holds. With it goes the right
// to the file of routes.
func (o Options) Lock() string { return o.Data }

// Routes is the file of the routes that are in force.
func (o Options) Routes() string { return filepath.Join(o.Data, "routes.json") }

// Log is the file of what the program logs.
func (o Options) Log() string { return filepath.Join(o.Data, "edge.log") }

// optionsFile is where the program finds its options.
func (o Options) optionsFile() string { return filepath.Join(o.Run, "options.json") }

// crashFile is where the program writes what it cannot log.
func (o Options) crashFile() string { return filepath.Join(o.Run, "crash.log") }
