package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

var port80 = network.MustParsePort("80/tcp")

// Interfaces, default routes and ports follow what a container is connected to.
func TestJoinAndLeave(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	nb, na := create(t, m, "nb"), create(t, m, "na", ipv6)
	create(t, m, "inner", internal)
	serveTCP(t, w.outside, 80, "outside")
	asked := ports(t, "8080>80/tcp", ">81/tcp")
	c := connectTo(t, m, "c", []string{"nb"}, asked, 80, 81)
	other := connectTo(t, m, "other", []string{"na"}, nil, 80)
	port81 := c.Endpoint.Ports[network.MustParsePort("81/tcp")][0].HostPort
	route := func(want4, want6 string) {
		t.Helper()
		if got := c.defaultRoute(t, netlink.FAMILY_V4); got != want4 {
			t.Errorf("default route %q, want %q", got, want4)
		}
		if got := c.defaultRoute(t, netlink.FAMILY_V6); got != want6 {
			t.Errorf("default route of IPv6 %q, want %q", got, want6)
		}
	}
	published := func(want string) {
		t.Helper()
		check(t, []reach{
			{"published", w.outside, "", hostAddr4 + ":8080", want},
			{"published", nil, "", "127.0.0.1:8080", want},
			{"published", nil, "", "[::1]:8080", want},
			{"published", nil, "", "127.0.0.1:" + port81, want},
		})
	}
	gwA, gwA6, gwB := na.v4.gateway.String(), na.v6.gateway.String(), nb.v4.gateway.String()
	route(gwB+" eth0", "")
	published("c")

	c.join(t, m, "inner", nil, asked)
	route(gwB+" eth0", "")
	// The name comes before the other's.
	c.join(t, m, "na", &network.EndpointSettings{Aliases: []string{"Alias"}}, asked)
	route(gwA+" eth2", gwA6+" eth2")
	published("c")
	check(t, []reach{
		{"in the new network", other.ns, "", c.in("na", 80), "c"},
		{"in the old network, from the host", nil, "", c.in("nb", 80), "c"},
		{"outside", c.ns, "", outsideAddr4 + ":80", "outside"},
		{"outside", c.ns, "", "[" + outsideAddr6 + "]:80", "outside"},
	})
	if _, err := m.Join(t.Context(), Request{ContainerID: c.ContainerID, NetNS: c.ns, Networks: map[string]*network.EndpointSettings{"na": nil}}); !errors.Is(err, runner.ErrForbidden) || err.Error() != "endpoint with name c already exists in network na" {
		t.Errorf("joined twice: %v", err)
	}
	if got := c.Endpoint.Ports[network.MustParsePort("81/tcp")][0].HostPort; got != port81 {
		t.Errorf("a port that was chosen is %s, was %s", got, port81)
	}
	c.leave(t, m, "nb", asked)
	route(gwA+" eth2", gwA6+" eth2")
	published("c")
	// A higher priority beats the name, and the name of an interface is free again.
	c.join(t, m, "nb", &network.EndpointSettings{GwPriority: 1}, asked)
	route(gwB+" eth0", gwA6+" eth2")
	published("c")
	c.leave(t, m, "nb", asked)
	c.leave(t, m, "na", asked)
	route("", "")
	published("")
	if len(c.Endpoint.Ports[port80]) != 0 || len(c.Endpoint.Networks) != 1 {
		t.Errorf("left with %+v", c.Endpoint)
	}
	c.leave(t, m, "inner", asked)
	if _, err := m.Leave(t.Context(), c.ContainerID, "na", c.ns, nil); !errors.Is(err, runner.ErrForbidden) || !strings.Contains(err.Error(), "is not connected to network na") {
		t.Errorf("left twice: %v", err)
	}
	for _, name := range []string{"na", "nb", "inner"} {
		if v, err := m.Inspect(t.Context(), name); err != nil || len(v.Containers) != map[string]int{"na": 1}[name] {
			t.Errorf("%s has %v (%v)", name, v.Containers, err)
		}
	}
	if got := countLinks(t, m); got != 1 {
		t.Errorf("%d interfaces, want 1", got)
	}
	if rules := nft(t, "list", "map", "inet", m.rules.name, "ports4"); strings.Contains(rules, "elements") {
		t.Errorf("rules are left: %s", rules)
	}
	c.join(t, m, "bridge", nil, asked)
	route(m.bridge.v4.gateway.String()+" eth0", m.bridge.v6.gateway.String()+" eth0")
	port81 = c.Endpoint.Ports[network.MustParsePort("81/tcp")][0].HostPort
	published("c")
}

