package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inside, in the environment, says that the test program is in a network
// namespace of its own, which plays the host: nothing of the real one is seen or
// touched.
const inside = "BERTH_TEST_NETNS"

func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			os.Exit(exit.ExitCode())
		}
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const (
	hostAddr4, hostAddr6       = "192.0.2.1", "2001:db8::1"
	outsideAddr4, outsideAddr6 = "192.0.2.2", "2001:db8::2"
)

// world is a host with an interface to a network where another host is.
type world struct {
	outside *os.File
}

// newWorld makes the namespace of the test program a host, until the test ends.
func newWorld(t testing.TB) *world {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	outside, err := NewNetNS()
	must(t, err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(outside.Fd()))}))
	t.Cleanup(func() {
		link, err := netlink.LinkByName("up0")
		if err == nil {
			err = netlink.LinkDel(link)
		}
		must(t, err)
		must(t, outside.Close())
	})
	setAddrs := func(h *netlink.Handle, name string, addrs ...string) {
		link, err := h.LinkByName(name)
		must(t, err)
		must(t, h.LinkSetUp(link))
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			must(t, err)
			addr.Flags = unix.IFA_F_NODAD
			must(t, h.AddrAdd(link, addr))
		}
	}
	there, err := netlink.NewHandleAt(netns.NsHandle(outside.Fd()), unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(there.Close)
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(here.Close)
	setAddrs(there, "eth0", outsideAddr4+"/24", outsideAddr6+"/64")
	setAddrs(here, "up0", hostAddr4+"/24", hostAddr6+"/64")
	for _, gw := range []string{outsideAddr4, outsideAddr6} {
		must(t, here.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}))
	}
	return &world{outside: outside}
}

// routeFromOutside makes the other host send packets for a subnet to this one.
func (w *world) routeFromOutside(t *testing.T, subnet netip.Prefix, gateway string) {
	t.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(w.outside.Fd()), unix.NETLINK_ROUTE)
	must(t, err)
	defer h.Close()
	_, dst, err := net.ParseCIDR(subnet.String())
	must(t, err)
	link, err := h.LinkByName("eth0")
	must(t, err)
	must(t, h.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(gateway), LinkIndex: link.Attrs().Index}))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var instances atomic.Uint32

