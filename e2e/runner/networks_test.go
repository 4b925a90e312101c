package runner

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// networked is a host whose networks are driven by the docker command.
type networked struct {
	*host
	web, busybox string
}

// TestNetworks makes networks of users and connects containers to them, kills the
// runner in between, and takes all away again: nothing is left.
func TestNetworks(t *testing.T) {
	t.Parallel()
	h := &networked{host: newHost(t, berthtest.MachineOptions{})}
	h.web, h.busybox = h.image("web:v1"), h.image("busybox")
	h.docker.Run("pull", "-q", h.web)
	before := h.usedCensus()
	begin := time.Now()
	h.several(t)
	h.ports(t)
	h.refusals(t)
	h.macvlan(t)
	h.events(t, begin)
	h.docker.Run("container", "prune", "-f")
	if got := h.docker.Run("network", "prune", "-f"); !strings.Contains(got, "unused") {
		t.Errorf("network prune says %q", got)
	}
	h.equal(t, "bridge\nhost\nnone\n", "network", "ls", "--format", "{{.Name}}")
	h.Settle(t, before)
}

// equal checks what docker writes.
func (h *networked) equal(t *testing.T, want string, args ...string) {
	t.Helper()
	if got := h.docker.Run(args...); strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("docker %s: %q, want %q", strings.Join(args, " "), got, want)
	}
}

// refused checks that docker fails and says why.
func (h *networked) refused(t *testing.T, want string, args ...string) {
	t.Helper()
	if out, stderr, err := h.docker.Try(args...); err == nil || !strings.Contains(stderr, want) {
		t.Errorf("docker %s: %q, %q, %v, want %q", strings.Join(args, " "), out, stderr, err, want)
	}
}

// serves checks that the web server of a container answers on the machine.
func (h *networked) serves(t *testing.T, addr string) {
	t.Helper()
	var got []byte
	err := eventually(func() error {
		resp, err := h.Machine.Client().Get("http://" + addr)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if got, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", addr, resp.Status)
		}
		return err
	})
	if err != nil || !strings.Contains(string(got), "seedtest web v1") {
		t.Errorf("%s: %q, %v", addr, got, err)
	}
}

