package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"github.com/berth-registry/berth/runner"
)

// create makes a network that is removed when the test ends, if it is there yet.
func create(t testing.TB, m *Manager, name string, change ...func(*network.CreateRequest)) *lan {
	t.Helper()
	req := network.CreateRequest{Name: name}
	for _, f := range change {
		f(&req)
	}
	_, err := m.Create(t.Context(), req)
	must(t, err)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.find(name)
}

func internal(req *network.CreateRequest) { req.Internal = true }

func ipv6(req *network.CreateRequest) { req.EnableIPv6 = new(true) }

func option(name, value string) func(*network.CreateRequest) {
	return func(req *network.CreateRequest) {
		if req.Options == nil {
			req.Options = map[string]string{}
		}
		req.Options[name] = value
	}
}

func subnet(c ...network.IPAMConfig) func(*network.CreateRequest) {
	return func(req *network.CreateRequest) { req.IPAM = &network.IPAM{Config: c} }
}

func config(subnet string) network.IPAMConfig {
	return network.IPAMConfig{Subnet: netip.MustParsePrefix(subnet)}
}

// connectTo makes a container in networks, which serves its name on the TCP ports
// given. Its es is the endpoint in the first of them.
func connectTo(t testing.TB, m *Manager, name string, networks []string, asked network.PortMap, serve ...int) *box {
	t.Helper()
	ns, err := NewNetNS()
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	req := askFor(name, ns, asked)
	req.First, req.Networks = networks[0], map[string]*network.EndpointSettings{}
	for _, n := range networks {
		req.Networks[n] = nil
	}
	e, err := m.Connect(t.Context(), req)
	must(t, err)
	b := &box{Attached: Attached{ContainerID: req.ContainerID, Name: name, Endpoint: e}, ns: ns, es: e.Networks[networks[0]]}
	for _, port := range serve {
		serveTCP(t, ns, port, name)
	}
	return b
}

// in is the address of a container in a network.
func (b *box) in(name string, port int) string {
	return hostPort(b.Endpoint.Networks[name].IPAddress, port)
}

// join connects a container that lives to one more network.
func (b *box) join(t testing.TB, m *Manager, name string, es *network.EndpointSettings, asked network.PortMap) {
	t.Helper()
	e, err := m.Join(t.Context(), Request{
		ContainerID: b.ContainerID, Name: b.Name, NetNS: b.ns, Ports: asked,
		Networks: map[string]*network.EndpointSettings{name: es},
	})
	must(t, err)
	b.Endpoint = e
}

func (b *box) leave(t testing.TB, m *Manager, name string, asked network.PortMap) {
	t.Helper()
	e, err := m.Leave(t.Context(), b.ContainerID, name, b.ns, asked)
	must(t, err)
	b.Endpoint = e
}

// defaultRoute is the gateway of the container's default route, and its interface.
func (b *box) defaultRoute(t testing.TB, family int) string {
	t.Helper()
	in, err := openInside(b.ns)
	must(t, err)
	defer in.Close()
	list, err := dump(func() ([]netlink.Route, error) { return in.RouteList(nil, family) })
	must(t, err)
	var found []string
	for _, r := range list {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() && isZero(r.Dst.Mask) {
			link, err := in.LinkByIndex(r.LinkIndex)
			must(t, err)
			found = append(found, fmt.Sprint(r.Gw, " ", link.Attrs().Name))
		}
	}
	return strings.Join(found, ", ")
}

// Who reaches whom where there are several networks.
func TestReachBetweenNetworks(t *testing.T) {
	const call4, call6 = "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"
	if getSysctl(call4) == "" { // this kernel has no such thing
		testNetworks(t)
		return
	}
	for _, call := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+call, func(t *testing.T) {
			must(t, setSysctl(call4, call))
			must(t, setSysctl(call6, call))
			testNetworks(t)
		})
	}
}

