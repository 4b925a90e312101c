package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"
)

func TestPortsAreShownAsBound(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	// Ports that no connection of another test has had: one that was closed is in the way
	// for a minute.
	must(t, setSysctl("net/ipv4/ip_local_port_range", "31000\t31003"))
	t.Cleanup(func() { must(t, setSysctl("net/ipv4/ip_local_port_range", "32768\t60999")) })
	blocker, err := net.Listen("tcp", "0.0.0.0:31001")
	must(t, err)
	defer blocker.Close()
	asked := ports(t, ">80/tcp", "31000>81/tcp", "127.0.0.1|0>82/tcp", "8000-8002>83/tcp", "8000-8002>84/tcp", "8000-8002>84/udp", "7000>7/sctp")
	asked[network.MustParsePort("9/tcp")] = nil
	web := connect(t, m, "web", asked)
	shown := func(port string) (list []string) {
		for _, b := range web.Endpoint.Ports[network.MustParsePort(port)] {
			list = append(list, b.HostIP.String()+" "+b.HostPort)
		}
		return list
	}
	for port, want := range map[string]string{
		"80/tcp": "[0.0.0.0 31002 :: 31002]",
		"81/tcp": "[0.0.0.0 31000 :: 31000]",
		"82/tcp": "[127.0.0.1 31003]",
		"83/tcp": "[0.0.0.0 8000 :: 8000]",
		"84/tcp": "[0.0.0.0 8001 :: 8001]",
		"84/udp": "[0.0.0.0 8000 :: 8000]",
		"9/tcp":  "[]",
		"7/sctp": "[0.0.0.0 7000 :: 7000]",
	} {
		if got := fmt.Sprint(shown(port)); got != want {
			t.Errorf("%s is published at %s, want %s", port, got, want)
		}
	}
	if rules := nft(t, "list", "map", "inet", m.rules.name, "ports4"); !strings.Contains(rules, "sctp . 7000 : ") {
		t.Errorf("no rule for SCTP: %s", rules)
	}
	if _, ok := web.Endpoint.Ports[network.MustParsePort("9/tcp")]; !ok {
		t.Error("a port that is not published is not shown")
	}
	for _, spec := range []string{">85/tcp", "8000-8001>83/tcp"} {
		if err := refused(t, m, ports(t, spec)); !strings.Contains(err.Error(), "are taken") {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

// refused connects a container, which must fail and leave nothing.
func refused(t *testing.T, m *Manager, asked network.PortMap) error {
	t.Helper()
	ns, err := NewNetNS()
	must(t, err)
	defer ns.Close()
	rulesBefore, socketsBefore, usedBefore := nft(t, "list", "table", "inet", m.rules.name), openFiles(t), len(m.bridge.v4.used)
	req := askFor("second", ns, asked)
	if _, err = m.Connect(t.Context(), req); err == nil {
		t.Fatalf("connected with ports %v", asked)
	}
	if got := nft(t, "list", "table", "inet", m.rules.name); got != rulesBefore {
		t.Errorf("a refused container leaves rules:\n%s\nbefore:\n%s", got, rulesBefore)
	}
	if got := filesAtRest(t, socketsBefore); got > socketsBefore {
		t.Errorf("a refused container leaves files: %d, before %d", got, socketsBefore)
	}
	if got := len(m.bridge.v4.used); got != usedBefore {
		t.Errorf("a refused container leaves addresses: %d, before %d", got, usedBefore)
	}
	return err
}

func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

// filesAtRest is openFiles when there are no more than so many, or have been more for
// long: what forgets flows in the background has sockets for a moment.
func filesAtRest(t testing.TB, most int) (n int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if n = openFiles(t); n <= most {
			break
		}
	}
	return n
}

var containerAddr = regexp.MustCompile(`:172\.\d+\.\d+\.\d+:`)

func TestTakenPortNamesItsHolder(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	connect(t, m, "first", ports(t, "8080>80/tcp", "127.0.0.1|8081>80/tcp", "5353>53/udp"))
	l, err := net.Listen("tcp", "0.0.0.0:8090")
	must(t, err)
	defer l.Close()
	u, err := net.ListenPacket("udp", "127.0.0.1:8091")
	must(t, err)
	defer u.Close()
	l6, err := net.Listen("tcp6", "[::1]:8092")
	must(t, err)
	defer l6.Close()
	comm, err := os.ReadFile("/proc/self/comm")
	must(t, err)
	me := fmt.Sprintf(" by %s (pid %d)", strings.TrimSpace(string(comm)), os.Getpid())
	for spec, want := range map[string]string{
		"8080>80/tcp":            "Bind for 0.0.0.0:8080 failed: port is already allocated by container first",
		"::|8080>80/tcp":         "Bind for [::]:8080 failed: port is already allocated by container first",
		"127.0.0.1|8080>80/tcp":  "Bind for 127.0.0.1:8080 failed: port is already allocated by container first",
		"8081>80/tcp":            "Bind for 0.0.0.0:8081 failed: port is already allocated by container first",
		"5353>53/udp":            "Bind for 0.0.0.0:5353 failed: port is already allocated by container first",
		"8090>80/tcp":            "failed to bind host port for 0.0.0.0:8090:IP:80/tcp: address already in use" + me,
		"8091>80/udp":            "failed to bind host port for 0.0.0.0:8091:IP:80/udp: address already in use" + me,
		"8092>80/tcp":            "address already in use" + me,
		"::1|8092>80/tcp":        "address already in use" + me,
		"198.51.100.7|80>80/tcp": "failed to bind host port for 198.51.100.7:80:",
	} {
		err := refused(t, m, ports(t, "9000>9000/tcp", spec))
		const prefix = "driver failed programming external connectivity on endpoint second ("
		text := containerAddr.ReplaceAllString(err.Error(), ":IP:")
		if !strings.HasPrefix(text, prefix) || !strings.Contains(text, want) {
			t.Errorf("%s: %s\nwant %s", spec, text, want)
		}
	}
	// Another port, protocol or address is free.
	connect(t, m, "third", ports(t, "8080>80/udp", hostAddr4+"|8081>80/tcp", "9000>9000/tcp"))
}

// While it is published, a port is closed to programs of the host; afterwards it
// is free at once, also when connections of before wait for their last packets.
func TestPublishedPortIsHeld(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	for range 3 {
		web := connect(t, m, "web", ports(t, "8080>80/tcp", "8080>80/udp"))
		serveAndHangUp(t, web.ns, 80)
		for _, addr := range []string{"0.0.0.0:8080", "127.0.0.1:8080", hostAddr4 + ":8080", "[::]:8080", "[::1]:8080", "[" + hostAddr6 + "]:8080"} {
			if l, err := net.Listen("tcp", addr); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("tcp %s: %v %v", addr, l, err)
			}
			if l, err := net.ListenPacket("udp", addr); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("udp %s: %v %v", addr, l, err)
			}
		}
		for _, addr := range []string{"127.0.0.1:8080", "[::1]:8080"} {
			c, err := net.Dial("tcp", addr)
			must(t, err)
			if got, err := io.ReadAll(c); string(got) != "bye" {
				t.Errorf("%s: %q, %v", addr, got, err)
			}
			must(t, c.Close())
		}
		must(t, m.Disconnect(t.Context(), web.ContainerID))
		l, err := net.Listen("tcp", ":8080")
		must(t, err)
		must(t, l.Close())
	}
}

