package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"github.com/berth-registry/berth/runner"
)

// crash ends a manager as kill -9 would: its sockets are closed, and nothing else
// is done.
func crash(m *Manager) {
	m.stop()
	m.wg.Wait()
	m.ports.close()
	m.carry.close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attached = nil
	m.closeSockets()
}

func TestRestoreAfterCrash(t *testing.T) {
	w := newWorld(t)
	o := Options{Instance: "0c0ffe", StateDir: t.TempDir()}
	m := openManager(t, o)
	lives := connect(t, m, "lives", ports(t, "8080>80/tcp"), 80)
	var dead []*box
	for i := range 5 {
		dead = append(dead, connect(t, m, fmt.Sprint("dead", i), ports(t, fmt.Sprintf("%d>80/tcp", 8081+i)), 80))
	}
	crash(m)
	check(t, []reach{
		{"no daemon", w.outside, "", hostAddr4 + ":8080", "lives"},
		{"no daemon", nil, "", "127.0.0.1:8080", "lives"},
	})
	o.Subnet = netip.Prefix{}
	next := openManager(t, o)
	if !reflect.DeepEqual(next.bridge.record, m.bridge.record) {
		t.Errorf("the network was %+v, and is %+v", m.bridge.record, next.bridge.record)
	}
	check(t, []reach{{"before Restore", nil, "", "127.0.0.1:8081", "dead0"}})
	must(t, next.Restore(t.Context(), []Attached{lives.Attached}))
	check(t, []reach{
		{"after Restore", w.outside, "", hostAddr4 + ":8080", "lives"},
		{"after Restore", nil, "", "127.0.0.1:8080", "lives"},
		{"after Restore", nil, "", "[::1]:8080", "lives"},
		{"after Restore", nil, "", "127.0.0.1:8081", ""},
		{"after Restore", nil, "", hostPort(dead[0].es.IPAddress, 80), ""},
	})
	if got := countLinks(t, next); got != 1 {
		t.Errorf("%d interfaces, want 1", got)
	}
	if got := nft(t, "list", "table", "inet", next.rules.name); !strings.Contains(got, "8080") || strings.Contains(got, "8081") {
		t.Errorf("rules after Restore:\n%s", got)
	}
	if l, err := net.Listen("tcp", ":8080"); err == nil {
		t.Errorf("the port is not held again: %v", l.Addr())
	}
	// What the dead ones had is free, and what the living one has is not.
	ns, err := NewNetNS()
	must(t, err)
	defer ns.Close()
	req := askFor("same", ns, nil)
	for _, c := range []*network.EndpointIPAMConfig{{IPv4Address: lives.es.IPAddress}, {IPv6Address: lives.es.GlobalIPv6Address}} {
		req.Networks["bridge"].IPAMConfig = c
		if _, err := next.Connect(t.Context(), req); err == nil || !strings.Contains(err.Error(), "that of lives") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	second := connect(t, next, "second", ports(t, "8081>80/tcp"), 80)
	if second.es.IPAddress == lives.es.IPAddress || second.es.GlobalIPv6Address == lives.es.GlobalIPv6Address {
		t.Errorf("an address is given twice: %v", second.es)
	}
	check(t, []reach{{"after Restore", nil, "", "127.0.0.1:8081", "second"}})
	if err := refused(t, next, ports(t, "8080>80/tcp")); !strings.Contains(err.Error(), "by container lives") {
		t.Error(err)
	}
	must(t, next.Disconnect(t.Context(), lives.ContainerID))
	check(t, []reach{{"after its end", nil, "", "127.0.0.1:8080", ""}})
}

func countLinks(t testing.TB, m *Manager) int {
	t.Helper()
	list, err := listLinks(m.linkPrefix())
	must(t, err)
	return len(list)
}

// A program of the host that took the port meanwhile is named; the container is
// reached all the same.
func TestRestoreOfATakenPort(t *testing.T) {
	newWorld(t)
	o := Options{Instance: "0c0ffd", StateDir: t.TempDir()}
	m := openManager(t, o)
	web := connect(t, m, "web", ports(t, "8080>80/tcp"), 80)
	crash(m)
	serveTCP(t, nil, 8080, "thief")
	next := openManager(t, o)
	must(t, next.Restore(t.Context(), []Attached{web.Attached}))
	check(t, []reach{{"", nil, "", "127.0.0.1:8080", "web"}})
	must(t, next.Disconnect(t.Context(), web.ContainerID))
	check(t, []reach{{"", nil, "", "127.0.0.1:8080", "thief"}})
}

func TestCloseKeepsWhatIsConnected(t *testing.T) {
	newWorld(t)
	o := Options{Instance: "0c0ffb", StateDir: t.TempDir()}
	m := openManager(t, o)
	web := connect(t, m, "web", ports(t, "8080>80/tcp"), 80)
	must(t, m.Close(t.Context()))
	check(t, []reach{{"closed", nil, "", "127.0.0.1:8080", "web"}})
	next := openManager(t, o)
	must(t, next.Restore(t.Context(), []Attached{web.Attached}))
	check(t, []reach{{"opened", nil, "", "127.0.0.1:8080", "web"}})
}

func TestFlushedRulesComeBack(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	connect(t, m, "web", ports(t, "8080>80/tcp"), 80)
	for _, harm := range []string{
		"flush ruleset", "delete table inet " + m.rules.name, "flush table inet " + m.rules.name,
		"flush map inet " + m.rules.name + " ports4",
	} {
		nft(t, strings.Fields(harm)...)
		begin := time.Now()
		for {
			if got, _, _ := ask(nil, "tcp", "127.0.0.1:8080", 200*time.Millisecond); got == "web" {
				break
			}
			if time.Since(begin) > 2*time.Second {
				t.Fatalf("after nft %s: not reached", harm)
			}
		}
		t.Logf("after nft %s: reached again within %v", harm, time.Since(begin).Round(time.Millisecond))
	}
	time.Sleep(3 * settle) // until the last repair is done
	before := nft(t, "-a", "list", "table", "inet", m.rules.name)
	nft(t, "add", "table", "inet", "other")
	nft(t, "delete", "table", "inet", "other")
	time.Sleep(3 * settle) // what must not happen cannot be waited for
	if after := nft(t, "-a", "list", "table", "inet", m.rules.name); after != before {
		t.Errorf("the table was made again for nothing:\n%s\nwas\n%s", after, before)
	}
}

func TestForwardPolicyOfOthersIsNamed(t *testing.T) {
	newWorld(t)
	log := &syncBuffer{}
	m := openManager(t, Options{Log: log.logger()})
	must(t, m.Restore(t.Context(), nil))
	if got := log.String(); strings.Contains(got, "chain=") {
		t.Errorf("logged %s", got)
	}
	nft(t, "add", "table", "ip", "filter")
	defer nft(t, "delete", "table", "ip", "filter")
	nft(t, "add", "chain", "ip", "filter", "FORWARD", "{ type filter hook forward priority 0; policy drop; }")
	for begin := time.Now(); !strings.Contains(log.String(), `chain="ip filter FORWARD"`); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("logged only %s", log.String())
		}
	}
}