func testNetworks(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	n1, n2 := create(t, m, "n1"), create(t, m, "n2", ipv6)
	in1 := create(t, m, "in1", internal)
	alone := create(t, m, "alone", option(optICC, "false"))
	local := create(t, m, "local", option(optHostBinding, "127.0.0.1"))
	a := connectTo(t, m, "a", []string{"n1"}, ports(t, "8080>80/tcp", "5353>53/udp"), 80, 99)
	serveUDP(t, a.ns, 53, "a")
	b := connectTo(t, m, "b", []string{"n1"}, nil, 80)
	c := connectTo(t, m, "c", []string{"n2"}, ports(t, "8090>80/tcp"), 80, 99)
	both := connectTo(t, m, "both", []string{"n1", "n2"}, nil, 80)
	plain := connect(t, m, "plain", nil, 80)
	inner := connectTo(t, m, "inner", []string{"in1"}, ports(t, "8100>80/tcp"), 80)
	inner2 := connectTo(t, m, "inner2", []string{"in1"}, nil, 80)
	gate := connectTo(t, m, "gate", []string{"n1", "in1"}, ports(t, "8110>80/tcp"), 80)
	al1 := connectTo(t, m, "al1", []string{"alone"}, ports(t, "8120>80/tcp"), 80, 99)
	al2 := connectTo(t, m, "al2", []string{"alone"}, nil, 80)
	connectTo(t, m, "lo", []string{"local"}, ports(t, "8130>80/tcp"), 80)
	serveTCP(t, w.outside, 80, "outside")
	serveTCP(t, nil, 7000, "host")
	for _, n := range []*lan{n1, n2, in1, alone, local} {
		w.routeFromOutside(t, n.v4.prefix, hostAddr4)
	}
	w.routeFromOutside(t, n2.v6.prefix, hostAddr6)
	c6 := func(port int) string { return hostPort(c.es.GlobalIPv6Address, port) }
	// As root in a container may: the internal network's gateway made a way out.
	addRoute(t, inner.ns, "default", in1.v4.gateway)
	check(t, []reach{
		{"same network", b.ns, "", a.in("n1", 99), "a"},
		{"same network, of two", b.ns, "", both.in("n1", 80), "both"},
		{"of two, to the one", both.ns, "", a.in("n1", 99), "a"},
		{"of two, to the other", both.ns, "", c.in("n2", 99), "c"},
		{"of two, to the other, IPv6", both.ns, "", c6(99), "c"},
		{"another network", b.ns, "", c.in("n2", 99), ""},
		{"another network, back", c.ns, "", a.in("n1", 99), ""},
		{"another network, at a published port", b.ns, "", c.in("n2", 80), ""},
		{"the bridge network", a.ns, "", hostPort(plain.es.IPAddress, 80), ""},
		{"from the bridge network", plain.ns, "", a.in("n1", 99), ""},
		{"another network's container, in one's own, by its other address", b.ns, "", both.in("n2", 80), ""},
		{"host", nil, "", a.in("n1", 99), "a"},
		{"host", nil, "", c6(99), "c"},
		{"outside", w.outside, "", a.in("n1", 99), ""},
		{"outside, at a published port", w.outside, "", a.in("n1", 80), ""},
		{"outside, IPv6", w.outside, "", c6(80), ""},
		{"outside, published", w.outside, "", hostAddr4 + ":8080", "a"},
		{"outside, published, UDP", w.outside, "udp", hostAddr4 + ":5353", "a"},
		{"outside, published", w.outside, "", hostAddr4 + ":8090", "c"},
		{"outside, published", w.outside, "", "[" + hostAddr6 + "]:8090", "c"},
		{"outside, published over IPv6, no IPv6 inside", w.outside, "", "[" + hostAddr6 + "]:8080", "a"},
		{"host, published over IPv6, no IPv6 inside", nil, "", "[::1]:8080", "a"},
		{"host, published over IPv6, no IPv6 inside, UDP", nil, "udp", "[::1]:5353", "a"},
		{"host, published", nil, "", "127.0.0.1:8080", "a"},
		{"host, published", nil, "", "[::1]:8090", "c"},
		{"container, published from another network", c.ns, "", hostAddr4 + ":8080", "a"},
		{"container, published from another network", c.ns, "", hostPort(n2.v4.gateway, 8080), "a"},
		{"container, published from the bridge network", plain.ns, "", hostAddr4 + ":8090", "c"},
		{"container, published from another network, UDP", c.ns, "udp", hostAddr4 + ":5353", "a"},
		{"container, itself", a.ns, "", hostAddr4 + ":8080", "a"},
		{"container, a neighbour", b.ns, "", hostAddr4 + ":8080", "a"},
		{"container, itself, IPv6", c.ns, "", "[" + hostAddr6 + "]:8090", "c"},
		{"container, outside", b.ns, "", outsideAddr4 + ":80", "outside"},
		{"container, outside, IPv6", c.ns, "", "[" + outsideAddr6 + "]:80", "outside"},
		{"container, the host", a.ns, "", hostAddr4 + ":7000", "host"},

		{"internal, each other", inner.ns, "", inner2.in("in1", 80), "inner2"},
		{"internal, outside", inner.ns, "", outsideAddr4 + ":80", ""},
		{"internal, another network", inner.ns, "", a.in("n1", 80), ""},
		{"internal, published by another network", inner.ns, "", hostPort(in1.v4.gateway, 8080), ""},
		{"internal, published by another network", inner.ns, "", hostAddr4 + ":8080", ""},
		{"internal, from another network", b.ns, "", inner.in("in1", 80), ""},
		{"internal, from outside", w.outside, "", inner.in("in1", 80), ""},
		{"internal, from the host", nil, "", inner.in("in1", 80), "inner"},
		{"internal, published", nil, "", "127.0.0.1:8100", ""},
		{"internal and not, published", w.outside, "", hostAddr4 + ":8110", "gate"},
		{"internal and not, outside", gate.ns, "", outsideAddr4 + ":80", "outside"},
		{"internal, who is in another too", inner2.ns, "", gate.in("in1", 80), "gate"},

		{"no icc, each other", al2.ns, "", al1.in("alone", 99), ""},
		{"no icc, published", al2.ns, "", hostAddr4 + ":8120", "al1"},
		{"no icc, itself", al1.ns, "", hostAddr4 + ":8120", "al1"},
		{"no icc, from the host", nil, "", al1.in("alone", 99), "al1"},
		{"no icc, outside", al1.ns, "", outsideAddr4 + ":80", "outside"},
		{"no icc, published, outside", w.outside, "", hostAddr4 + ":8120", "al1"},

		{"host binding of the network", nil, "", "127.0.0.1:8130", "lo"},
		{"host binding of the network", w.outside, "", hostAddr4 + ":8130", ""},
	})
	if len(inner.Endpoint.Ports[network.MustParsePort("80/tcp")]) > 0 {
		t.Errorf("a port of an internal network is shown as published: %v", inner.Endpoint.Ports)
	}
	if got := a.Endpoint.Ports[network.MustParsePort("80/tcp")]; len(got) != 2 {
		t.Errorf("published at %v", got)
	}
	// A rule of a neighbour's: packets for it are sent by the bridge's own address.
	addRoute(t, al2.ns, al1.es.IPAddress.String()+"/32", alone.v4.gateway)
	check(t, []reach{{"no icc, by the gateway", al2.ns, "", al1.in("alone", 99), ""}})
	if _, client, err := ask(c.ns, "tcp", outsideAddr4+":80", 5*time.Second); client != hostAddr4 {
		t.Errorf("outside sees a container as %q (%v)", client, err)
	}
	nft(t, "flush", "ruleset")
	for begin := time.Now(); ; {
		if got, _, _ := ask(nil, "tcp", "127.0.0.1:8080", 200*time.Millisecond); got == "a" {
			break
		}
		if time.Since(begin) > 2*time.Second {
			t.Fatal("after a flush nothing is published again")
		}
	}
	check(t, []reach{
		{"after a flush, same network", b.ns, "", a.in("n1", 99), "a"},
		{"after a flush, another network", b.ns, "", c.in("n2", 99), ""},
		{"after a flush, published", w.outside, "", hostAddr4 + ":8090", "c"},
		{"after a flush, internal, outside", inner.ns, "", outsideAddr4 + ":80", ""},
		{"after a flush, outside", w.outside, "", a.in("n1", 99), ""},
	})
}

