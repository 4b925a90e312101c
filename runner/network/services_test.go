package network

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
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

const owner = "stack/test"

// behind makes a service of containers with equal weights.
func behind(name string, asked network.PortMap, boxes ...*box) runner.Service {
	s := runner.Service{Name: name, Ports: asked}
	for _, b := range boxes {
		s.Backends = append(s.Backends, runner.Backend{Container: b.ContainerID, Weight: 1})
	}
	return s
}

func setServices(t testing.TB, m *Manager, list ...runner.Service) map[string]network.PortMap {
	t.Helper()
	given, err := m.SetServices(owner, list)
	must(t, err)
	return given
}

// backends connects containers that serve their names.
func backends(t testing.TB, m *Manager, names ...string) (list []*box) {
	t.Helper()
	for _, name := range names {
		list = append(list, connect(t, m, name, nil, 80))
	}
	return list
}

// again connects a container that was connected before, as at its restart.
func (b *box) again(t testing.TB, m *Manager, serve ...int) {
	t.Helper()
	ns, err := NewNetNS()
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	req := askFor(b.Name, ns, nil)
	req.ContainerID = b.ContainerID
	b.Endpoint, err = m.Connect(t.Context(), req)
	must(t, err)
	b.ns, b.es = ns, b.Endpoint.Networks["bridge"]
	for _, port := range serve {
		serveTCP(t, ns, port, b.Name)
	}
}

// count asks so often who answers.
func count(t testing.TB, addr string, times int) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for range times {
		name, _, err := ask(nil, "tcp", addr, 5*time.Second)
		if err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		seen[name]++
	}
	return seen
}

// What a port of a service leads to is reached from everywhere, as a container's
// own port is, and refuses connections while it leads to nobody.
func TestServiceIsReached(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	create(t, m, "four")
	create(t, m, "inner", internal)
	list := backends(t, m, "blue", "green")
	blue, green := list[0], list[1]
	four := connectTo(t, m, "four", []string{"four"}, nil, 80)
	inner := connectTo(t, m, "inner", []string{"inner"}, nil, 80)
	everywhere := func(want string) {
		t.Helper()
		table := []reach{
			{"outside", w.outside, "", hostAddr4 + ":8080", want},
			{"outside", w.outside, "", "[" + hostAddr6 + "]:8080", want},
			{"host", nil, "", "127.0.0.1:8080", want},
			{"host", nil, "", "[::1]:8080", want},
			{"host", nil, "", hostAddr4 + ":8080", want},
			{"itself", blue.ns, "", hostAddr4 + ":8080", want},
			{"another network", four.ns, "", hostAddr4 + ":8080", want},
			{"an internal network", inner.ns, "", hostAddr4 + ":8080", ""},
			{"one address", nil, "", "127.0.0.2:8081", want},
			{"another address", nil, "", "127.0.0.1:8081", ""},
		}
		check(t, table)
		if want != "" {
			return
		}
		for _, r := range table[:5] {
			begin := time.Now()
			if _, _, err := ask(r.from, "tcp", r.addr, 3*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s, %s leads nowhere: %v after %v", r.what, r.addr, err, time.Since(begin))
			}
		}
	}
	asked := ports(t, "8080>80/tcp", "127.0.0.2|8081>80/tcp")
	for _, s := range []struct {
		box  *box
		want string
	}{{blue, "blue"}, {green, "green"}, {four, "four"}, {blue, "blue"}, {four, "four"}, {inner, ""}} {
		setServices(t, m, behind("web", asked, s.box))
		everywhere(s.want)
	}
	setServices(t, m, behind("web", asked))
	everywhere("")
	if got := m.Services(owner); len(got) != 1 || !reflect.DeepEqual(got[0].Ports, asked) {
		t.Errorf("the services are %+v", got)
	}
	setServices(t, m)
	if got := m.Services(owner); got != nil {
		t.Errorf("the services are %+v", got)
	}
	if rules := nft(t, "list", "table", "inet", m.rules.name); strings.Contains(rules, "808") {
		t.Errorf("rules are left:\n%s", rules)
	}
	l, err := net.Listen("tcp", ":8080")
	must(t, err)
	must(t, l.Close())
}