// Other subnets are configured: they come when no container is connected.
func TestSubnetChanges(t *testing.T) {
	newWorld(t)
	o := Options{Instance: "0c0ffa", StateDir: t.TempDir(), Subnet: netip.MustParsePrefix("10.91.0.0/16")}
	m := openManager(t, o)
	web := connect(t, m, "web", ports(t, "8080>80/tcp"), 80)
	must(t, m.Close(t.Context()))
	o.Subnet = netip.MustParsePrefix("10.92.0.0/16")
	m = openManager(t, o)
	must(t, m.Restore(t.Context(), []Attached{web.Attached}))
	check(t, []reach{{"still the old subnet", nil, "", "127.0.0.1:8080", "web"}})
	if !m.bridge.Subnet.Contains(web.es.IPAddress) {
		t.Errorf("the subnet is %v, and a container has %v", m.bridge.Subnet, web.es.IPAddress)
	}
	// So that the interface of the bridge is left, and nothing is connected to it.
	crash(m)
	m = openManager(t, o)
	must(t, m.Restore(t.Context(), nil))
	crash(m)
	m = openManager(t, o)
	must(t, m.Restore(t.Context(), nil))
	web = connect(t, m, "web", ports(t, "8080>80/tcp"), 80)
	if !o.Subnet.Contains(web.es.IPAddress) {
		t.Errorf("got %v of %v", web.es.IPAddress, o.Subnet)
	}
	check(t, []reach{{"the new subnet", nil, "", "127.0.0.1:8080", "web"}})
	link, err := netlink.LinkByName(m.bridge.Interface)
	must(t, err)
	list, err := netlink.AddrList(link, netlink.FAMILY_V4)
	must(t, err)
	if len(list) != 1 || !list[0].IP.Equal(net.ParseIP("10.92.0.1")) {
		t.Errorf("the bridge has %v", list)
	}
}