// addRoute adds a route in a container.
func addRoute(t testing.TB, ns *os.File, dst string, gateway netip.Addr) {
	t.Helper()
	in, err := openInside(ns)
	must(t, err)
	defer in.Close()
	r := netlink.Route{Gw: gateway.AsSlice()}
	if dst != "default" {
		if r.Dst, err = netlink.ParseIPNet(dst); err != nil {
			t.Fatal(err)
		}
	}
	must(t, in.RouteAdd(&r))
}

func TestWithoutMasquerade(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	n := create(t, m, "n", option(optMasquerade, "false"), option(optMTU, "1400"), option(optBridge, "br-mine"), option(optPrefix, "net"))
	w.routeFromOutside(t, n.v4.prefix, hostAddr4)
	serveTCP(t, w.outside, 80, "outside")
	a := connectTo(t, m, "a", []string{"n"}, ports(t, "8080>80/tcp"), 80)
	if _, client, err := ask(a.ns, "tcp", outsideAddr4+":80", 5*time.Second); client != a.es.IPAddress.String() {
		t.Errorf("outside sees a container as %q (%v)", client, err)
	}
	check(t, []reach{{"itself", a.ns, "", hostAddr4 + ":8080", "a"}})
	link, err := netlink.LinkByName("br-mine")
	must(t, err)
	in, err := openInside(a.ns)
	must(t, err)
	defer in.Close()
	inner, err := in.LinkByName("net0")
	must(t, err)
	if link.Attrs().MTU != 1400 || inner.Attrs().MTU != 1400 {
		t.Errorf("MTU %d, inside %d", link.Attrs().MTU, inner.Attrs().MTU)
	}
	if got := getSysctl("net/ipv6/conf/br-mine/disable_ipv6"); got != "1" {
		t.Errorf("IPv6 of a bridge without: disable_ipv6 is %q", got)
	}
}

