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
	networks []record // the bridge network's in full is bridge.record
	bridge   *bridge

	stop    context.CancelFunc // ends what runs in the background
	stopped context.Context    //nolint:containedctx // the background's, not a request's
	wg      sync.WaitGroup

	mu       sync.Mutex
	attached map[string]*attachment // by the container's ID; nil while it is made
	released chan struct{}          // closed when an address is free again
	dying    int                    // interfaces that hold addresses and go
	warned   map[string]bool        // chains of others that were logged
}

// Open returns a manager whose bridge and rules are there. What containers of an
// earlier one have is left as it is until Restore, which must be called once
// before Connect.
func Open(ctx context.Context, o Options) (*Manager, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	m := &Manager{instance: o.Instance, log: o.Log, attached: map[string]*attachment{}, released: make(chan struct{}), warned: map[string]bool{}}
	number, _ := strconv.ParseUint(o.Instance, 16, 32) // was checked
	m.group = 0xbe<<24 | uint32(number)
	m.stopped, m.stop = context.WithCancel(context.WithoutCancel(ctx))
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
	if err := m.openBridge(ctx, o); err != nil {
		return err
	}
	m.ports = newPortTable(m.bridge.v6 != nil)
	if err := enableForwarding(m.log, m.bridge.v6 != nil); err != nil {
		return err
	}
	m.rules.bridges = []*bridge{m.bridge}
	there, err := m.rules.present()
	if err == nil && !there {
		err = m.rules.rebuild()
	}
	if err != nil {
		return err
	}
	return m.watch()
}

// openBridge loads the networks, or makes those that are always there, and the
// bridge's interface.
func (m *Manager) openBridge(ctx context.Context, o Options) error {
	list, err := loadState(o.StateDir)
	if err != nil {
		return err
	}
	fresh := list == nil
	if fresh {
		list = builtin(time.Now().UTC())
	}
	i := slices.IndexFunc(list, func(r record) bool { return r.Name == network.NetworkBridge })
	if i < 0 {
		return fmt.Errorf("%s in %s has no network %s", stateFile, o.StateDir, network.NetworkBridge)
	}
	m.bridge = &bridge{record: list[i]}
	changed, err := m.bridge.open(ctx, m.host, o)
	if err != nil {
		return err
	}
	list[i], m.networks = m.bridge.record, list
	if fresh || changed {
		return saveState(o.StateDir, list)
	}
	return nil
}

// Close ends the manager. What containers have stays, but for what only a process
// can do: until the next Open their ports are not bound on the host, and [::1]
// does not answer. If no container is connected, bridge and rules go too.
func (m *Manager) Close(ctx context.Context) error {
	m.stop()
	m.wg.Wait()
	m.mu.Lock()
	attached := slices.Collect(maps.Values(m.attached))
	m.mu.Unlock()
	var err error
	if !slices.ContainsFunc(attached, (*attachment).onBridge) {
		// The bridge first: the rules guard it.
		if err = m.host.do(deleteLink(m.bridge.Interface)); !exists(m.host, m.bridge.Interface) {
			err = nil
		}
		err = errors.Join(err, m.rules.remove())
	}
	for _, a := range attached {
		m.ports.release(a.reserved)
	}
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

// HostGateway returns the addresses by which containers of the bridge network
// reach the host: what host-gateway means in --add-host.
func (m *Manager) HostGateway() []netip.Addr {
	list := []netip.Addr{m.bridge.v4.gateway}
	if m.bridge.v6 != nil {
		list = append(list, m.bridge.v6.gateway)
	}
	return list
}
