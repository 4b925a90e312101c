package network

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner/network/names"
)

// Options say where a Manager keeps its state and what it may choose itself.
type Options struct {
	Instance string // 6 hexadecimal digits, in the name of everything on the host
	StateDir string // for what must be durable
	// Subnet and Subnet6 are those of the bridge network. If they are zero, free
	// ones are chosen, and remembered.
	Subnet, Subnet6 netip.Prefix
	// Bridge is the name of its interface, which begins with "br-"; empty means
	// "br-" + Instance.
	Bridge string
	Log    *slog.Logger
}

func (o *Options) complete() error {
	if b, err := hex.DecodeString(o.Instance); err != nil || len(b) != 3 {
		return fmt.Errorf("instance %q is not 6 hexadecimal digits", o.Instance)
	}
	if o.Bridge == "" {
		o.Bridge = "br-" + o.Instance
	}
	const longest = 15 // IFNAMSIZ without the final zero
	if !strings.HasPrefix(o.Bridge, "br-") || len(o.Bridge) > longest || strings.ContainsAny(o.Bridge, "/ \t\n%:") {
		return fmt.Errorf("bridge %q: the name must begin with br-, have at most 15 characters, and be that of an interface", o.Bridge)
	}
	if p := o.Subnet; p.IsValid() && (!p.Addr().Is4() || p.Bits() > 29) {
		return fmt.Errorf("subnet %s: want one of IPv4 that has room for containers", p)
	}
	if p := o.Subnet6; p.IsValid() && (!p.Addr().Is6() || p.Bits() > 120) {
		return fmt.Errorf("subnet %s: want one of IPv6 that has room for containers", p)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Manager connects containers to networks. It is safe for concurrent use; the
// calls for one container must follow one another.
type Manager struct {
	instance string
	group    uint32 // of interfaces that are to be deleted
	log      *slog.Logger
	host     *rtnl
	rules    *rules
	ports    *portTable
	stateDir string
	changing sync.Mutex // held while a network is made or removed
	// switching is held while services are set, or follow their backends.
	switching  sync.Mutex
	forgetting sync.Mutex // held while flows are forgotten
	carry      *carrier
	bridge     *lan // the network bridge
	names      *names.Server

	stop    context.CancelFunc // ends what runs in the background
	stopped context.Context    //nolint:containedctx // the background's, not a request's
	wg      sync.WaitGroup

	mu       sync.Mutex
	lans     []*lan
	attached map[string]*attachment // by the container's ID; nil while it is made
	services map[string]*owned      // by the owner
	backends map[string]bool        // containers that are behind services
	// aliases are the containers that have a name by a service, by network and name.
	aliases  map[string]map[string][]string
	released chan struct{}   // closed when an address is free again
	dying    int             // interfaces that hold addresses and go
	warned   map[string]bool // chains of others that were logged
}

// Open returns a manager whose networks and rules are there. What containers of an
// earlier one have is left as it is until Restore, which must be called once
// before Connect.
func Open(ctx context.Context, o Options) (*Manager, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	m := &Manager{instance: o.Instance, log: o.Log, attached: map[string]*attachment{}, services: map[string]*owned{}, carry: newCarrier(), released: make(chan struct{}), warned: map[string]bool{}}
	number, _ := strconv.ParseUint(o.Instance, 16, 32) // was checked
	m.group = 0xbe<<24 | uint32(number)
	m.stopped, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	m.names = names.Open(names.Options{Resolver: m, Upstreams: m.upstreams, Log: o.Log})
	if err := m.open(ctx, o); err != nil {
		m.stop()
		m.closeSockets()
		return nil, fmt.Errorf("network: %w", err)
	}
	return m, nil
}

func (m *Manager) open(ctx context.Context, o Options) (err error) {
	if m.host, err = dialRtnl(0); err != nil {
		return err
	}
	if m.rules, err = openRules("berth-" + m.instance); err != nil {
		return err
	}
	if err := m.openNetworks(ctx, o); err != nil {
		return err
	}
	m.ports = newPortTable(m.bridge.v6 != nil, m.carry)
	if err := m.loadServices(); err != nil {
		return err
	}
	if err := enableForwarding(m.log, m.bridge.v6 != nil); err != nil {
		return err
	}
	there, err := m.rules.present()
	if err == nil && !there {
		err = m.rules.rebuild()
	}
	if err != nil {
		return err
	}
	return m.watch()
}

// openNetworks loads the networks, or makes those that are always there, and their
// interfaces.
func (m *Manager) openNetworks(ctx context.Context, o Options) error {
	m.stateDir = o.StateDir
	list, err := loadState(o.StateDir)
	if err != nil {
		return err
	}
	fresh := list == nil
	if fresh {
		list = builtin(time.Now().UTC())
	}
	var others []netip.Prefix
	for _, r := range list {
		n, err := newLan(r)
		if err != nil { // of a newer version
			n = &lan{record: r, lost: err, endpoints: map[string]*endpoint{}, names: nameTable{}}
		}
		m.lans = append(m.lans, n)
		if n.userDefined() {
			others = append(others, n.subnets()...)
		}
	}
	if m.bridge = m.find(network.NetworkBridge); m.bridge == nil {
		return fmt.Errorf("%s in %s has no network %s", stateFile, o.StateDir, network.NetworkBridge)
	}
	changed, err := m.bridge.openDefault(ctx, m.host, o, others)
	if err != nil {
		return err
	}
	for _, n := range m.lans {
		if n.userDefined() && n.lost == nil {
			n.lost = n.ensure(m.host)
		}
		if n.lost != nil {
			m.log.ErrorContext(ctx, "a network cannot be used", "network", n.Name, "error", n.lost)
		}
		if n.bridged() {
			m.rules.expect(n.segment())
		}
	}
	if fresh || changed {
		return m.save(m.lans)
	}
	return nil
}

// save writes the records of networks down.
func (m *Manager) save(lans []*lan) error {
	list := make([]record, 0, len(lans))
	for _, n := range lans {
		list = append(list, n.record)
	}
	return saveState(m.stateDir, list)
}

// Close ends the manager. What containers have stays, but for what only a process
// can do: until the next Open their ports are not bound on the host, [::1] does
// not answer, and nobody answers questions for names. If no container is connected,
// bridges and rules go too.
func (m *Manager) Close(ctx context.Context) error {
	m.stop()
	m.names.Close()
	m.wg.Wait()
	m.mu.Lock()
	attached := slices.Collect(maps.Values(m.attached))
	m.mu.Unlock()
	var err error
	if !slices.ContainsFunc(attached, (*attachment).plugged) {
		// The bridges first: the rules guard them.
		for _, n := range m.lans {
			err = errors.Join(err, n.drop(m.host))
		}
		err = errors.Join(err, m.rules.remove())
	}
	m.ports.close()
	m.carry.close()
	m.closeSockets()
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return ctx.Err()
}

func (m *Manager) closeSockets() {
	if m.host != nil {
		m.host.close()
	}
	if m.rules != nil {
		m.rules.close()
	}
}

// HostGateway returns the addresses by which containers reach the host: what
// host-gateway means in --add-host.
func (m *Manager) HostGateway() []netip.Addr {
	list := []netip.Addr{m.bridge.v4.gateway}
	if m.bridge.v6 != nil {
		list = append(list, m.bridge.v6.gateway)
	}
	return list
}