// A bridge of the host's that a network uses is left as it was.
func TestBorrowedBridge(t *testing.T) {
	newWorld(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "theirs0"
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	link, err := netlink.LinkByName("theirs0")
	must(t, err)
	t.Cleanup(func() { must(t, netlink.LinkDel(link)) })
	m := openManager(t, Options{})
	create(t, m, "n", option(optBridge, "theirs0"))
	a := connectTo(t, m, "a", []string{"n"}, nil, 80)
	check(t, []reach{{"", nil, "", a.in("n", 80), "a"}})
	must(t, m.Disconnect(t.Context(), a.ContainerID))
	_, err = m.Remove(t.Context(), "n")
	must(t, err)
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) > 0 {
		t.Errorf("the bridge of the host's has %v (%v)", addrs, err)
	}
	must(t, setUpVeth(t, "notbridge"))
	if _, err := m.Create(t.Context(), network.CreateRequest{Name: "n", Options: map[string]string{optBridge: "notbridge"}}); err == nil || !strings.Contains(err.Error(), "no bridge") {
		t.Errorf("an interface that is no bridge: %v", err)
	}
	if !exists(m.host, "notbridge") {
		t.Error("somebody else's interface was deleted")
	}
}

func setUpVeth(t testing.TB, name string) error {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: name + "p"}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	return netlink.LinkAdd(link)
}