// several has a container in several networks, from its start, while it runs and
// while it does not, and across the death of the runner.
func (h *networked) several(t *testing.T) {
	t.Helper()
	h.docker.Run("network", "create", "--subnet", "10.80.1.0/24", "--gateway", "10.80.1.9", "--ip-range", "10.80.1.128/25", "--aux-address", "r=10.80.1.128", "--label", "k=v", "na")
	h.docker.Run("network", "create", "--ipv6", "--subnet", "10.80.2.0/24", "--subnet", "fd80:2::/64", "nb")
	h.docker.Run("network", "create", "--internal", "--subnet", "10.80.3.0/24", "nc")
	h.equal(t, "na\nnb\nnc", "network", "ls", "-f", "type=custom", "--format", "{{.Name}}")
	h.equal(t, "na", "network", "ls", "-f", "label=k=v", "--format", "{{.Name}}")
	h.equal(t, "10.80.1.9 10.80.1.128/25 10.80.1.128 false", "network", "inspect", "-f",
		`{{with index .IPAM.Config 0}}{{.Gateway}} {{.IPRange}} {{.AuxAddress.r}}{{end}} {{.Internal}}`, "na")
	h.docker.Run("run", "-d", "--name", "cc", "--network", "name=nb,alias=x,ip=10.80.2.50,ip6=fd80:2::50,mac-address=02:11:22:33:44:55", "--network", "nc", h.web)
	inside := func(want ...string) {
		t.Helper()
		got := h.docker.Run("exec", "cc", "sh", "-c", "ip -o addr | awk '/inet/ {print $2, $4}'; ip route | sed -n 's/^default via //p'")
		for _, line := range want {
			if !slices.Contains(strings.Split(strings.TrimSpace(got), "\n"), line) {
				t.Errorf("inside is\n%swithout %q", got, line)
			}
		}
	}
	inside("eth0 10.80.2.50/24", "eth0 fd80:2::50/64", "eth1 10.80.3.2/24", "10.80.2.1 dev eth0")
	h.equal(t, "02:11:22:33:44:55 [x]", "inspect", "-f", "{{with .NetworkSettings.Networks.nb}}{{.MacAddress}} {{.Aliases}}{{end}}", "cc")
	h.equal(t, "cc 10.80.3.2/24", "network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}", "nc")
	h.docker.Run("network", "connect", "--alias", "y", "na", "cc")
	inside("eth2 10.80.1.129/24", "10.80.1.9 dev eth2")
	h.docker.Run("network", "disconnect", "nb", "cc")
	inside("eth2 10.80.1.129/24", "eth1 10.80.3.2/24")
	h.refused(t, "is not connected to network nb", "network", "disconnect", "nb", "cc")
	h.docker.Run("network", "connect", "--gw-priority", "1", "nb", "cc")
	inside("10.80.2.1 dev eth0")
	h.Kill()
	h.Restart()
	inside("eth2 10.80.1.129/24", "eth1 10.80.3.2/24", "10.80.2.1 dev eth0")
	h.refused(t, `network na has active endpoints (name:"cc" id:"`, "network", "rm", "na")
	h.docker.Run("network", "disconnect", "nc", "cc")
	h.docker.Run("rename", "cc", "dd")
	h.equal(t, "dd", "network", "inspect", "-f", "{{range .Containers}}{{.Name}}{{end}}", "na")
	h.docker.Run("rename", "dd", "cc")
	h.docker.Run("stop", "-t", "0", "cc")
	h.docker.Run("network", "disconnect", "nb", "cc")
	h.docker.Run("network", "connect", "--ip", "10.80.3.77", "nc", "cc")
	h.equal(t, "na nc ", "inspect", "-f", "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}", "cc")
	h.docker.Run("start", "cc")
	inside("eth1 10.80.3.77/24", "10.80.1.9 dev eth0")
	h.equal(t, "cc", "ps", "--format", "{{.Names}}", "-f", "network=nc")
	if out := h.docker.Run("run", "--rm", "--network", "container:cc", h.busybox, "ip", "-o", "addr"); !strings.Contains(out, "10.80.3.77/24") {
		t.Errorf("in the network of another: %s", out)
	}
	h.docker.Run("create", "--name", "joiner", "--network", "container:cc", h.busybox, "ip", "-o", "addr")
	h.docker.Run("rename", "cc", "dd")
	if out := h.docker.Run("start", "-a", "joiner"); !strings.Contains(out, "10.80.3.77/24") {
		t.Errorf("in the network of another that was renamed: %s", out)
	}
	h.docker.Run("network", "create", "unused")
	h.docker.Run("rm", "-f", "joiner", "dd")
	h.docker.Run("network", "rm", "na", "nb", "nc")
}

