package network

import (
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

func TestReach(t *testing.T) {
	const call4, call6 = "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"
	if getSysctl(call4) == "" { // this kernel has no such thing
		testReach(t)
		return
	}
	for _, call := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+call, func(t *testing.T) {
			must(t, setSysctl(call4, call))
			must(t, setSysctl(call6, call))
			testReach(t)
		})
	}
}

func testReach(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	web := connect(t, m, "web", ports(t, "8080>80/tcp", "127.0.0.1|8081>81/tcp", hostAddr4+"|8082>82/tcp", "::1|8083>83/tcp", "5353>53/udp"), 80, 81, 82, 83, 99)
	other := connect(t, m, "other", nil, 80)
	serveUDP(t, web.ns, 53, "web")
	serveTCP(t, w.outside, 80, "outside")
	serveTCP(t, w.outside, 8080, "outside")
	serveTCP(t, nil, 7000, "host")
	w.routeFromOutside(t, m.bridge.Subnet, hostAddr4)
	w.routeFromOutside(t, m.bridge.Subnet6, hostAddr6)
	w.routeFromOutside(t, netip.MustParsePrefix("127.9.0.0/16"), hostAddr4)
	gw4, gw6 := m.HostGateway()[0], m.HostGateway()[1]
	check(t, []reach{
		{"host, published", nil, "", "127.0.0.1:8080", "web"},
		{"host, published", nil, "", "127.0.0.2:8080", "web"},
		{"host, published", nil, "", hostAddr4 + ":8080", "web"},
		{"host, published", nil, "", "[::1]:8080", "web"},
		{"host, published", nil, "", "[" + hostAddr6 + "]:8080", "web"},
		{"host, published", nil, "", hostPort(gw4, 8080), "web"},
		{"host, published", nil, "", hostPort(gw6, 8080), "web"},
		{"host, published", nil, "udp", "127.0.0.1:5353", "web"},
		{"host, published", nil, "udp", hostAddr4 + ":5353", "web"},
		{"host, published", nil, "udp", "[::1]:5353", "web"},
		{"host, published", nil, "udp", "[" + hostAddr6 + "]:5353", "web"},
		{"host, own address", nil, "", hostPort(web.es.IPAddress, 99), "web"},
		{"host, own address", nil, "", hostPort(web.es.GlobalIPv6Address, 99), "web"},

		{"host, only 127.0.0.1", nil, "", "127.0.0.1:8081", "web"},
		{"host, only 127.0.0.1", nil, "", hostAddr4 + ":8081", ""},
		{"host, only 127.0.0.1", nil, "", "[::1]:8081", ""},
		{"container, only 127.0.0.1", other.ns, "", hostPort(gw4, 8081), ""},
		{"outside, only 127.0.0.1", w.outside, "", hostAddr4 + ":8081", ""},
		{"outside, only 127.0.0.1, at the container", w.outside, "", hostPort(web.es.IPAddress, 81), ""},
		{"host, one address", nil, "", hostAddr4 + ":8082", "web"},
		{"host, one address", nil, "", "127.0.0.1:8082", ""},
		{"outside, one address", w.outside, "", hostAddr4 + ":8082", "web"},
		{"outside, one address", w.outside, "", "[" + hostAddr6 + "]:8082", ""},
		{"host, only ::1", nil, "", "[::1]:8083", "web"},
		{"host, only ::1", nil, "", "127.0.0.1:8083", ""},
		{"host, only ::1", nil, "", "[" + hostAddr6 + "]:8083", ""},

		{"outside, published", w.outside, "", hostAddr4 + ":8080", "web"},
		{"outside, published", w.outside, "", "[" + hostAddr6 + "]:8080", "web"},
		{"outside, published", w.outside, "udp", hostAddr4 + ":5353", "web"},
		{"outside, published", w.outside, "udp", "[" + hostAddr6 + "]:5353", "web"},
		{"outside, not published", w.outside, "", hostPort(web.es.IPAddress, 99), ""},
		{"outside, not published", w.outside, "", hostPort(web.es.GlobalIPv6Address, 99), ""},
		{"outside, published, by its own address", w.outside, "", hostPort(web.es.IPAddress, 80), ""},
		{"outside, a loopback address", w.outside, "", "127.9.0.1:8080", ""},

		{"container, another", other.ns, "", hostPort(web.es.IPAddress, 99), "web"},
		{"container, another", other.ns, "", hostPort(web.es.GlobalIPv6Address, 99), "web"},
		{"container, published", other.ns, "", hostAddr4 + ":8080", "web"},
		{"container, published", other.ns, "", hostPort(gw4, 8080), "web"},
		{"container, published", other.ns, "", hostPort(gw6, 8080), "web"},
		{"container, published", other.ns, "", "[" + hostAddr6 + "]:8080", "web"},
		{"container, published", other.ns, "udp", hostAddr4 + ":5353", "web"},
		{"container, itself", web.ns, "", hostAddr4 + ":8080", "web"},
		{"container, itself", web.ns, "", "[" + hostAddr6 + "]:8080", "web"},
		{"container, itself", web.ns, "udp", hostAddr4 + ":5353", "web"},
		{"container, its own loopback", web.ns, "", "127.0.0.1:80", "web"},
		{"container, the host's loopback", other.ns, "", "127.0.0.1:8080", ""},
		{"container, the host", other.ns, "", hostAddr4 + ":7000", "host"},
		{"host, outside, at a published port", nil, "", outsideAddr4 + ":8080", "outside"},
		{"container, outside, at a published port", other.ns, "", outsideAddr4 + ":8080", "outside"},
		{"container, outside, at a published port", other.ns, "", "[" + outsideAddr6 + "]:8080", "outside"},
		{"container, outside", web.ns, "", outsideAddr4 + ":80", "outside"},
		{"container, outside", web.ns, "", "[" + outsideAddr6 + "]:80", "outside"},
	})
	for _, c := range []struct{ addr, want string }{
		{outsideAddr4 + ":80", hostAddr4},
		{"[" + outsideAddr6 + "]:80", hostAddr6},
		{hostPort(other.es.IPAddress, 80), web.es.IPAddress.String()},
	} {
		if _, client, err := ask(web.ns, "tcp", c.addr, 5*time.Second); client != c.want {
			t.Errorf("%s sees a container as %q (%v), want %q", c.addr, client, err, c.want)
		}
	}
}