// Two sets take turns under load: no connection is refused, and none that is begun
// after a switch goes to the set before.
func TestSwitchUnderLoad(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	colours := [][]*box{backends(t, m, "blue1", "blue2"), backends(t, m, "green1", "green2")}
	asked := ports(t, "8080>80/tcp")
	setServices(t, m, behind("web", asked, colours[0]...))
	var begun, settled, asks atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	for _, from := range []*os.File{nil, nil, w.outside, w.outside} {
		for _, addr := range []string{hostAddr4 + ":8080", "[" + hostAddr6 + "]:8080"} {
			wg.Go(func() {
				for !isDone(done) {
					before := settled.Load()
					name, _, err := ask(from, "tcp", addr, 10*time.Second)
					after := begun.Load()
					asks.Add(1)
					if want := []string{"blue", "green"}[before%2]; err != nil || before == after && !strings.HasPrefix(name, want) {
						t.Errorf("switch %d to %d: %s is answered by %q, %v", before, after, addr, name, err)
					}
				}
			})
		}
	}
	const switches = 100
	for i := int64(1); i <= switches || asks.Load() < 2000; i++ {
		begun.Store(i)
		setServices(t, m, behind("web", asked, colours[i%2]...))
		settled.Store(i)
	}
	close(done)
	wg.Wait()
	t.Logf("%d connections, %d switches", asks.Load(), settled.Load())
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// New connections are spread by weight; one that ends leaves the balance at once,
// and comes back with the address that it has then.
func TestWeights(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	boxes := backends(t, m, "a", "b", "c", "d")
	s := behind("web", ports(t, "8080>80/tcp"), boxes...)
	expect := func(addr string, weights ...int) {
		t.Helper()
		sum := 0
		for i, w := range weights {
			s.Backends[i].Weight = w
			sum += w
		}
		setServices(t, m, s)
		const times = 600
		seen := count(t, addr, times)
		for i, w := range weights {
			p := float64(w) / float64(sum)
			bound := 5 * math.Sqrt(times*p*(1-p)) // one in a million
			if got := float64(seen[boxes[i].Name]); math.Abs(got-times*p) > bound {
				t.Errorf("%s with weights %v: %v", addr, weights, seen)
			}
		}
	}
	expect("127.0.0.1:8080", 1, 1, 1, 0)
	expect("127.0.0.1:8080", 10, 30, 0, 60)
	expect("["+hostAddr6+"]:8080", 2, 1, 0, 1)
	expect("[::1]:8080", 2, 1, 0, 1)
	expect("127.0.0.1:8080", 0, 2000000000, 1, 0)

	expect("127.0.0.1:8080", 1, 1, 0, 0)
	must(t, m.Disconnect(t.Context(), boxes[0].ContainerID))
	if seen := count(t, "127.0.0.1:8080", 50); seen["b"] != 50 {
		t.Errorf("one has ended: %v", seen)
	}
	spare := connect(t, m, "spare", nil) // it may have the address that is free
	boxes[0].again(t, m, 80)
	if seen := count(t, "127.0.0.1:8080", 100); seen["a"]+seen["b"] != 100 || seen["a"] == 0 || seen["b"] == 0 {
		t.Errorf("it has come back: %v", seen)
	}
	must(t, m.Disconnect(t.Context(), spare.ContainerID))
	must(t, m.Forget(boxes[0].ContainerID))
	if list := m.Services(owner); len(list[0].Backends) != 3 || hasBackend(list[0], boxes[0].ContainerID) {
		t.Errorf("one was removed: %+v", list)
	}
}

// Established connections stay where they are, and are counted.
func TestEstablishedConnectionsStay(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	create(t, m, "four")
	boxes := backends(t, m, "blue", "green")
	four := connectTo(t, m, "four", []string{"four"}, nil, 80)
	asked := ports(t, "8080>80/tcp")
	connections := func(b *box, want int) {
		t.Helper()
		if got, err := m.Connections(b.ContainerID); err != nil || got != want {
			t.Errorf("%s has %d connections, want %d (%v)", b.Name, got, want, err)
		}
	}
	var open []net.Conn
	dial := func(addr, want string) {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		open = append(open, c)
		buf := make([]byte, len(want))
		if _, err := c.Read(buf); err != nil || string(buf) != want {
			t.Errorf("%s: %q, %v", addr, buf, err)
		}
	}
	for _, b := range []*box{boxes[0], four} { // by rules, and carried
		setServices(t, m, behind("web", asked, b))
		connections(b, 0)
		dial("127.0.0.1:8080", b.Name)
		dial("["+hostAddr6+"]:8080", b.Name)
		dial("[::1]:8080", b.Name)
		connections(b, 3)
	}
	setServices(t, m, behind("web", asked, boxes[1]))
	setServices(t, m)
	connections(boxes[0], 3)
	connections(four, 3)
	for _, c := range open {
		must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		must(t, c.(*net.TCPConn).CloseWrite())
		for { // until the server has ended it, too
			if _, err := c.Read(make([]byte, 100)); err != nil {
				if err.Error() != "EOF" {
					t.Error(err)
				}
				break
			}
		}
	}
	connections(boxes[0], 0)
}

// A manager ends while connections are made, and the next one goes on: none is
// refused meanwhile.
func TestServicesOutliveTheManager(t *testing.T) {
	w := newWorld(t)
	o := Options{Instance: "0c0ff1", StateDir: t.TempDir()}
	m := openManager(t, o)
	boxes := backends(t, m, "blue", "green")
	alive := []Attached{boxes[0].Attached, boxes[1].Attached}
	s := behind("web", ports(t, ">80/tcp"), boxes...)
	given := setServices(t, m, s)["web"]
	addr := hostAddr4 + ":" + given[port80][0].HostPort
	done := make(chan struct{})
	var asks atomic.Int64
	var wg sync.WaitGroup
	for _, from := range []*os.File{nil, w.outside} {
		wg.Go(func() {
			for !isDone(done) {
				asks.Add(1)
				if _, _, err := ask(from, "tcp", addr, 10*time.Second); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 6 {
		if i%2 == 0 {
			crash(m)
		} else {
			must(t, m.Close(t.Context()))
		}
		m = openManager(t, o)
		must(t, m.Restore(t.Context(), alive))
		if got := m.Services(owner); !reflect.DeepEqual(got, []runner.Service{s}) {
			t.Errorf("the services are %+v, were %+v", got, s)
		}
		if got := setServices(t, m, s)["web"]; !reflect.DeepEqual(got, given) {
			t.Errorf("the ports are %v, were %v", got, given)
		}
	}
	close(done)
	wg.Wait()
	t.Logf("%d connections", asks.Load())
	if l, err := net.Listen("tcp", ":"+given[port80][0].HostPort); err == nil {
		t.Errorf("the port is not held: %v", l.Addr())
	}
	// Somebody flushes the table.
	for _, harm := range []string{"flush ruleset", "flush chain inet " + m.rules.name + " tcp4-" + given[port80][0].HostPort} {
		nft(t, strings.Fields(harm)...)
		for begin := time.Now(); ; {
			if _, _, err := ask(nil, "tcp", addr, 200*time.Millisecond); err == nil {
				break
			}
			if time.Since(begin) > 2*time.Second {
				t.Fatalf("after nft %s: not reached", harm)
			}
		}
	}
	// The host goes down: containers come one by one.
	crash(m)
	for _, b := range boxes {
		must(t, b.ns.Close())
	}
	m = openManager(t, o)
	must(t, m.Restore(t.Context(), nil))
	if _, _, err := ask(nil, "tcp", addr, time.Second); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("nobody is back: %v", err)
	}
	for i, b := range boxes {
		b.again(t, m, 80)
		if seen := count(t, addr, 40); len(seen) != i+1 {
			t.Errorf("%d of 2 are back: %v", i+1, seen)
		}
	}
}

// A daemon that ends when a switch is on disk, and before it is in force, has made
// it at its next start.
func TestCrashWithinASwitch(t *testing.T) {
	newWorld(t)
	o := Options{Instance: "0c0ff2", StateDir: t.TempDir()}
	m := openManager(t, o)
	boxes := backends(t, m, "blue", "green")
	alive := []Attached{boxes[0].Attached, boxes[1].Attached}
	asked := ports(t, "8080>80/tcp", "8081>80/tcp")
	setServices(t, m, behind("web", asked, boxes[0]), behind("other", ports(t, "8082>80/tcp"), boxes[0]))
	saved := filepath.Join(o.StateDir, servicesFile)
	before, err := os.ReadFile(saved)
	must(t, err)
	setServices(t, m, behind("web", asked, boxes[1]), behind("other", ports(t, "8083>80/tcp"), boxes[1]))
	after, err := os.ReadFile(saved)
	must(t, err)
	for _, s := range []struct {
		saved         []byte
		want          string
		there, absent string
	}{{before, "blue", "8082", "8083"}, {after, "green", "8083", "8082"}} {
		crash(m)
		must(t, os.WriteFile(saved, s.saved, 0o600))
		must(t, os.WriteFile(filepath.Join(o.StateDir, ".new-half"), s.saved[:len(s.saved)/2], 0o600))
		m = openManager(t, o)
		must(t, m.Restore(t.Context(), alive))
		check(t, []reach{
			{"", nil, "", "127.0.0.1:8080", s.want},
			{"", nil, "", "127.0.0.1:8081", s.want},
			{"", nil, "", "127.0.0.1:" + s.there, s.want},
			{"", nil, "", "127.0.0.1:" + s.absent, ""},
		})
		if _, err := os.Stat(filepath.Join(o.StateDir, ".new-half")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what was being written is left: %v", err)
		}
	}
}

// Services whose file is damaged can be set again, and what could not be read is kept.
func TestServicesDamaged(t *testing.T) {
	newWorld(t)
	o := Options{Instance: "0c0ff3", StateDir: t.TempDir()}
	m := openManager(t, o)
	boxes := backends(t, m, "blue")
	web := behind("web", ports(t, "8080>80/tcp"), boxes[0])
	saved := filepath.Join(o.StateDir, servicesFile)
	for _, text := range []string{"", "[{", "\x00\x00"} {
		setServices(t, m, web)
		crash(m)
		must(t, os.WriteFile(saved, []byte(text), 0o600))
		m = openManager(t, o)
		must(t, m.Restore(t.Context(), []Attached{boxes[0].Attached}))
		check(t, []reach{{"", nil, "", "127.0.0.1:8080", ""}})
		setServices(t, m, web)
		check(t, []reach{{"", nil, "", "127.0.0.1:8080", "blue"}})
		if got, err := os.ReadFile(saved + damaged); err != nil || string(got) != text {
			t.Errorf("of %q is kept %q, %v", text, got, err)
		}
	}
}

// What cannot be leaves all as it was.
func TestServicesRefused(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	boxes := backends(t, m, "blue", "green")
	connect(t, m, "taken", ports(t, "9000>80/tcp"), 80)
	l, err := net.Listen("tcp", "127.0.0.1:9001")
	must(t, err)
	defer l.Close()
	_, err = m.SetServices("stack/other", []runner.Service{behind("api", ports(t, "127.0.0.1|9002>80/tcp"), boxes[0])})
	must(t, err)
	s := behind("web", ports(t, "8080>80/tcp", "8081>80/udp"), boxes[0])
	setServices(t, m, s)
	saved := filepath.Join(m.stateDir, servicesFile)
	disk, err := os.ReadFile(saved)
	must(t, err)
	rules, files := nft(t, "list", "table", "inet", m.rules.name), openFiles(t)
	next := func(edit func(*runner.Service)) []runner.Service {
		s := behind("web", ports(t, "8085>80/tcp", "8080>80/tcp"), boxes[1])
		edit(&s)
		return []runner.Service{s}
	}
	port := func(spec string) []runner.Service {
		return next(func(s *runner.Service) {
			for p, b := range ports(t, spec) {
				s.Ports[p] = append(s.Ports[p], b...)
			}
		})
	}
	alias := func(network string, names ...string) []runner.Service {
		return next(func(s *runner.Service) { s.Aliases = map[string][]string{network: names} })
	}
	weights := func(list ...int) []runner.Service {
		return next(func(s *runner.Service) {
			s.Backends = nil
			for i, w := range list {
				s.Backends = append(s.Backends, runner.Backend{Container: fmt.Sprint(i / 2), Weight: w})
			}
		})
	}
	for _, c := range []struct {
		list []runner.Service
		kind error
		want string
	}{
		{port("9000>80/tcp"), runner.ErrConflict, "Bind for 0.0.0.0:9000 failed: port is already allocated by container taken"},
		{port("9001>80/tcp"), runner.ErrConflict, "failed to bind host port 0.0.0.0:9001/tcp: address already in use by "},
		{port("9002>80/tcp"), runner.ErrConflict, "Bind for 0.0.0.0:9002 failed: port is already allocated by service api of stack/other"},
		{port("8080>81/tcp"), runner.ErrConflict, "Bind for 0.0.0.0:8080 failed: port is already allocated by service web of stack/test"},
		{port("198.51.100.7|80>80/tcp"), runner.ErrConflict, "failed to bind host port 198.51.100.7:80/tcp: "},
		{port("9-8>80/tcp"), runner.ErrInvalid, "invalid port specification"},
		{append(port("1>1/tcp"), behind("web", nil)), runner.ErrInvalid, "must be unique"},
		{[]runner.Service{{}}, runner.ErrInvalid, "not empty"},
		{weights(1, 1), runner.ErrInvalid, "be there once"},
		{weights(-1), runner.ErrInvalid, "a weight of -1"},
		{weights(math.MaxInt), runner.ErrInvalid, "a weight of"},
		{alias("nowhere", "x"), runner.ErrNotFound, "network nowhere not found"},
		{alias("bridge", "x"), runner.ErrInvalid, "only supported for user-defined networks"},
	} {
		if _, err := m.SetServices(owner, c.list); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
		if got := nft(t, "list", "table", "inet", m.rules.name); got != rules {
			t.Errorf("%s: the rules are\n%s\nwere\n%s", c.want, got, rules)
		}
		if got, err := os.ReadFile(saved); err != nil || !bytes.Equal(got, disk) {
			t.Errorf("%s: on disk is\n%s", c.want, got)
		}
		if got := m.Services(owner); !reflect.DeepEqual(got, []runner.Service{s}) {
			t.Errorf("%s: the services are %+v", c.want, got)
		}
		if got := filesAtRest(t, files); got > files {
			t.Errorf("%s: %d files, were %d", c.want, got, files)
		}
	}
	check(t, []reach{{"", nil, "", "127.0.0.1:8080", "blue"}, {"", nil, "", "[::1]:8080", "blue"}})
	if _, err := m.SetServices("", nil); !errors.Is(err, runner.ErrInvalid) {
		t.Error(err)
	}
}

// Ports stay the same as long as a service has them, and move to other addresses
// that overlap with theirs.
func TestPortsOfServicesStay(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	create(t, m, "four")
	four := connectTo(t, m, "four", []string{"four"}, nil, 80, 81)
	s := behind("web", ports(t, ">80/tcp", "8000-8010>81/tcp", "127.0.0.1|0>81/udp"), four)
	given := setServices(t, m, s)["web"]
	other := connect(t, m, "other", nil, 80, 81)
	s = behind("web", s.Ports, other)
	delete(s.Ports, network.MustParsePort("81/udp"))
	extra := behind("extra", ports(t, ">80/tcp"), other)
	got := setServices(t, m, extra, s)
	for _, p := range []string{"80/tcp", "81/tcp"} {
		port := network.MustParsePort(p)
		if !slices.Equal(got["web"][port], given[port]) {
			t.Errorf("%s was at %v, is at %v", p, given[port], got["web"][port])
		}
		check(t, []reach{{p, nil, "", "127.0.0.1:" + given[port][0].HostPort, "other"}})
	}
	// The first port is of the container's, the second at more or fewer addresses.
	for _, spec := range []string{"8080>80/tcp", "8080>81/tcp", "127.0.0.1|8080>80/tcp", "::1|8080>80/tcp", "8080>81/tcp", "::|8080>80/tcp", hostAddr4 + "|8080>80/tcp"} {
		for _, b := range []*box{four, other} {
			addr, want4 := netip.MustParseAddr("127.0.0.1"), b.Name
			if ip, _, ok := strings.Cut(spec, "|"); ok {
				addr = netip.MustParseAddr(ip)
				if addr.IsUnspecified() {
					addr = netip.IPv6Loopback()
				}
				if addr != netip.MustParseAddr("127.0.0.1") {
					want4 = ""
				}
			}
			given := setServices(t, m, behind("web", ports(t, spec), b))["web"]
			check(t, []reach{
				{spec, nil, "", hostPort(addr, 8080), b.Name},
				{spec, nil, "", "127.0.0.1:8080", want4},
			})
			for _, list := range given {
				for _, g := range list {
					if l, err := net.Listen("tcp", hostPort(g.HostIP, 8080)); err == nil {
						t.Errorf("%s: %s is not held", spec, l.Addr())
						must(t, l.Close())
					}
				}
			}
		}
	}
	if l, err := net.Listen("tcp", "127.0.0.1:8080"); err != nil {
		t.Error(err)
	} else {
		must(t, l.Close())
	}
}

// A client of UDP that goes on sending stays with its backend, and moves when that
// is gone.
func TestServiceOverUDP(t *testing.T) {
	w := newWorld(t)
	m := openManager(t, Options{})
	asked := ports(t, "5353>53/udp")
	setServices(t, m, behind("dns", asked))
	for from, addrs := range map[*os.File][]string{
		nil:       {hostAddr4 + ":5353", "[::1]:5353"},
		w.outside: {hostAddr4 + ":5353", "[" + hostAddr6 + "]:5353"},
	} {
		for _, addr := range addrs {
			var c net.Conn
			must(t, within(from, func() (err error) {
				c, err = net.Dial("udp", addr)
				return err
			}))
			answered := func(want string) {
				t.Helper()
				begin := time.Now()
				for buf := make([]byte, 100); ; {
					_, err := c.Write([]byte("?"))
					must(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
					n, rerr := c.Read(buf)
					if rerr == nil && strings.TrimSpace(string(buf[:n])) == want {
						return
					}
					if time.Since(begin) > 3*time.Second {
						t.Fatalf("%s: answered by %q, want %q (%v, %v)", addr, buf[:max(n, 0)], want, err, rerr)
					}
				}
			}
			_, err := c.Write([]byte("?")) // while it leads to nobody
			must(t, err)
			blue, green := connect(t, m, "blue", nil), connect(t, m, "green", nil)
			serveUDP(t, blue.ns, 53, "blue")
			serveUDP(t, green.ns, 53, "green")
			setServices(t, m, behind("dns", asked, blue))
			// Until the kernel has forgotten that it led to nobody, its packets are carried.
			m.forgetStrays()
			answered("blue")
			setServices(t, m, behind("dns", asked, green))
			answered("blue")
			if n, err := m.Connections(blue.ContainerID); n != 1 || err != nil {
				t.Errorf("%s: %d clients (%v)", addr, n, err)
			}
			must(t, m.Disconnect(t.Context(), blue.ContainerID))
			answered("green")
			must(t, m.Disconnect(t.Context(), green.ContainerID))
			must(t, c.Close())
		}
	}
}

// A name of a service is its backends that have a weight and run.
func TestAliasesOfServices(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	create(t, m, "net", ipv6)
	create(t, m, "other")
	var boxes []*box
	for _, name := range []string{"a", "b", "c"} {
		boxes = append(boxes, connectTo(t, m, name, []string{"net"}, nil))
	}
	client := connectTo(t, m, "client", []string{"net", "other"}, nil)
	own, err := m.Connect(t.Context(), Request{
		ContainerID: newID(), Name: "own", NetNS: func() *os.File { ns, err := NewNetNS(); must(t, err); return ns }(),
		Networks: map[string]*network.EndpointSettings{"net": {Aliases: []string{"web"}}},
	})
	must(t, err)
	s := behind("web", nil, boxes...)
	s.Aliases = map[string][]string{"net": {"Web", "shop"}, "other": {"elsewhere"}}
	moves := false
	lookup := func(name string, want ...*box) {
		t.Helper()
		got, found := m.Lookup(client.ContainerID, name)
		var want4, want6 []netip.Addr
		for _, b := range want {
			want4, want6 = append(want4, b.Endpoint.Networks["net"].IPAddress), append(want6, b.Endpoint.Networks["net"].GlobalIPv6Address)
		}
		for _, list := range [][]netip.Addr{got.V4, got.V6, want4, want6} {
			slices.SortFunc(list, netip.Addr.Compare)
		}
		if found != (len(want) > 0) || !slices.Equal(got.V4, want4) || !slices.Equal(got.V6, want6) || got.Moves != moves {
			t.Errorf("%s: %+v, want %v %v, which moves: %v", name, got, want4, want6, moves)
		}
	}
	withAlias := &box{Attached: Attached{Endpoint: own}}
	lookup("web", withAlias)
	lookup("shop")
	s.Backends[2].Weight = 0
	setServices(t, m, s)
	moves = true
	lookup("web", withAlias, boxes[0], boxes[1])
	lookup("WEB.net.", withAlias, boxes[0], boxes[1])
	lookup("shop", boxes[0], boxes[1])
	must(t, m.Disconnect(t.Context(), boxes[0].ContainerID))
	lookup("shop", boxes[1])
	moves = false
	lookup("b", boxes[1])
	lookup("elsewhere")
	moves = true
	s.Backends[1].Weight, s.Backends[2].Weight = 0, 1
	setServices(t, m, s)
	lookup("shop", boxes[2])
	setServices(t, m)
	moves = false
	lookup("shop")
	lookup("web", withAlias)
}

// fromPort returns a function that connects to port 8080 of the host from a port that is
// always the same, and expects an answer.
func fromPort(t *testing.T, port int) func(want string) *net.TCPConn {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}}
	return func(want string) *net.TCPConn {
		t.Helper()
		dialed, err := dialer.DialContext(t.Context(), "tcp", "127.0.0.1:8080")
		must(t, err)
		c := dialed.(*net.TCPConn)
		must(t, c.SetLinger(0)) // so that the port is free at once
		t.Cleanup(func() { _ = c.Close() })
		must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
		buf := make([]byte, len(want))
		if _, err := c.Read(buf); err != nil || string(buf) != want {
			t.Errorf("answered by %q, %v, want %s", buf, err, want)
		}
		return c
	}
}

// flowsFrom are what the kernel remembers of connections from a port.
func flowsFrom(t *testing.T, port uint16) []*netlink.ConntrackFlow {
	t.Helper()
	all, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	must(t, err)
	return slices.DeleteFunc(all, func(f *netlink.ConntrackFlow) bool { return f.Forward.SrcPort != port })
}

// A client whose connection a backend has reset is not led there again, past the switch,
// when it comes from the same port.
func TestResetFlowIsNotTheNextOne(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	blue, green := connect(t, m, "blue", nil), connect(t, m, "green", nil, 80)
	l := listenIn(t, blue.ns, 80)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.WriteString(c, "blue")
			_, _ = c.Read(make([]byte, 1))
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	}()
	dial := fromPort(t, 23457)
	asked := ports(t, "8080>80/tcp")
	setServices(t, m, behind("web", asked, blue))
	c := dial("blue")
	_, err := c.Write([]byte("x"))
	must(t, err)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the connection ends with %v", err)
	}
	must(t, c.Close())
	setServices(t, m, behind("web", asked, green))
	for begin := time.Now(); len(flowsFrom(t, 23457)) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > 5*time.Second { // the kernel's own time is ten
			t.Fatalf("the kernel remembers %v", flowsFrom(t, 23457))
		}
	}
	dial("green")
}

// A client that comes from the same port again, while the flow that it had before is
// about to be forgotten, keeps the new one.
func TestForgottenFlowIsNotTheNextOne(t *testing.T) {
	newWorld(t)
	m := openManager(t, Options{})
	boxes := backends(t, m, "blue", "green")
	asked := ports(t, "8080>80/tcp")
	dial := fromPort(t, 23456)
	setServices(t, m, behind("web", asked, boxes[0]))
	must(t, dial("blue").Close())
	all := flowsFrom(t, 23456)
	setServices(t, m, behind("web", asked, boxes[1]))
	after := dial("green")
	setServices(t, m, behind("web", asked, boxes[0])) // where it would go if it began anew
	for _, flow := range all {
		must(t, forgetFlow(unix.AF_INET, flow))
	}
	if len(all) == 0 {
		t.Error("there was no flow")
	}
	if _, err := after.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	must(t, after.CloseWrite())
	if rest, err := io.ReadAll(after); err != nil {
		t.Errorf("the connection was cut off: %q, %v", rest, err)
	}
}