// openManager opens a manager that is closed when the test ends, and must leave
// nothing then.
func openManager(t testing.TB, o Options) *Manager {
	t.Helper()
	if o.Instance == "" {
		o.Instance = fmt.Sprintf("%06x", uint32(os.Getpid())<<8&0xffff00|instances.Add(1))
	}
	if o.StateDir == "" {
		o.StateDir = t.TempDir()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(testLog{t}, nil))
	}
	m, err := Open(t.Context(), o)
	must(t, err)
	t.Cleanup(func() {
		if m.stopped.Err() != nil {
			return // the test has closed it
		}
		m.mu.Lock()
		var ids []string
		for id := range m.attached {
			ids = append(ids, id)
		}
		m.mu.Unlock()
		for _, id := range ids {
			if err := m.Disconnect(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
		checkNothingLeft(t, m)
	})
	return m
}

// checkNothingLeft fails if an interface or a table of a closed manager is there.
func checkNothingLeft(t testing.TB, m *Manager) {
	t.Helper()
	for _, prefix := range []string{m.linkPrefix(), m.bridge.Interface} {
		if names, err := listLinks(prefix); err != nil || len(names) > 0 {
			t.Errorf("interfaces %v are left (%v)", names, err)
		}
	}
	if tables := nft(t, "list", "tables"); strings.Contains(tables, m.rules.name) {
		t.Errorf("tables are left: %s", tables)
	}
}

// nft runs the real nft in the test's namespace.
func nft(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(context.Background(), "nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p)
	return len(p), nil
}

// box plays a container: a namespace in which servers of the test run.
type box struct {
	Attached
	ns *os.File
	es *network.EndpointSettings
}

func ports(t testing.TB, specs ...string) network.PortMap {
	t.Helper()
	m := network.PortMap{}
	for _, s := range specs { // [IP|]HOST>CONTAINER
		host, inner, ok := strings.Cut(s, ">")
		if !ok {
			t.Fatalf("bad port %q", s)
		}
		var b network.PortBinding
		if ip, port, ok := strings.Cut(host, "|"); ok {
			b.HostIP, host = netip.MustParseAddr(ip), port
		}
		b.HostPort = host
		p := network.MustParsePort(inner)
		m[p] = append(m[p], b)
	}
	return m
}

func askFor(name string, ns *os.File, asked network.PortMap) Request {
	return Request{
		ContainerID: newID(), Name: name, NetNS: ns, Ports: asked,
		Networks: map[string]*network.EndpointSettings{"bridge": {}},
	}
}

// connect makes a container, which serves its name on the TCP ports given.
func connect(t testing.TB, m *Manager, name string, asked network.PortMap, serve ...int) *box {
	t.Helper()
	ns, err := NewNetNS()
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	req := askFor(name, ns, asked)
	e, err := m.Connect(t.Context(), req)
	must(t, err)
	b := &box{Attached: Attached{ContainerID: req.ContainerID, Name: name, Endpoint: e}, ns: ns, es: e.Networks["bridge"]}
	for _, port := range serve {
		serveTCP(t, ns, port, name)
	}
	return b
}

// serveTCP answers each connection to a port in a namespace (nil: the host's)
// with a line: a name and the client's address.
func serveTCP(t testing.TB, ns *os.File, port int, name string) net.Listener {
	t.Helper()
	l := listenIn(t, ns, port)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				_, _ = fmt.Fprintf(c, "%s %s\n", name, host)
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	return l
}

// listenIn listens at a TCP port in a namespace (nil: the host's).
func listenIn(t testing.TB, ns *os.File, port int) (l net.Listener) {
	t.Helper()
	must(t, within(ns, func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// serveUDP answers each packet with its name.
func serveUDP(t testing.TB, ns *os.File, port int, name string) net.PacketConn {
	t.Helper()
	var l net.PacketConn
	must(t, within(ns, func() (err error) {
		l, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", fmt.Sprintf(":%d", port))
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			_, addr, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = l.WriteTo([]byte(name+"\n"), addr)
		}
	}()
	return l
}

func within(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	return inNetNS(ns, f)
}

// ask connects from a namespace (nil: the host's) and returns the server's name
// and the address that it saw.
func ask(ns *os.File, proto, addr string, timeout time.Duration) (name, client string, err error) {
	var c net.Conn
	err = within(ns, func() (err error) {
		c, err = (&net.Dialer{Timeout: timeout}).DialContext(context.Background(), proto, addr)
		return err
	})
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(timeout))
	if strings.HasPrefix(proto, "udp") {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", "", err
		}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	name, client, _ = strings.Cut(strings.TrimSpace(line), " ")
	return name, client, err
}

// reach is one line of a table: from where, to what, and who should answer;
// nobody if it is empty.
type reach struct {
	what  string
	from  *os.File
	proto string
	addr  string
	want  string
}

// check tries all at once: those that are dropped take their time.
func check(t *testing.T, table []reach) {
	t.Helper()
	var wg sync.WaitGroup
	for _, r := range table {
		wg.Go(func() {
			if r.proto == "" {
				r.proto = "tcp"
			}
			timeout := 5 * time.Second
			if r.want == "" {
				timeout = 700 * time.Millisecond
			}
			got, _, err := ask(r.from, r.proto, r.addr, timeout)
			if got != r.want {
				t.Errorf("%s, %s %s: got %q (%v), want %q", r.what, r.proto, r.addr, got, err, r.want)
			}
		})
	}
	wg.Wait()
}

func hostPort(addr netip.Addr, port int) string {
	return netip.AddrPortFrom(addr, uint16(port)).String()
}