// A client that goes on sending UDP packets from one port is heard by the
// container that is published later, and by the next one.
func TestUDPClientThatWasThereBefore(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	var client net.Conn
	must(t, inNetNS(w.outside, func() (err error) {
		client, err = net.Dial("udp", hostAddr4+":5353")
		return err
	}))
	defer client.Close()
	heard := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
			_, _ = client.Write([]byte("?"))
			_ = client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := client.Read(buf); err == nil && strings.TrimSpace(string(buf[:n])) == want {
				return
			}
		}
		t.Errorf("%s does not answer", want)
	}
	_, _ = client.Write([]byte("?"))
	for _, name := range []string{"first", "second"} {
		ns, err := NewNetNS()
		must(t, err)
		serveUDP(t, ns, 53, name)
		req := askFor(name, ns, ports(t, "5353>53/udp"))
		_, err = m.Connect(t.Context(), req)
		must(t, err)
		heard(name)
		must(t, m.Disconnect(t.Context(), req.ContainerID))
		must(t, ns.Close())
	}
}

// serveAndHangUp ends each connection itself, so that it is the server's side that
// waits for last packets.
func serveAndHangUp(t *testing.T, ns *os.File, port int) {
	t.Helper()
	var l net.Listener
	must(t, inNetNS(ns, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("bye"))
			_ = c.Close()
		}
	}()
}