// What cannot be joined changes nothing.
func TestJoinRefused(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	create(t, m, "nb")
	create(t, m, "na", subnet(config("10.94.0.0/29")))
	c := connectTo(t, m, "c", []string{"nb"}, ports(t, "8080>80/tcp"), 80)
	h := Request{ContainerID: newID(), Name: "h", Networks: map[string]*network.EndpointSettings{"host": nil}}
	_, err := m.Connect(t.Context(), h)
	must(t, err)
	before, used := nft(t, "list", "table", "inet", m.rules.name), len(m.find("na").v4.used)
	for _, r := range []struct {
		id, name string
		es       *network.EndpointSettings
		ports    network.PortMap
		want     string
	}{
		{c.ContainerID, "nowhere", nil, nil, "network nowhere not found"},
		{newID(), "na", nil, nil, "is not running"},
		{c.ContainerID, "host", nil, nil, "cannot be connected to any other network"},
		{h.ContainerID, "na", nil, nil, "cannot be connected to any other network"},
		{c.ContainerID, "na", &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.95.0.1")}}, nil, "no configured subnet contains IP address 10.95.0.1"},
		{c.ContainerID, "na", &network.EndpointSettings{DriverOpts: map[string]string{optIfName: "eth0"}}, nil, "file exists"},
		{c.ContainerID, "na", &network.EndpointSettings{DriverOpts: map[string]string{optSysctls: "net.ipv4.conf.IFNAME.no_such=1"}}, nil, "no_such"},
		{c.ContainerID, "na", &network.EndpointSettings{DriverOpts: map[string]string{optSysctls: "net.ipv4.ip_forward=1"}}, nil, "unrecognised network interface sysctl"},
		{c.ContainerID, "na", &network.EndpointSettings{MacAddress: network.HardwareAddr{1, 2, 3, 4, 5, 6}}, nil, "invalid MAC address"},
	} {
		_, err := m.Join(t.Context(), Request{ContainerID: r.id, Name: "c", NetNS: c.ns, Ports: r.ports, Networks: map[string]*network.EndpointSettings{r.name: r.es}})
		if err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%s %+v: %v, want %s", r.name, r.es, err, r.want)
		}
		if got := len(m.find("na").v4.used); got != used {
			t.Errorf("%s: an address is lost", r.want)
		}
	}
	if got := countLinks(t, m); got != 1 {
		t.Errorf("%d interfaces, want 1", got)
	}
	if after := nft(t, "list", "table", "inet", m.rules.name); after != before {
		t.Errorf("rules have changed:\n%s", after)
	}
	check(t, []reach{{"still published", nil, "", "127.0.0.1:8080", "c"}})
}