// ports publishes ports of containers in networks of users.
func (h *networked) ports(t *testing.T) {
	t.Helper()
	h.docker.Run("network", "create", "np")
	h.docker.Run("network", "create", "nq")
	h.docker.Run("run", "-d", "--name", "p1", "--network", "np", "-p", "18000-18010:8080", "-p", "127.0.0.1:18100-18102:7000-7002/udp", h.web)
	h.docker.Run("run", "-d", "--name", "p2", "--network", "nq", "-p", "18000-18010:8080", "-P", "--expose", "9000", h.web)
	h.equal(t, "0.0.0.0:18000\n[::]:18000", "port", "p1", "8080")
	h.equal(t, "0.0.0.0:18001\n[::]:18001", "port", "p2", "8080")
	h.equal(t, "127.0.0.1:18102", "port", "p1", "7002/udp")
	if got := h.docker.Run("port", "p2", "9000"); !strings.HasPrefix(got, "0.0.0.0:") {
		t.Errorf("-P publishes 9000 at %q", got)
	}
	for _, addr := range []string{"127.0.0.1:18000", "[::1]:18000", h.Machine.Address + ":18001", "[" + h.Machine.Address6 + "]:18001"} {
		h.serves(t, addr)
	}
	for _, from := range []string{"p1", "p2"} { // itself, and another network's
		for _, addr := range []string{h.Machine.Address + ":18000", h.Machine.Address + ":18001"} {
			if out, stderr, err := h.docker.Try("exec", from, "timeout", "5", "wget", "-q", "-O", "-", "http://"+addr); !strings.Contains(out, "seedtest web v1") {
				t.Errorf("%s from %s: %q, %s, %v", addr, from, out, stderr, err)
			}
		}
	}
	h.udp(t)
	// The runner may be killed while a port is published, and answers all the time.
	h.Kill()
	h.serves(t, "127.0.0.1:18000")
	h.Restart()
	h.serves(t, "[::1]:18000")
	h.refused(t, "port is already allocated by container p1", "run", "--name", "p3", "--network", "nq", "-p", "18000:8080", h.busybox, "true")
	h.docker.Run("rm", "-f", "p1", "p2", "p3")
	if _, err := h.Machine.Dial(t.Context(), "tcp", "127.0.0.1:18000"); err == nil {
		t.Error("a port of a container that is gone answers")
	}
	h.docker.Run("network", "rm", "np", "nq")
}

// udp sends to a published UDP port of a container.
func (h *networked) udp(t *testing.T) {
	t.Helper()
	pid := strings.TrimSpace(h.docker.Run("inspect", "-f", "{{.State.Pid}}", "p1"))
	server := h.listenIn(t, h.Machine.Path("proc", pid, "ns/net"), ":7001")
	defer server.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(append([]byte("heard "), buf[:n]...), from)
		}
	}()
	c, err := h.Machine.Dial(t.Context(), "udp", "127.0.0.1:18101")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "this"); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 100)
	if n, err := c.Read(buf); string(buf[:n]) != "heard this" {
		t.Errorf("a published UDP port: %q, %v", buf[:n], err)
	}
}