// A container is reached as soon as Connect returns: the first packet is not lost.
func TestFirstPacket(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	for range 20 {
		ns, err := NewNetNS()
		must(t, err)
		server := serveUDP(t, ns, 53, "first")
		req := askFor("first", ns, nil)
		e, err := m.Connect(t.Context(), req)
		must(t, err)
		es := e.Networks["bridge"]
		for _, addr := range []netip.Addr{es.IPAddress, es.GlobalIPv6Address} {
			if got, _, err := ask(nil, "udp", hostPort(addr, 53), 800*time.Millisecond); got != "first" {
				t.Errorf("%s: %q, %v", addr, got, err)
			}
		}
		must(t, m.Disconnect(t.Context(), req.ContainerID))
		must(t, server.Close())
		must(t, ns.Close())
		// The next is the first on the bridge again.
		for up := true; up; time.Sleep(time.Millisecond) {
			link, err := netlink.LinkByName(m.bridge.Interface)
			must(t, err)
			up = link.Attrs().OperState == netlink.OperUp
		}
	}
}

// A host on the container's side of the bridge can send what no route would: a
// packet for 127.0.0.1 to the bridge itself.
func TestLoopbackIsClosedToContainers(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	serveTCP(t, nil, 7001, "host")
	connect(t, m, "web", ports(t, "127.0.0.1|8081>80/tcp"), 80)
	evil := connect(t, m, "evil", nil)
	// The container's own loopback gives way, and 127.0.0.1 is sent to the gateway.
	must(t, inNetNS(evil.ns, func() error {
		h, err := dialRtnl(0)
		if err != nil {
			return err
		}
		defer h.close()
		return evilRoute(h)
	}))
	check(t, []reach{
		{"container, the host's 127.0.0.1", evil.ns, "", "127.0.0.1:7001", ""},
		{"container, published at 127.0.0.1", evil.ns, "", "127.0.0.1:" + strconv.Itoa(8081), ""},
	})
}