func TestCreateRefused(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{Subnet: netip.MustParsePrefix("10.91.0.0/16")})
	create(t, m, "there", subnet(config("10.92.0.0/24")), option(optBridge, "br-there"))
	aux := config("10.1.0.0/16")
	aux.AuxAddress = map[string]netip.Addr{"router": netip.MustParseAddr("10.2.0.1")}
	gw := config("10.1.0.0/16")
	gw.Gateway = netip.MustParseAddr("fd00::1")
	rng := config("10.1.0.0/16")
	rng.IPRange = netip.MustParsePrefix("10.0.0.0/8")
	for _, c := range []struct {
		what   string
		change func(*network.CreateRequest)
		kind   error
		want   string
	}{
		{"name", func(r *network.CreateRequest) { r.Name = "there" }, runner.ErrConflict, "network with name there already exists"},
		{"predefined", func(r *network.CreateRequest) { r.Name = "host" }, runner.ErrForbidden, "operation is not permitted on predefined host network"},
		{"no name", func(r *network.CreateRequest) { r.Name = " " }, runner.ErrInvalid, "name is empty"},
		{"bad name", func(r *network.CreateRequest) { r.Name = "a/../b" }, runner.ErrInvalid, "invalid name"},
		{"driver", func(r *network.CreateRequest) { r.Driver = "weave" }, runner.ErrNotFound, `plugin "weave" not found`},
		{"host", func(r *network.CreateRequest) { r.Driver = "host" }, runner.ErrForbidden, `only one instance of "host" network is allowed`},
		{"null", func(r *network.CreateRequest) { r.Driver = "null" }, runner.ErrForbidden, `only one instance of "null" network is allowed`},
		{"overlay", func(r *network.CreateRequest) { r.Driver = "overlay" }, runner.ErrForbidden, "not a swarm manager"},
		{"scope", func(r *network.CreateRequest) { r.Scope = "swarm" }, runner.ErrForbidden, "not a swarm manager"},
		{"config", func(r *network.CreateRequest) { r.ConfigOnly = true }, runner.ErrNotImplemented, "not supported"},
		{"option", option("com.example.x", "1"), runner.ErrInvalid, `unknown option "com.example.x" of network driver bridge`},
		{"ICC", option(optICC, "perhaps"), runner.ErrInvalid, "failed to parse " + optICC + ` value: "perhaps"`},
		{"MTU", option(optMTU, "7"), runner.ErrInvalid, "failed to parse " + optMTU},
		{"MTU of IPv6", func(r *network.CreateRequest) { option(optMTU, "700")(r); ipv6(r) }, runner.ErrInvalid, "1280"},
		{"bridge", option(optBridge, "br-0123456789abcdef"), runner.ErrInvalid, "failed to parse " + optBridge},
		{"bridge's name", option(optBridge, "a/b"), runner.ErrInvalid, "failed to parse " + optBridge},
		{"bridge of another", option(optBridge, "br-there"), runner.ErrForbidden, "networks have same bridge name"},
		{"gateway mode", option(optGateway4, "routed"), runner.ErrInvalid, "the gateway modes are nat and isolated"},
		{"isolated", option(optGateway4, "isolated"), runner.ErrInvalid, "can only be used for an internal network"},
		{"overlap", subnet(config("10.92.0.0/25")), runner.ErrForbidden, "Pool overlaps with other one on this address space"},
		{"overlap with bridge", subnet(config("10.0.0.0/8")), runner.ErrForbidden, "Pool overlaps with other one on this address space"},
		{"host bits", subnet(config("10.1.0.1/16")), runner.ErrInvalid, "invalid subnet 10.1.0.1/16: it should be 10.1.0.0/16"},
		{"aux", subnet(aux), runner.ErrInvalid, "invalid auxiliary address router: parent subnet 10.1.0.0/16 doesn't contain this address"},
		{"gateway", subnet(gw), runner.ErrInvalid, "invalid gateway fd00::1: parent subnet is an IPv4 block"},
		{"range", subnet(rng), runner.ErrInvalid, "invalid ip-range 10.0.0.0/8: CIDR block is bigger than its parent subnet 10.1.0.0/16"},
		{"two subnets", subnet(config("10.1.0.0/16"), config("10.2.0.0/16")), runner.ErrForbidden, "bridge driver doesn't support multiple subnets"},
		{"no family", func(r *network.CreateRequest) { r.EnableIPv4 = new(false) }, runner.ErrInvalid, "IPv4 or IPv6 must be enabled"},
		{"IPAM driver", func(r *network.CreateRequest) { r.IPAM = &network.IPAM{Driver: "dhcp"} }, runner.ErrNotFound, `plugin "dhcp" not found`},
		{"IPAM option", func(r *network.CreateRequest) { r.IPAM = &network.IPAM{Options: map[string]string{"a": "b"}} }, runner.ErrInvalid, `unknown option "a"`},
		{"parent", func(r *network.CreateRequest) { r.Driver = "macvlan"; option("parent", "nowhere")(r) }, runner.ErrInvalid, "invalid subinterface vlan name nowhere"},
		{"loopback", func(r *network.CreateRequest) { r.Driver = "macvlan"; option("parent", "lo")(r) }, runner.ErrInvalid, "loopback interface is not a valid macvlan parent link"},
		{"VLAN", func(r *network.CreateRequest) { r.Driver = "macvlan"; option("parent", "up0.5000")(r) }, runner.ErrInvalid, "vlan id must be between 1-4094"},
		{"mode", func(r *network.CreateRequest) { r.Driver = "macvlan"; option(optMacvlanMode, "x")(r) }, runner.ErrInvalid, "requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan driver default"},
		{"ipvlan mode", func(r *network.CreateRequest) { r.Driver = "ipvlan"; option(optIPvlanMode, "l4")(r) }, runner.ErrInvalid, "'l2' mode is the ipvlan driver default"},
		{"option of another driver", func(r *network.CreateRequest) { r.Driver = "ipvlan"; option(optICC, "false")(r) }, runner.ErrInvalid, "unknown option"},
	} {
		before, ifs := nft(t, "list", "table", "inet", m.rules.name), linkNames(t)
		req := network.CreateRequest{Name: "new"}
		c.change(&req)
		_, err := m.Create(t.Context(), req)
		if !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
		if after := nft(t, "list", "table", "inet", m.rules.name); after != before {
			t.Errorf("%s: rules are left:\n%s", c.what, after)
		}
		if after := linkNames(t); !slices.Equal(after, ifs) {
			t.Errorf("%s: interfaces are left: %v, were %v", c.what, after, ifs)
		}
	}
	list, err := m.List(t.Context(), runner.Filters{"type": {"custom"}})
	if err != nil || len(list) != 1 {
		t.Errorf("networks are left: %v, %v", list, err)
	}
	if list, err := loadState(m.stateDir); err != nil || len(list) != 4 {
		t.Errorf("records are left: %v, %v", list, err)
	}
}