func TestConcurrentConnect(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	const n = 100
	var mu sync.Mutex
	seen := map[string]string{}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			name := fmt.Sprint("c", i)
			ns, err := NewNetNS()
			if err != nil {
				t.Error(err)
				return
			}
			defer ns.Close()
			req := askFor(name, ns, ports(t, ">80/tcp"))
			e, err := m.Connect(t.Context(), req)
			if err != nil {
				t.Error(err)
				return
			}
			es := e.Networks["bridge"]
			port := e.Ports[network.MustParsePort("80/tcp")][0].HostPort
			mu.Lock()
			for _, key := range []string{es.IPAddress.String(), es.GlobalIPv6Address.String(), es.MacAddress.String(), port} {
				if other, ok := seen[key]; ok {
					t.Errorf("%s is given to %s and %s", key, other, name)
				}
				seen[key] = name
			}
			mu.Unlock()
			l := serveTCP(t, ns, 80, name)
			if got, _, err := ask(nil, "tcp", "127.0.0.1:"+port, 10*time.Second); got != name {
				t.Errorf("%s: %q %v", name, got, err)
			}
			_ = l.Close()
			if i%2 == 0 {
				if err := m.Disconnect(t.Context(), req.ContainerID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	m.mu.Lock()
	ids := make([]string, 0, n)
	for id := range m.attached {
		ids = append(ids, id)
	}
	m.mu.Unlock()
	if len(ids) != n/2 {
		t.Errorf("%d are connected, want %d", len(ids), n/2)
	}
	for _, id := range ids {
		must(t, m.Disconnect(t.Context(), id))
	}
}

// A subnet that is nearly used up gives an address again as soon as its holder is
// gone, and not before.
func TestSmallSubnet(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{Subnet: netip.MustParsePrefix("10.91.0.0/29")})
	var last *box
	for i := range 5 {
		last = connect(t, m, fmt.Sprint("c", i), nil)
	}
	ns, err := NewNetNS()
	must(t, err)
	defer ns.Close()
	if _, err := m.Connect(t.Context(), askFor("more", ns, nil)); !errors.Is(err, runner.ErrUnavailable) {
		t.Errorf("a sixth address of 10.91.0.0/29: %v", err)
	}
	must(t, m.Disconnect(t.Context(), last.ContainerID))
	must(t, last.ns.Close())
	e, err := m.Connect(t.Context(), askFor("more", ns, nil))
	must(t, err)
	if got := e.Networks["bridge"].IPAddress; got != last.es.IPAddress {
		t.Errorf("got %v, want %v", got, last.es.IPAddress)
	}
}

// A container whose namespace lives on is cut off soon.
func TestDisconnectOfALivingNamespace(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	web := connect(t, m, "web", ports(t, "8080>80/tcp"), 80)
	for range 2 {
		must(t, m.Disconnect(t.Context(), web.ContainerID))
	}
	must(t, m.Disconnect(t.Context(), newID()))
	check(t, []reach{{"", nil, "", "127.0.0.1:8080", ""}})
	for begin := time.Now(); countLinks(t, m) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("the interface is left")
		}
	}
	check(t, []reach{{"", nil, "", hostPort(web.es.IPAddress, 80), ""}})
}

func TestWishes(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{Subnet: netip.MustParsePrefix("10.91.0.0/16"), Subnet6: netip.MustParsePrefix("fd12::/64")})
	try := func(name string, es *network.EndpointSettings) (*network.EndpointSettings, error) {
		ns, err := NewNetNS()
		must(t, err)
		t.Cleanup(func() { _ = ns.Close() })
		req := askFor(name, ns, nil)
		req.Networks["bridge"] = es
		e, err := m.Connect(t.Context(), req)
		return e.Networks["bridge"], err
	}
	ip := func(v4, v6 string) *network.EndpointIPAMConfig {
		c := &network.EndpointIPAMConfig{}
		if v4 != "" {
			c.IPv4Address = netip.MustParseAddr(v4)
		}
		if v6 != "" {
			c.IPv6Address = netip.MustParseAddr(v6)
		}
		return c
	}
	mac := network.HardwareAddr{2, 1, 2, 3, 4, 5}
	got, err := try("first", &network.EndpointSettings{IPAMConfig: ip("10.91.7.9", "fd12::2"), MacAddress: mac})
	must(t, err)
	if got.IPAddress.String() != "10.91.7.9" || got.GlobalIPv6Address.String() != "fd12::2" || got.MacAddress.String() != mac.String() {
		t.Errorf("got %+v", got)
	}
	got, err = try("second", nil)
	must(t, err)
	if got.IPAddress.String() != "10.91.0.2" || got.MacAddress.String() != "02:42:0a:5b:00:02" || got.GlobalIPv6Address.String() == "fd12::2" {
		t.Errorf("got %+v", got)
	}
	for text, es := range map[string]*network.EndpointSettings{
		"Address already in use":                   {IPAMConfig: ip("10.91.7.9", "")},
		"that of first":                            {IPAMConfig: ip("", "fd12::2")},
		"no configured subnet contains IP address": {IPAMConfig: ip("10.92.0.1", "")},
		"the gateway":                              {IPAMConfig: ip("10.91.0.1", "")},
		"network-scoped aliases":                   {Aliases: []string{"a"}},
		"links of an endpoint":                     {Links: []string{"a"}},
		"unknown driver option":                    {DriverOpts: map[string]string{"a": "b"}},
	} {
		before := len(m.bridge.v4.used) + len(m.bridge.v6.used)
		if _, err := try("third", es); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %s", err, text)
		}
		if after := len(m.bridge.v4.used) + len(m.bridge.v6.used); after != before {
			t.Errorf("%s: an address is lost", text)
		}
	}
}