// Whoever gets the address of a container that is gone does not get its clients.
func TestUDPClientOfAContainerThatIsGone(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	var client net.Conn
	must(t, inNetNS(w.outside, func() (err error) {
		client, err = net.Dial("udp", hostAddr4+":5353")
		return err
	}))
	defer client.Close()
	try := func() string {
		buf := make([]byte, 100)
		_, _ = client.Write([]byte("?"))
		_ = client.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, _ := client.Read(buf)
		return strings.TrimSpace(string(buf[:n]))
	}
	first := connect(t, m, "first", ports(t, "5353>53/udp"))
	serveUDP(t, first.ns, 53, "first")
	if got := try(); got != "first" {
		t.Fatalf("got %q", got)
	}
	must(t, m.Disconnect(t.Context(), first.ContainerID))
	// Its address is wished for at once.
	ns, err := NewNetNS()
	must(t, err)
	defer ns.Close()
	req := askFor("second", ns, nil)
	req.Networks["bridge"].IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: first.es.IPAddress}
	_, err = m.Connect(t.Context(), req)
	must(t, err)
	serveUDP(t, ns, 53, "second")
	if got := try(); got != "" {
		t.Errorf("a container that publishes nothing answers: %q", got)
	}
}

func TestManyPorts(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	const n = 1000
	asked := network.PortMap{}
	for i := range n {
		p, _ := network.PortFrom(uint16(1000+i), network.TCP)
		asked[p] = []network.PortBinding{{HostIP: netip.MustParseAddr("0.0.0.0"), HostPort: strconv.Itoa(20000 + i)}}
	}
	web := connect(t, m, "web", asked, 1000, 1000+n-1)
	check(t, []reach{
		{"first", nil, "", "127.0.0.1:20000", "web"},
		{"last", nil, "", fmt.Sprintf("127.0.0.1:%d", 20000+n-1), "web"},
	})
	must(t, m.rules.rebuild())
	check(t, []reach{{"last, made again", nil, "", fmt.Sprintf("127.0.0.1:%d", 20000+n-1), "web"}})
	must(t, m.Disconnect(t.Context(), web.ContainerID))
	if left := nft(t, "list", "map", "inet", m.rules.name, "ports4"); strings.Contains(left, "elements") {
		t.Errorf("elements are left: %.300s", left)
	}
}

func TestSocketsAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tcp")
	must(t, os.WriteFile(path, []byte(`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 0100007F:CFC6 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0000000000000000 100 0 0 10 0
   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0000000000000000 100 0 0 10 0
   2: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1 0000000000000000 100 0 0 10 0
   3: 0100007F:1F90 0100007F:CFC7 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 100 0 0 10 0
`), 0o600))
	if got := fmt.Sprint(socketsAt(path, 8080)); got != "[12 11]" {
		t.Errorf("got %s", got)
	}
}