// Names are those of containers that one shares a network with.
func TestLookup(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	create(t, m, "n1", ipv6)
	create(t, m, "n2")
	create(t, m, "in1", internal)
	asker := connectTo(t, m, "asker", []string{"n1"}, nil)
	web := connectTo(t, m, "Web", []string{"n1", "n2"}, nil)
	far := connectTo(t, m, "far", []string{"n2"}, nil)
	plain := connect(t, m, "plain", nil)
	closed := connectTo(t, m, "closed", []string{"in1"}, nil)
	alias := func(name string) *box {
		ns, err := NewNetNS()
		must(t, err)
		t.Cleanup(func() { _ = ns.Close() })
		req := askFor(name, ns, nil)
		req.Hostname = "host-" + name
		req.Networks = map[string]*network.EndpointSettings{"n1": {Aliases: []string{"svc", "a.b"}, Links: []string{"web:db", far.ContainerID + ":far"}}}
		e, err := m.Connect(t.Context(), req)
		must(t, err)
		return &box{Attached: Attached{ContainerID: req.ContainerID, Name: name, Endpoint: e}, ns: ns, es: e.Networks["n1"]}
	}
	s1, s2 := alias("s1"), alias("s2")
	find := func(from *box, name string, want ...*box) {
		t.Helper()
		got, found := m.Lookup(from.ContainerID, name)
		var list, list6 []netip.Addr
		for _, b := range want {
			list = append(list, b.Endpoint.Networks["n1"].IPAddress)
			list6 = append(list6, b.Endpoint.Networks["n1"].GlobalIPv6Address)
		}
		slices.SortFunc(got.V4, netip.Addr.Compare)
		if found != (len(want) > 0) || !slices.Equal(got.V4, list) || !slices.Equal(got.V6, list6) || got.Moves {
			t.Errorf("%s is for %s %+v, %v, want %v, %v", name, from.Name, got, found, list, list6)
		}
	}
	find(asker, "web", web)
	find(asker, "WEB.", web)
	find(asker, "web.n1", web)
	find(asker, web.ContainerID[:12], web)
	find(asker, "web.n2")
	find(asker, "far")
	find(asker, "plain")
	find(asker, "svc", s1, s2)
	find(asker, "a.b", s1, s2)
	find(asker, "host-s1", s1)
	find(asker, "db")
	find(s1, "db", web)
	find(asker, "asker", asker)
	find(plain, "web")
	find(closed, "web")
	find(&box{Attached: Attached{ContainerID: "none"}}, "web")
	if got, found := m.Lookup(far.ContainerID, "web"); !found || got.V4[0] != web.Endpoint.Networks["n2"].IPAddress {
		t.Errorf("web is for far %v, %v", got, found)
	}
	for _, r := range []struct {
		from *box
		addr netip.Addr
		want string
	}{
		{asker, web.es.IPAddress, "Web.n1"}, {asker, web.es.GlobalIPv6Address, "Web.n1"}, {far, web.es.IPAddress, ""}, {asker, far.es.IPAddress, ""}, {asker, netip.MustParseAddr("192.0.2.9"), ""},
	} {
		if name, found := m.Reverse(r.from.ContainerID, r.addr); name != r.want || found != (r.want != "") {
			t.Errorf("%s is for %s %q, %v, want %q", r.addr, r.from.Name, name, found, r.want)
		}
	}
	for b, want := range map[*box]bool{asker: true, plain: true, closed: false} {
		if got := m.External(b.ContainerID); got != want {
			t.Errorf("%s may ask outside: %v", b.Name, got)
		}
	}
	if e, ok := m.Rename(web.ContainerID, "new"); !ok || e.Networks["n1"].DNSNames[0] != "new" || web.es.DNSNames[0] != "Web" {
		t.Errorf("renamed: %+v, %v", e.Networks["n1"], ok)
	}
	find(asker, "web")
	find(asker, "new", web)
	must(t, m.Disconnect(t.Context(), s1.ContainerID))
	find(asker, "svc", s2)
	s2.leave(t, m, "n1", nil)
	find(asker, "svc")
	find(s2, "asker")
}