func TestOtherNetworksAndInspect(t *testing.T) {
	newWorld(t)
	dir := t.TempDir()
	m := openManager(t, Options{StateDir: dir})
	web := connect(t, m, "web", nil)
	req := Request{ContainerID: newID(), Name: "h", Networks: map[string]*network.EndpointSettings{"host": nil}}
	e, err := m.Connect(t.Context(), req)
	must(t, err)
	host, err := m.Inspect(t.Context(), "host")
	must(t, err)
	if es := e.Networks["host"]; es.NetworkID != host.ID || host.Containers[req.ContainerID].EndpointID != es.EndpointID {
		t.Errorf("got %+v, %+v", es, host)
	}
	if _, err := m.Connect(t.Context(), req); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("connected twice: %v", err)
	}
	must(t, m.Disconnect(t.Context(), req.ContainerID))
	req.Networks = map[string]*network.EndpointSettings{"mine": nil}
	if _, err := m.Connect(t.Context(), req); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("network mine: %v", err)
	}
	list, err := m.List(t.Context(), nil)
	must(t, err)
	if len(list) != 3 || list[0].Name != "bridge" || list[1].Name != "host" || list[2].Name != "none" || list[2].Driver != "null" {
		t.Errorf("got %+v", list)
	}
	br, err := m.Inspect(t.Context(), list[0].ID[:12])
	must(t, err)
	c := br.Containers[web.ContainerID]
	if c.Name != "web" || c.IPv4Address.String() != web.es.IPAddress.String()+"/16" || c.IPv6Address.Bits() != 64 || !br.IPAM.Config[0].Subnet.Contains(web.es.IPAddress) {
		t.Errorf("got %+v", br)
	}
	if _, err := m.Inspect(t.Context(), ""); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("no name: %v", err)
	}
	for _, f := range []runner.Filters{{"name": {"idg"}}, {"driver": {"bridge"}}, {"id": {br.ID[:5]}}, {"type": {"builtin"}, "scope": {"local"}, "name": {"bridge"}}} {
		if list, err := m.List(t.Context(), f); err != nil || len(list) != 1 || list[0].Name != "bridge" {
			t.Errorf("filters %v: %v, %v", f, list, err)
		}
	}
	if _, err := m.List(t.Context(), runner.Filters{"nonsense": {"x"}}); !errors.Is(err, runner.ErrInvalid) {
		t.Errorf("an unknown filter: %v", err)
	}
	files, err := filepath.Glob(dir + "/*")
	must(t, err)
	if len(files) != 1 || filepath.Base(files[0]) != stateFile {
		t.Errorf("on disk are %v", files)
	}
	if data, err := os.ReadFile(files[0]); err != nil || strings.Contains(string(data), web.ContainerID) {
		t.Errorf("the state names a container: %s, %v", data, err)
	}
}

// Two instances on one host do not meet.
func TestTwoInstances(t *testing.T) {
	newWorld(t)
	unlock, err := lockSubnets(t.Context())
	must(t, err)
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Open(soon, Options{Instance: "00abff", StateDir: t.TempDir()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("opened while another chooses its subnet: %v", err)
	}
	unlock()
	var ms [2]*Manager
	var wg sync.WaitGroup
	for i := range ms {
		o := Options{Instance: fmt.Sprintf("00ab%02x", i), StateDir: t.TempDir()}
		wg.Go(func() { ms[i] = openManager(t, o) })
	}
	wg.Wait()
	if ms[0].bridge.Subnet.Overlaps(ms[1].bridge.Subnet) {
		t.Fatalf("both have %v", ms[0].bridge.Subnet)
	}
	a := connect(t, ms[0], "a", ports(t, "8080>80/tcp"), 80)
	b := connect(t, ms[1], "b", ports(t, "8081>80/tcp"), 80)
	check(t, []reach{
		{"", nil, "", "127.0.0.1:8080", "a"},
		{"", nil, "", "127.0.0.1:8081", "b"},
		{"published", a.ns, "", hostAddr4 + ":8081", "b"},
		{"not published", a.ns, "", hostPort(b.es.IPAddress, 80), ""},
	})
	must(t, ms[1].Restore(context.Background(), []Attached{b.Attached}))
	check(t, []reach{{"after the other's Restore", nil, "", "127.0.0.1:8080", "a"}})
	if err := refused(t, ms[1], ports(t, "8080>80/tcp")); !strings.Contains(err.Error(), "address already in use") {
		t.Error(err)
	}
}
