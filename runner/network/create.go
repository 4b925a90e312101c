package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// notSwarm is what Docker says to who asks for what only Swarm has.
const notSwarm = `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`

const nameChars = "[a-zA-Z0-9][a-zA-Z0-9_.-]"

var validName = regexp.MustCompile("^" + nameChars + "*$")

// Create makes a network and returns its ID. When it returns the network is on
// disk, and containers can be connected to it. A name that is taken is
// runner.ErrConflict, a subnet that is runner.ErrForbidden.
func (m *Manager) Create(ctx context.Context, req network.CreateRequest) (id string, err error) {
	r, want4, want6, err := newRecord(req)
	if err != nil {
		return "", err
	}
	m.changing.Lock()
	defer m.changing.Unlock()
	m.mu.Lock()
	others := slices.Clone(m.lans)
	m.mu.Unlock()
	if slices.ContainsFunc(others, func(n *lan) bool { return n.Name == r.Name }) {
		return "", runner.Errorf(runner.ErrConflict, "network with name %s already exists", r.Name)
	}
	// Until the interface is there another instance would take the subnet for free.
	unlock, err := lockSubnets(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := r.address(others, want4, want6); err != nil {
		return "", err
	}
	n, err := m.newNetwork(r, others)
	if err != nil {
		return "", err
	}
	return r.ID, m.build(n, others)
}

// newRecord makes of a request the record of a network, but for subnets and
// gateways that were not asked for. It is a pure function but for the ID and the time.
func newRecord(req network.CreateRequest) (r record, want4, want6 bool, err error) {
	fail := func(kind error, format string, args ...any) (record, bool, bool, error) {
		return record{}, false, false, runner.Errorf(kind, format, args...)
	}
	if req.Driver == "" || req.Driver == network.NetworkDefault {
		req.Driver = driverBridge
	}
	switch {
	case predefined(req.Name):
		return fail(runner.ErrForbidden, "operation is not permitted on predefined %s network", req.Name)
	case strings.TrimSpace(req.Name) == "":
		return fail(runner.ErrInvalid, "invalid name: name is empty")
	case !validName.MatchString(req.Name) || len(req.Name) > 255:
		return fail(runner.ErrInvalid, "invalid name (%s): only %s are allowed", req.Name, nameChars)
	case req.Driver == "overlay", req.Scope == "swarm", req.Scope == "global", req.Ingress:
		return fail(runner.ErrForbidden, "%s", notSwarm)
	case req.Scope != "" && req.Scope != "local":
		return fail(runner.ErrInvalid, "invalid scope: %s", req.Scope)
	case req.ConfigOnly, req.ConfigFrom != nil && req.ConfigFrom.Network != "":
		return fail(runner.ErrNotImplemented, "configuration-only networks are not supported by Berth")
	}
	switch req.Driver {
	case driverBridge, driverMacvlan, driverIPvlan:
	case driverHost, driverNull, network.NetworkNone:
		return fail(runner.ErrForbidden, "only one instance of %q network is allowed", req.Driver)
	default:
		return fail(runner.ErrNotFound, "plugin %q not found", req.Driver)
	}
	if _, err := parseOptions(req.Driver, req.Internal, req.Options); err != nil {
		return record{}, false, false, err
	}
	want4, want6 = wants(req.EnableIPv4, req.Options[optIPv4], true), wants(req.EnableIPv6, req.Options[optIPv6], false)
	r = record{
		ID: newID(), Name: req.Name, Driver: req.Driver, Created: time.Now().UTC(),
		Internal: req.Internal, Attachable: req.Attachable, Options: req.Options, Labels: req.Labels,
	}
	r.IPv4, r.IPv6, err = parseIPAM(req.Driver, req.IPAM, want4, want6)
	return r, want4, want6, err
}

// wants says whether a family of addresses is wanted. The option has been checked.
func wants(asked *bool, option string, otherwise bool) bool {
	if asked != nil {
		return *asked
	}
	if on, err := strconv.ParseBool(option); err == nil {
		return on
	}
	return otherwise
}

// address completes the record with subnets and gateways: those asked for, if no
// other network has them, or some that are free on the host.
func (r *record) address(others []*lan, want4, want6 bool) error {
	var ours []netip.Prefix
	for _, n := range others {
		ours = append(ours, n.subnets()...)
	}
	for _, a := range []*addressing{r.IPv4, r.IPv6} {
		if a != nil && overlaps(a.Subnet, ours) {
			return runner.Errorf(runner.ErrForbidden, "invalid pool request: Pool overlaps with other one on this address space")
		}
	}
	if want6 && !hasIPv6() {
		return runner.Errorf(runner.ErrInvalid, "the host has no IPv6")
	}
	if want4 && r.IPv4 == nil {
		inUse, err := routes("")
		if err != nil {
			return err
		}
		subnet, err := chooseSubnet(append(inUse, ours...))
		if err != nil {
			return err
		}
		r.IPv4 = &addressing{Subnet: subnet}
	}
	if want6 && r.IPv6 == nil {
		subnet := randomULA()
		for overlaps(subnet, ours) {
			subnet = randomULA()
		}
		r.IPv6 = &addressing{Subnet: subnet}
	}
	return r.addGateways()
}

// addGateways gives a bridged network the gateways that were not asked for: they
// are the host's addresses in it. Those of macvlan and ipvlan are others' addresses,
// which nobody here can choose.
func (r *record) addGateways() (err error) {
	if r.Driver != driverBridge {
		return nil
	}
	for _, a := range []*addressing{r.IPv4, r.IPv6} {
		if a == nil || a.Gateway.IsValid() {
			continue
		}
		if a.Gateway, err = a.firstFree(); err != nil {
			return err
		}
	}
	return nil
}

// newNetwork makes of a complete record the network, whose interface is not made
// yet.
func (m *Manager) newNetwork(r record, others []*lan) (*lan, error) {
	n, err := newLan(r)
	if err != nil {
		return nil, err
	}
	if n.v6 != nil && n.mtu != 0 && n.mtu < 1280 {
		return nil, runner.Errorf(runner.ErrInvalid, "an MTU of %d is too small for IPv6, which needs 1280", n.mtu)
	}
	prefix, asked := "br-", n.bridge
	if !n.bridged() {
		prefix, asked = "dm-", n.parent
	}
	if n.Interface = asked; asked == "" {
		n.Interface = prefix + n.ID[:12]
	}
	n.Borrowed = exists(m.host, n.Interface)
	if !n.bridged() {
		if asked != "" && !n.Borrowed {
			if _, _, err := vlanOf(asked); err != nil {
				return nil, err
			}
		}
		if err := n.checkParent(others); err != nil {
			return nil, err
		}
		return n, nil
	}
	for _, o := range others {
		if o.Interface == n.Interface {
			return nil, runner.Errorf(runner.ErrForbidden, "cannot create network %s (%s): it conflicts with network %s (%s): networks have same bridge name", n.ID, n.Interface, o.ID, o.Interface)
		}
	}
	return n, nil
}

// build makes a network whose record is complete: on disk, then on the host. If
// the host's part fails, nothing is left.
func (m *Manager) build(n *lan, others []*lan) error {
	if err := m.save(append(others, n)); err != nil {
		return err
	}
	err := n.ensure(m.host)
	if err == nil && n.bridged() {
		err = m.rules.open(n.segment())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("create network %s: %w", n.Name, err), n.drop(m.host), m.save(others))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lans = append(m.lans, n)
	return nil
}