func linkNames(t testing.TB) []string {
	t.Helper()
	names, err := listLinks("")
	must(t, err)
	slices.Sort(names)
	return names
}

// What is asked of addresses is given, and shown.
func TestAddressing(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	c4 := network.IPAMConfig{
		Subnet: netip.MustParsePrefix("10.93.0.0/24"), IPRange: netip.MustParsePrefix("10.93.0.64/30"), Gateway: netip.MustParseAddr("10.93.0.254"),
		AuxAddress: map[string]netip.Addr{"router": netip.MustParseAddr("10.93.0.65")},
	}
	create(t, m, "n", ipv6, subnet(c4, config("fd93::/64")), func(r *network.CreateRequest) { r.Labels = map[string]string{"a": "b"} })
	var got []string
	for i := range 3 {
		b := connectTo(t, m, fmt.Sprint("c", i), []string{"n"}, nil)
		got = append(got, b.es.IPAddress.String())
		if b.es.Gateway.String() != "10.93.0.254" || b.es.IPv6Gateway.String() != "fd93::1" || b.es.IPPrefixLen != 24 {
			t.Errorf("got %+v", b.es)
		}
	}
	if s := strings.Join(got, " "); s != "10.93.0.64 10.93.0.66 10.93.0.67" {
		t.Errorf("given %s", s)
	}
	ns, err := NewNetNS()
	must(t, err)
	defer ns.Close()
	req := askFor("more", ns, nil)
	req.Networks = map[string]*network.EndpointSettings{"n": nil}
	if _, err := m.Connect(t.Context(), req); !errors.Is(err, runner.ErrUnavailable) {
		t.Errorf("a fourth address of a range of three: %v", err)
	}
	req.Networks["n"] = &network.EndpointSettings{
		IPAMConfig: &network.EndpointIPAMConfig{
			IPv4Address: netip.MustParseAddr("10.93.0.9"), IPv6Address: netip.MustParseAddr("fd93::99"), LinkLocalIPs: addrs("169.254.7.7", "fe80::77"),
		},
		DriverOpts: map[string]string{optIfName: "data", optSysctls: "net.ipv4.conf.IFNAME.log_martians=1"},
	}
	e, err := m.Connect(t.Context(), req)
	must(t, err)
	in, err := openInside(ns)
	must(t, err)
	defer in.Close()
	link, err := in.LinkByName("data")
	must(t, err)
	have, err := in.AddrList(link, netlink.FAMILY_ALL)
	must(t, err)
	var shown []string
	for _, a := range have {
		shown = append(shown, a.IPNet.String())
	}
	for _, want := range []string{"10.93.0.9/24", "fd93::99/64", "169.254.7.7/16", "fe80::77/64"} {
		if !slices.Contains(shown, want) {
			t.Errorf("the interface has %v, not %s", shown, want)
		}
	}
	must(t, inNetNS(ns, func() error {
		if got := getSysctl("net/ipv4/conf/data/log_martians"); got != "1" {
			return fmt.Errorf("log_martians is %q", got)
		}
		return nil
	}))
	if e.Networks["n"].IPAddress.String() != "10.93.0.9" {
		t.Errorf("got %+v", e.Networks["n"])
	}
	v, err := m.Inspect(t.Context(), "n")
	must(t, err)
	want := []network.IPAMConfig{c4, {Subnet: netip.MustParsePrefix("fd93::/64"), Gateway: netip.MustParseAddr("fd93::1")}}
	if !reflect.DeepEqual(v.IPAM.Config, want) || v.Labels["a"] != "b" || !v.EnableIPv6 || !v.EnableIPv4 || len(v.Containers) != 4 {
		t.Errorf("inspect shows %+v", v)
	}
}