// listenIn listens to UDP in a network namespace.
func (h *networked) listenIn(t *testing.T, path, addr string) net.PacketConn {
	t.Helper()
	ns, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	type result struct {
		net.PacketConn
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		c, err := net.ListenPacket("udp", addr)
		done <- result{c, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.PacketConn
}

// refusals are errors in Docker's words.
func (h *networked) refusals(t *testing.T) {
	t.Helper()
	h.refused(t, "network nowhere not found", "run", "--rm", "--network", "nowhere", h.busybox, "true")
	h.refused(t, "network nowhere not found", "network", "inspect", "nowhere")
	h.refused(t, "bridge is a pre-defined network and cannot be removed", "network", "rm", "bridge")
	h.refused(t, "operation is not permitted on predefined none network", "network", "create", "none")
	h.refused(t, "network with name unused already exists", "network", "create", "unused")
	h.refused(t, "This node is not a swarm manager", "network", "create", "-d", "overlay", "x")
	h.refused(t, "This node is not a swarm manager", "network", "create", "--scope", "swarm", "x")
	h.refused(t, `plugin "weave" not found`, "network", "create", "-d", "weave", "x")
	h.refused(t, "Pool overlaps with other one on this address space", "network", "create", "--subnet", "172.16.0.0/12", "x")
	h.refused(t, "unknown option", "network", "create", "-o", "com.example=1", "x")
	h.refused(t, "network-scoped aliases are only supported for user-defined networks", "run", "--rm", "--network-alias", "a", h.busybox, "true")
	h.docker.Run("run", "-d", "--name", "hh", "--network", "host", h.busybox, "sleep", "1000")
	h.docker.Run("run", "-d", "--name", "nn", "--network", "none", h.busybox, "sleep", "1000")
	h.refused(t, "container sharing network namespace with another container or host cannot be connected to any other network", "network", "connect", "unused", "hh")
	h.refused(t, "container cannot be connected to multiple networks with one of the networks in private (none) mode", "network", "connect", "unused", "nn")
	h.refused(t, "No such container: nobody", "network", "connect", "unused", "nobody")
	h.docker.Run("rm", "-f", "hh", "nn")
	// A network that goes while its container does not run.
	h.docker.Run("network", "create", "gone")
	h.docker.Run("create", "--name", "gg", "--network", "gone", h.busybox, "true")
	h.docker.Run("network", "rm", "gone")
	h.refused(t, "network gone not found", "start", "gg")
}

// macvlan has containers beside the machine, on a wire of its own.
func (h *networked) macvlan(t *testing.T) {
	t.Helper()
	sh := berthtest.NewCommand(t, "sh", "-c").On(h.Machine)
	sh.Run("ip link add mv0 type veth peer mv1 && ip link set mv0 up && ip link set mv1 up && ip address add 10.81.0.1/24 dev mv1")
	h.docker.Run("network", "create", "-d", "macvlan", "-o", "parent=mv0", "--subnet", "10.81.0.0/24", "--gateway", "10.81.0.1", "mac")
	h.docker.Run("run", "-d", "--name", "mm", "--network", "mac", "--ip", "10.81.0.7", h.web)
	h.serves(t, "10.81.0.7:8080")
	h.docker.Run("restart", "-t", "0", "mm")
	h.serves(t, "10.81.0.7:8080")
	h.docker.Run("rm", "-f", "mm")
	h.docker.Run("network", "rm", "mac")
	sh.Run("ip link delete mv0")
}

// events are those of networks, in order.
func (h *networked) events(t *testing.T, begin time.Time) {
	t.Helper()
	h.docker.Run("network", "create", "ev")
	h.docker.Run("run", "--rm", "--name", "ee", "--network", "ev", h.busybox, "true")
	h.docker.Run("network", "rm", "ev")
	got := h.docker.Run("events", "--since", fmt.Sprint(begin.Unix()), "--until", fmt.Sprint(time.Now().Unix()+1), "-f", "type=network", "-f", "network=ev",
		"--format", "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}} {{if .Actor.Attributes.container}}container{{end}}")
	if want := "create ev bridge \nconnect ev bridge container\ndisconnect ev bridge container\ndestroy ev bridge \n"; got != want {
		t.Errorf("events are\n%swant\n%s", got, want)
	}
}

// TestNetworksAtOnce kills the runner while networks come and go: what was
// acknowledged is so, and nothing else is left of them.
func TestNetworksAtOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	before := h.usedCensus()
	busybox := h.image("busybox")
	for round := range 4 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		made := map[string]bool{}
		for worker := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					name := fmt.Sprintf("n%d-%d-%d", round, worker, i)
					if _, _, err := h.docker.Try("network", "create", name); err != nil {
						return // the runner is dead
					}
					mu.Lock()
					made[name] = true
					mu.Unlock()
					if _, _, err := h.docker.Try("run", "-d", "--name", "c"+name, "--network", name, busybox, "sleep", "1000"); err != nil {
						return
					}
					if i%2 == 0 {
						continue
					}
					if _, _, err := h.docker.Try("rm", "-f", "c"+name); err != nil {
						return
					}
					mu.Lock()
					delete(made, name) // whether it is there is not known until it is acknowledged
					mu.Unlock()
					if _, _, err := h.docker.Try("network", "rm", name); err != nil {
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(700+200*round) * time.Millisecond)
		h.Kill()
		wg.Wait()
		h.Restart()
		there := strings.Fields(h.docker.Run("network", "ls", "-f", "type=custom", "--format", "{{.Name}}"))
		for name := range made {
			if !slices.Contains(there, name) {
				t.Errorf("round %d: network %s was acknowledged and is not there; there are %v", round, name, there)
			}
		}
		if ids := strings.Fields(h.docker.Run("ps", "-aq")); len(ids) > 0 {
			h.docker.Run(append([]string{"rm", "-f"}, ids...)...)
		}
		h.docker.Run("network", "prune", "-f")
		h.Settle(t, before)
	}
}
