package network

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// Options say where a Manager keeps its state and what it may choose itself.
type Options struct {
	Instance string // 6 hexadecimal digits, in the name of everything on the host
	StateDir string // durable
	RunDir   string // gone after a reboot
	// Subnet and Subnet6 are those of the bridge network; zero: free ones are
	// chosen, and remembered.
	Subnet, Subnet6 netip.Prefix
	// Bridge is the name of its interface, which begins with "br-"; empty: it is
	// made of Instance.
	Bridge string
	Log    *slog.Logger
}

// Manager connects containers to networks.
type Manager struct{}

// Request asks to connect a container.
type Request struct {
	ContainerID, Name string
	// NetNS is the container's network namespace.
	NetNS *os.File
	// Networks is what is asked for, by the name of the network.
	Networks map[string]*network.EndpointSettings
	// Ports are the bindings asked for: a zero HostIP means every address, IPv4
	// and IPv6; an empty HostPort a free port; "8000-8010" the first that is free.
	Ports network.PortMap
}

// Endpoint is what a container was given, as inspect shows it.
type Endpoint struct {
	Networks map[string]*network.EndpointSettings
	Ports    network.PortMap
}

// Attached is a container that was connected before.
type Attached struct {
	ContainerID, Name string
	Endpoint          Endpoint
}

var errUnfinished = errors.New("runner/network is being written")

// Open makes the manager.
func Open(context.Context, Options) (*Manager, error) { return nil, errUnfinished }

// Close ends the manager.
func (m *Manager) Close(context.Context) error { return errUnfinished }

// NewNetNS makes a network namespace.
func NewNetNS() (*os.File, error) { return nil, errUnfinished }

// NetNS gives a network namespace that was prepared, or makes one.
func (m *Manager) NetNS(context.Context) (*os.File, error) { return NewNetNS() }

// Connect connects a container.
func (m *Manager) Connect(context.Context, Request) (Endpoint, error) {
	return Endpoint{}, errUnfinished
}

// Disconnect undoes Connect.
func (m *Manager) Disconnect(context.Context, string) error { return errUnfinished }

// Restore adopts the containers that are alive and clears what is left of others.
func (m *Manager) Restore(context.Context, []Attached) error { return errUnfinished }

// List lists networks.
func (m *Manager) List(context.Context, runner.Filters) ([]network.Inspect, error) {
	return nil, errUnfinished
}

// Inspect finds a network by name, ID or an unambiguous beginning of its ID.
func (m *Manager) Inspect(context.Context, string) (network.Inspect, error) {
	return network.Inspect{}, errUnfinished
}

// HostGateway is what host-gateway means in --add-host.
func (m *Manager) HostGateway() []netip.Addr { return nil }

// HostResolvConf is the host's resolv.conf, or systemd-resolved's own where that
// one names only loopback servers.
func HostResolvConf() []byte { return nil }

// ResolvConf is the content of a container's /etc/resolv.conf.
func ResolvConf(host []byte, dns []netip.Addr, search, options []string) []byte {
	_, _, _, _ = host, dns, search, options
	return nil
}

// Hosts is the content of a container's /etc/hosts.
func Hosts(hostname, domainname string, ips []netip.Addr, extra []string, gateway ...netip.Addr) ([]byte, error) {
	_, _, _, _, _ = hostname, domainname, ips, extra, gateway
	return nil, errUnfinished
}