// A daemon that is killed finds its networks and what containers have in them.
func TestRestoreOfNetworks(t *testing.T) {
	w := newWorld(t)
	o := Options{Instance: "0c0fe0", StateDir: t.TempDir()}
	m := openManager(t, o)
	na := create(t, m, "na", ipv6)
	nb := create(t, m, "nb", option(optICC, "false"))
	create(t, m, "gone")
	asked := ports(t, "8080>80/tcp", "8081>80/udp")
	c := connectTo(t, m, "c", []string{"nb", "na"}, asked, 80)
	serveUDP(t, c.ns, 80, "c")
	d := connectTo(t, m, "d", []string{"na"}, nil, 80)
	dead := connectTo(t, m, "dead", []string{"na"}, ports(t, "8090>80/tcp"), 80)
	half := connectTo(t, m, "half", []string{"na"}, nil, 80)
	recorded := half.Attached
	half.join(t, m, "nb", nil, nil) // and the daemon ends before it is recorded
	crash(m)
	must(t, netlink.LinkDel(linkOf(t, m.find("gone").Interface)))
	next := openManager(t, o)
	must(t, next.Restore(t.Context(), []Attached{c.Attached, d.Attached, recorded}))
	for _, old := range []*lan{na, nb} {
		n := next.find(old.Name)
		if n == nil || n.ID != old.ID || n.Interface != old.Interface || !slices.Equal(n.subnets(), old.subnets()) {
			t.Fatalf("the network was %+v, and is %+v", old.record, n)
		}
	}
	check(t, []reach{
		{"published", w.outside, "", hostAddr4 + ":8080", "c"},
		{"published", nil, "udp", "127.0.0.1:8081", "c"},
		{"published, IPv6", nil, "", "[::1]:8080", "c"},
		{"of one that is dead", nil, "", "127.0.0.1:8090", ""},
		{"same network", d.ns, "", c.in("na", 80), "c"},
		{"another network", d.ns, "", c.in("nb", 80), ""},
		{"half joined", nil, "", half.in("nb", 80), ""},
		{"half joined, the other", nil, "", half.in("na", 80), "half"},
	})
	if got, found := next.Lookup(d.ContainerID, "c"); !found || got.V4[0] != c.Endpoint.Networks["na"].IPAddress {
		t.Errorf("c is %v, %v", got, found)
	}
	if got := countLinks(t, next); got != 4 {
		t.Errorf("%d interfaces, want 4", got)
	}
	if _, err := next.Remove(t.Context(), "nb"); !errors.Is(err, runner.ErrForbidden) {
		t.Errorf("removed a network in use: %v", err)
	}
	e, err := next.Connect(t.Context(), Request{ContainerID: newID(), Name: "e", NetNS: dead.ns, Networks: map[string]*network.EndpointSettings{"gone": nil}})
	if err != nil || !e.Networks["gone"].IPAddress.IsValid() {
		t.Errorf("a network whose bridge was deleted meanwhile: %v", err)
	}
	c.leave(t, next, "na", asked)
	check(t, []reach{{"after leaving", w.outside, "", hostAddr4 + ":8080", "c"}})
	must(t, next.Disconnect(t.Context(), c.ContainerID))
	check(t, []reach{{"after its end", w.outside, "", hostAddr4 + ":8080", ""}})
	_, err = next.Remove(t.Context(), "nb")
	must(t, err)
}

func linkOf(t testing.TB, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	return link
}

// Networks are closed with the last container, and there again with the next
// manager.
func TestNetworksOutliveTheirManager(t *testing.T) {
	newWorld(t)
	o := Options{Instance: "0c0fe1", StateDir: t.TempDir()}
	m := openManager(t, o)
	n := create(t, m, "n")
	must(t, m.Close(t.Context()))
	if exists(m.host, n.Interface) {
		t.Error("the bridge is left")
	}
	m = openManager(t, o)
	must(t, m.Restore(t.Context(), nil))
	a := connectTo(t, m, "a", []string{"n"}, nil, 80)
	if !n.v4.prefix.Contains(a.es.IPAddress) {
		t.Errorf("got %v of %v", a.es.IPAddress, n.v4.prefix)
	}
	check(t, []reach{{"", nil, "", a.in("n", 80), "a"}})
}