// A network of IPv6 alone.
func TestOnlyIPv6(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	create(t, m, "six", ipv6, func(r *network.CreateRequest) { r.EnableIPv4 = new(false) })
	a := connectTo(t, m, "a", []string{"six"}, ports(t, "8080>80/tcp"), 80)
	b := connectTo(t, m, "b", []string{"six"}, nil)
	if a.es.IPAddress.IsValid() || !a.es.GlobalIPv6Address.IsValid() || a.es.MacAddress.String() == b.es.MacAddress.String() {
		t.Errorf("got %+v", a.es)
	}
	serveTCP(t, w.outside, 80, "outside")
	check(t, []reach{
		{"each other", b.ns, "", hostPort(a.es.GlobalIPv6Address, 80), "a"},
		{"outside", a.ns, "", "[" + outsideAddr6 + "]:80", "outside"},
		{"published", w.outside, "", "[" + hostAddr6 + "]:8080", "a"},
		{"published, IPv4", w.outside, "", hostAddr4 + ":8080", "a"},
		{"published, IPv4", nil, "", "127.0.0.1:8080", "a"},
	})
}

// The host's pools come to an end, and what is removed is free again.
func TestManyNetworks(t *testing.T) {
	newWorld(t)
	dir := t.TempDir()
	m := openManager(t, Options{StateDir: dir})
	begin, n := time.Now(), 0
	for ; ; n++ {
		_, err := m.Create(t.Context(), network.CreateRequest{Name: fmt.Sprint("n", n)})
		if err != nil {
			if !errors.Is(err, runner.ErrForbidden) || !strings.Contains(err.Error(), "all predefined address pools have been fully subnetted") {
				t.Error(err)
			}
			break
		}
	}
	t.Logf("%d networks in %v", n, time.Since(begin).Round(time.Millisecond))
	if n < 25 {
		t.Errorf("only %d networks", n)
	}
	m.mu.Lock()
	var all []netip.Prefix
	for _, n := range m.lans {
		for _, s := range n.subnets() {
			if overlaps(s, all) {
				t.Errorf("%s is given twice", s)
			}
			all = append(all, s)
		}
	}
	m.mu.Unlock()
	_, err := m.Remove(t.Context(), "n3")
	must(t, err)
	create(t, m, "again")
	removed, err := m.Prune(t.Context(), time.Time{}, func(map[string]string) bool { return true })
	if err != nil || len(removed) != n {
		t.Errorf("pruned %d of %d: %v", len(removed), n, err)
	}
	if names, err := listLinks("br-"); err != nil || len(names) != 1 {
		t.Errorf("bridges are left: %v, %v", names, err)
	}
	if files, err := filepath.Glob(dir + "/*"); err != nil || len(files) != 1 {
		t.Errorf("on disk are %v, %v", files, err)
	}
}

func TestRemove(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	n := create(t, m, "n")
	a := connectTo(t, m, "a", []string{"n"}, nil)
	_, err := m.Remove(t.Context(), "n")
	want := fmt.Sprintf("error while removing network: network n has active endpoints (name:%q id:%q)", "a", a.es.EndpointID[:12])
	if !errors.Is(err, runner.ErrForbidden) || err.Error() != want {
		t.Errorf("in use: %v\nwant %s", err, want)
	}
	for ref, kind := range map[string]error{"bridge": runner.ErrForbidden, "host": runner.ErrForbidden, "none": runner.ErrForbidden, "nothing": runner.ErrNotFound, "": runner.ErrNotFound} {
		if _, err := m.Remove(t.Context(), ref); !errors.Is(err, kind) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	must(t, m.Disconnect(t.Context(), a.ContainerID))
	was, err := m.Remove(t.Context(), n.ID[:7])
	if err != nil || was.Name != "n" {
		t.Errorf("%v, %v", was.Name, err)
	}
	if exists(m.host, n.Interface) {
		t.Error("the bridge is left")
	}
	if rules := nft(t, "list", "table", "inet", m.rules.name); strings.Contains(rules, n.Interface) {
		t.Errorf("rules are left:\n%s", rules)
	}
	req := askFor("late", a.ns, nil)
	req.Networks = map[string]*network.EndpointSettings{"n": nil}
	if _, err := m.Connect(t.Context(), req); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("connected to a network that is gone: %v", err)
	}
}