// Containers come and go while networks are made and removed.
func TestConcurrentNetworks(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	create(t, m, "shared")
	done := make(chan error, 8)
	for i := range cap(done) {
		go func() { done <- changeNetworks(t.Context(), m, i) }()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	v, err := m.Inspect(t.Context(), "shared")
	if err != nil || len(v.Containers) > 0 {
		t.Errorf("left are %v, %v", v.Containers, err)
	}
	if list, err := m.List(t.Context(), runner.Filters{"type": {"custom"}}); err != nil || len(list) != 1 {
		t.Errorf("networks are left: %v, %v", list, err)
	}
}

func changeNetworks(ctx context.Context, m *Manager, i int) error {
	own := fmt.Sprint("own", i)
	for range 4 {
		if _, err := m.Create(ctx, network.CreateRequest{Name: own}); err != nil {
			return err
		}
		ns, err := NewNetNS()
		if err != nil {
			return err
		}
		defer ns.Close()
		req := Request{ContainerID: newID(), Name: own, NetNS: ns, Networks: map[string]*network.EndpointSettings{"shared": nil}}
		if _, err := m.Connect(ctx, req); err != nil {
			return err
		}
		req.Networks = map[string]*network.EndpointSettings{own: nil}
		if _, err := m.Join(ctx, req); err != nil {
			return err
		}
		if _, err := m.Remove(ctx, own); !errors.Is(err, runner.ErrForbidden) {
			return fmt.Errorf("removed a network in use: %w", err)
		}
		if _, err := m.Leave(ctx, req.ContainerID, own, ns, nil); err != nil {
			return err
		}
		if err := m.Disconnect(ctx, req.ContainerID); err != nil {
			return err
		}
		if _, err := m.Remove(ctx, own); err != nil {
			return err
		}
	}
	return nil
}

// Containers of macvlan are neighbours of the parent's.
func TestMacvlan(t *testing.T) {
	w := newWorld(t)
	o := Options{Instance: "0c0fe2", StateDir: t.TempDir()}
	m := openManager(t, o)
	c := config("192.0.2.0/24")
	c.IPRange, c.Gateway = netip.MustParsePrefix("192.0.2.64/26"), netip.MustParseAddr(outsideAddr4)
	macvlan := func(req *network.CreateRequest) { req.Driver = driverMacvlan }
	create(t, m, "lan", macvlan, option(optParent, "up0"), subnet(c))
	create(t, m, "n")
	serveTCP(t, w.outside, 80, "outside")
	a := connectTo(t, m, "a", []string{"lan"}, ports(t, "8080>80/tcp"), 80)
	b := connectTo(t, m, "b", []string{"n"}, ports(t, "8081>80/tcp"), 80)
	b.join(t, m, "lan", nil, ports(t, "8081>80/tcp"))
	check(t, []reach{
		{"each other", b.ns, "", a.in("lan", 80), "a"},
		{"from outside", w.outside, "", a.in("lan", 80), "a"},
		{"outside", a.ns, "", outsideAddr4 + ":80", "outside"},
		{"nothing is published", nil, "", "127.0.0.1:8080", ""},
	})
	if got := a.defaultRoute(t, netlink.FAMILY_V4); got != outsideAddr4+" eth0" {
		t.Errorf("default route %s", got)
	}
	if got := b.defaultRoute(t, netlink.FAMILY_V4); got != outsideAddr4+" eth1" {
		t.Errorf("default route %s, want that of lan, whose name is first", got)
	}
	if len(a.Endpoint.Ports[port80]) > 0 || len(b.Endpoint.Ports[port80]) > 0 {
		t.Errorf("shown as published: %v, %v", a.Endpoint.Ports, b.Endpoint.Ports)
	}
	for change, want := range map[string]string{"passthru": "cannot use mode passthru", "bridge": "Pool overlaps"} {
		req := network.CreateRequest{Name: "two", Driver: driverMacvlan, Options: map[string]string{optParent: "up0", optMacvlanMode: change}}
		if want == "Pool overlaps" {
			subnet(c)(&req)
		}
		if _, err := m.Create(t.Context(), req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change, err)
		}
	}
	crash(m)
	m = openManager(t, o)
	must(t, m.Restore(t.Context(), []Attached{a.Attached, b.Attached}))
	b.leave(t, m, "lan", ports(t, "8081>80/tcp"))
	check(t, []reach{
		{"left", a.ns, "", b.in("n", 80), ""},
		{"published by the other network", nil, "", "127.0.0.1:8081", "b"},
		{"stays", w.outside, "", a.in("lan", 80), "a"},
	})
	if in, err := openInside(b.ns); err == nil {
		if names, err := in.names(); err != nil || len(names) != 2 {
			t.Errorf("inside are %v, %v", names, err)
		}
		in.Close()
	}
	// Its hardware address is in use for as long as the old namespace lives.
	fixed := &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: a.es.IPAddress}}
	must(t, m.Disconnect(t.Context(), a.ContainerID))
	old := a.ns
	time.AfterFunc(100*time.Millisecond, func() { _ = old.Close() })
	ns, err := NewNetNS()
	must(t, err)
	defer ns.Close()
	req := askFor("again", ns, nil)
	req.Networks = map[string]*network.EndpointSettings{"lan": fixed}
	for begin := time.Now(); ; { // until the address is free
		_, err = m.Connect(t.Context(), req)
		if !errors.Is(err, runner.ErrUnavailable) || time.Since(begin) > 5*time.Second {
			break
		}
	}
	if err != nil && !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("the same address again: %v", err)
	}
	if _, err := m.Create(t.Context(), network.CreateRequest{Name: "dummy", Driver: driverMacvlan}); err == nil {
		_, err = m.Remove(t.Context(), "dummy")
		must(t, err)
	} else if !strings.Contains(err.Error(), "this kernel has no interfaces of the kind dummy") {
		t.Error(err)
	}
	req2 := network.CreateRequest{Name: "ip", Driver: driverIPvlan, Options: map[string]string{optParent: "up0"}}
	if _, err := m.Create(t.Context(), req2); err == nil || !strings.Contains(err.Error(), "of driver macvlan is already using parent interface up0") {
		t.Errorf("ipvlan beside macvlan: %v", err)
	}
}

// Ports are reached, and nobody else gets them, while their container is connected
// and disconnected, so that they lead to another address each time.
func TestPortsAreNeverFreeWhileNetworksChange(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	create(t, m, "four")
	create(t, m, "both", ipv6)
	asked := ports(t, "8080>80/tcp", ">80/tcp", "8080>80/udp")
	c := connectTo(t, m, "c", []string{"four"}, asked, 80)
	given := c.Endpoint.Ports
	chosen := given[port80][len(given[port80])-1].HostPort
	if chosen == "8080" {
		chosen = given[port80][0].HostPort
	}
	done, pace := make(chan struct{}), time.NewTicker(time.Millisecond)
	defer pace.Stop()
	var wg sync.WaitGroup
	var asks, lost atomic.Int64
	for from, addrs := range map[*os.File][]string{
		nil:       {"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:" + chosen},
		w.outside: {hostAddr4 + ":8080", "[" + hostAddr6 + "]:8080"},
	} {
		for _, addr := range addrs {
			wg.Go(func() {
				for !isDone(done) {
					<-pace.C // the kernel is to get on with deleting interfaces
					asks.Add(1)
					// A connection by the interface that goes is lost; none is refused.
					if _, _, err := ask(from, "tcp", addr, 300*time.Millisecond); errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("%s: %v", addr, err)
					} else if err != nil {
						lost.Add(1)
					}
				}
			})
		}
	}
	wg.Go(func() {
		for !isDone(done) {
			<-pace.C
			for _, addr := range []string{":8080", "127.0.0.1:8080", "[::]:" + chosen} {
				if l, err := net.Listen("tcp", addr); err == nil {
					t.Errorf("%s is free", l.Addr())
					_ = l.Close()
				}
			}
			if l, err := net.ListenPacket("udp", ":8080"); err == nil {
				t.Errorf("udp %s is free", l.LocalAddr())
				_ = l.Close()
			}
		}
	})
	for range 25 {
		c.join(t, m, "both", &network.EndpointSettings{GwPriority: 1}, asked)
		c.leave(t, m, "both", asked)
		if !reflect.DeepEqual(c.Endpoint.Ports, given) {
			t.Fatalf("ports are %v, were %v", c.Endpoint.Ports, given)
		}
	}
	close(done)
	wg.Wait()
	t.Logf("%d connections, %d lost with the network", asks.Load(), lost.Load())
	if lost.Load() > asks.Load()/10 {
		t.Errorf("%d of %d connections are lost", lost.Load(), asks.Load())
	}
}
