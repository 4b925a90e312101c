package runner

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/netns"
)

// named is a host whose containers look for each other by name. Its own server of
// names is the one on its loopback, and knows example.org.
type named struct {
	*host
	busybox string
}

// TestNames has containers look for each other by the names that they have in
// their networks, while those come and go.
func TestNames(t *testing.T) {
	t.Parallel()
	h := &named{host: newHost(t, berthtest.MachineOptions{})}
	h.busybox = h.image("busybox")
	h.serveNames(t, "192.0.2.1")
	before := h.usedCensus()
	h.docker.Run("network", "create", "--subnet", "10.81.1.0/24", "--subnet", "fd81:1::/64", "--ipv6", "n1")
	h.docker.Run("network", "create", "--subnet", "10.81.2.0/24", "n2")
	h.docker.Run("network", "create", "--subnet", "10.81.3.0/24", "--internal", "n3")
	h.byName(t)
	h.outside(t)
	h.comeAndGo(t)
	h.hosts(t)
	h.links(t)
	h.remove(t)
	h.docker.Run("network", "rm", "n1", "n2", "n3")
	h.Settle(t, before)
}

// serveNames has a server on the machine that answers with an address, and makes
// it the machine's own, on its loopback.
func (h *named) serveNames(t *testing.T, answer string) {
	t.Helper()
	ns, err := os.Open(h.Machine.Path("proc", "1", "ns", "net"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var pc net.PacketConn
	err = netns.Do(ns, func() (err error) {
		pc, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "0.0.0.0:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		switch q := r.Question[0]; {
		case q.Name != "example.org.":
			m.Rcode = dns.RcodeNameError
		case q.Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(answer)})
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = pc.Close() })
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\nsearch corp.example\noptions edns0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	berthtest.NewCommand(t, "mount", "--bind", conf, "/etc/resolv.conf").On(h.Machine).Run()
}

// start starts a container that does nothing.
func (h *named) start(t *testing.T, name string, args ...string) {
	t.Helper()
	h.docker.Run(slices.Concat([]string{"run", "-d", "--name", name}, args, []string{h.busybox, "sleep", "1000"})...)
}

// lookup returns the addresses that a name has in a container, sorted.
func (h *named) lookup(from, kind, name string) string {
	ask := []string{"exec", from, "nslookup", "-type=" + kind, name + "."} // no search domains
	if kind == "ptr" {
		ask = []string{"exec", from, "nslookup", name} // so it makes a question of an address
	}
	out, _, err := h.docker.Try(ask...)
	_, out, _ = strings.Cut(out, "\n\n") // what comes first is of the server
	var found []string
	for line := range strings.Lines(out) {
		if addr, ok := strings.CutPrefix(strings.TrimSpace(line), "Address: "); ok {
			found = append(found, addr)
		} else if _, host, ok := strings.Cut(line, "name = "); ok {
			found = append(found, strings.TrimSpace(host))
		}
	}
	if len(found) == 0 && err != nil {
		return "none"
	}
	slices.Sort(found)
	return strings.Join(found, " ")
}

// finds checks what names mean in a container: "NAME=ADDRESSES", of IPv4.
func (h *named) finds(t *testing.T, from string, want ...string) {
	t.Helper()
	for _, w := range want {
		name, addrs, _ := strings.Cut(w, "=")
		if got := h.lookup(from, "a", name); got != addrs {
			t.Errorf("in %s the name %s is of %q, want %q", from, name, got, addrs)
		}
	}
}

// contains checks a file of a container.
func (h *named) contains(t *testing.T, name, file, want string) {
	t.Helper()
	if got := h.docker.Run("exec", name, "cat", file); !strings.Contains(got, want) {
		t.Errorf("%s of %s is\n%swithout %q", file, name, got, want)
	}
}

func (h *named) lacks(t *testing.T, name, file, unwanted string) {
	t.Helper()
	if got := h.docker.Run("exec", name, "cat", file); strings.Contains(got, unwanted) {
		t.Errorf("%s of %s is\n%swith %q", file, name, got, unwanted)
	}
}

func (h *named) byName(t *testing.T) {
	t.Helper()
	h.start(t, "alfa", "--network", "n1", "--ip", "10.81.1.10", "--ip6", "fd81:1::10", "--network-alias", "app", "--network-alias", "a.b.c", "--hostname", "alfahost")
	h.start(t, "bravo", "--network", "n1", "--ip", "10.81.1.11", "--network-alias", "app", "--link", "alfa:db")
	h.start(t, "carol", "--network", "n2", "--ip", "10.81.2.12", "--network-alias", "app")
	h.start(t, "delta", "--dns", h.Machine.Address)
	short := strings.TrimSpace(h.docker.Run("ps", "-q", "-f", "name=^alfa$"))
	h.finds(t, "bravo", "alfa=10.81.1.10", "ALFA=10.81.1.10", "alfahost=10.81.1.10", short+"=10.81.1.10", "alfa.n1=10.81.1.10", "a.b.c=10.81.1.10", "db=10.81.1.10",
		"bravo=10.81.1.11", "app=10.81.1.10 10.81.1.11")
	h.finds(t, "alfa", "db=none") // a link is the other's alone
	if got := h.lookup("bravo", "aaaa", "alfa"); got != "fd81:1::10" {
		t.Errorf("the IPv6 address of a is %q", got)
	}
	if got := h.lookup("bravo", "ptr", "10.81.1.10"); got != "alfa.n1" {
		t.Errorf("the name of 10.81.1.10 is %q", got)
	}
	// None across networks, and none on the default bridge.
	h.finds(t, "carol", "alfa=none", "bravo=none", "app=10.81.2.12")
	h.finds(t, "alfa", "carol=none", "delta=none")
	h.finds(t, "delta", "alfa=none", "delta=none")
	h.contains(t, "alfa", "/etc/resolv.conf", "nameserver 127.0.0.11\nsearch corp.example\noptions edns0 ndots:0\n")
	h.contains(t, "alfa", "/etc/hosts", "10.81.1.10\talfahost\nfd81:1::10\talfahost\n")
	h.lacks(t, "delta", "/etc/resolv.conf", "127.0.0.11")
	if out := h.docker.Run("run", "--rm", "--network", "n1", "--dns-search", "x.example", "--dns-option", "ndots:3", h.busybox, "cat", "/etc/resolv.conf"); out != "nameserver 127.0.0.11\nsearch x.example\noptions ndots:3\n" {
		t.Errorf("with a search domain and an option resolv.conf is %q", out)
	}
	h.docker.Run("run", "--rm", "--network", "container:bravo", h.busybox, "nslookup", "-type=a", "alfa.")
}

// outside asks for names of others.
func (h *named) outside(t *testing.T) {
	t.Helper()
	h.finds(t, "alfa", "example.org=192.0.2.1", "example.net=none")
	h.start(t, "internal", "--network", "n3")
	h.finds(t, "internal", "internal=10.81.3.2", "example.org=none")
	// A server given is asked from the container: here one that is in another,
	// which has no way out.
	h.start(t, "server", "--network", "n3", "--ip", "10.81.3.53")
	ns, err := os.Open(h.Machine.Path("proc", strings.TrimSpace(h.docker.Run("inspect", "-f", "{{.State.Pid}}", "server")), "ns", "net"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var pc net.PacketConn
	err = netns.Do(ns, func() (err error) {
		pc, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "0.0.0.0:53") // beside the runner's
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP("192.0.2.9")})
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	defer pc.Close() // a socket holds the namespace
	h.start(t, "given", "--network", "n3", "--dns", "10.81.3.53")
	h.finds(t, "given", "example.org=192.0.2.9", "server=10.81.3.53")
	h.contains(t, "given", "/etc/resolv.conf", "nameserver 127.0.0.11\n")
	h.docker.Run("rm", "-f", "given", "server", "internal")
}

// comeAndGo changes what names mean.
func (h *named) comeAndGo(t *testing.T) {
	t.Helper()
	// Another address, another name.
	h.start(t, "echo", "--network", "n1")
	h.docker.Run("stop", "-t", "0", "echo")
	h.finds(t, "alfa", "echo=none")
	h.start(t, "taker", "--network", "n1", "--ip", "10.81.1.2")
	h.docker.Run("start", "echo")
	now := strings.TrimSpace(h.docker.Run("inspect", "-f", "{{.NetworkSettings.Networks.n1.IPAddress}}", "echo"))
	h.finds(t, "alfa", "echo="+now)
	h.docker.Run("rename", "echo", "foxtrot")
	h.finds(t, "alfa", "echo=none", "foxtrot="+now)
	h.docker.Run("rm", "-f", "taker", "foxtrot")
	h.finds(t, "alfa", "foxtrot=none", "taker=none")

	// Another network: for one that had none with names, too.
	h.docker.Run("network", "connect", "--alias", "dd", "n2", "delta")
	ip := strings.TrimSpace(h.docker.Run("inspect", "-f", "{{.NetworkSettings.Networks.n2.IPAddress}}", "delta"))
	h.finds(t, "delta", "carol=10.81.2.12", "example.org=192.0.2.1")
	h.finds(t, "carol", "delta="+ip, "dd="+ip)
	h.contains(t, "delta", "/etc/resolv.conf", "nameserver 127.0.0.11\n")
	h.contains(t, "delta", "/etc/hosts", ip+"\t")
	h.docker.Run("exec", "delta", "sh", "-c", "echo 192.0.2.77 mine >>/etc/hosts")
	h.docker.Run("network", "connect", "--link", "alfa:other", "n1", "carol")
	h.finds(t, "carol", "alfa=10.81.1.10", "other=10.81.1.10")

	// The runner is killed, and comes again.
	h.Kill()
	h.Restart()
	h.finds(t, "alfa", "bravo=10.81.1.11", "app=10.81.1.10 10.81.1.11", "example.org=192.0.2.1")
	h.finds(t, "delta", "carol=10.81.2.12")
	h.finds(t, "carol", "other=10.81.1.10")

	h.docker.Run("network", "disconnect", "n2", "delta")
	h.finds(t, "carol", "delta=none", "dd=none")
	h.finds(t, "delta", "carol=none")
	h.lacks(t, "delta", "/etc/hosts", ip+"\t")
	h.contains(t, "delta", "/etc/hosts", "192.0.2.77 mine\n")
	h.docker.Run("network", "disconnect", "n1", "carol")
	h.finds(t, "carol", "alfa=none", "other=none")
}

// hosts are names that are given.
func (h *named) hosts(t *testing.T) {
	t.Helper()
	gateway := strings.TrimSpace(h.docker.Run("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"))
	out := h.docker.Run("run", "--rm", "--network", "n1", "--add-host", "up:host-gateway", "--add-host", "x:192.0.2.5", h.busybox, "sh", "-c", "cat /etc/hosts; ping -c 1 -w 5 up")
	for _, want := range []string{gateway + "\tup\n", "192.0.2.5\tx\n", "1 packets received"} {
		if !strings.Contains(out, want) {
			t.Errorf("with --add-host: %s, want %q", out, want)
		}
	}
}

// links has links of the default bridge.
func (h *named) links(t *testing.T) {
	t.Helper()
	h.start(t, "db-1", "--hostname", "dbhost", "--expose", "5432-5434", "--expose", "53/udp", "-e", "PASS=x=y")
	h.start(t, "web", "--link", "db-1:my-db", "--link", "delta", "-e", "MY_DB_NAME=own")
	ip := h.docker.Run("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "db-1")
	ip = strings.TrimSpace(ip)
	h.contains(t, "web", "/etc/hosts", ip+"\tmy-db dbhost db-1\n")
	env := h.docker.Run("exec", "web", "env")
	for _, want := range []string{
		"MY_DB_PORT=tcp://" + ip + ":5432", "MY_DB_PORT_5432_TCP=tcp://" + ip + ":5432", "MY_DB_PORT_5432_TCP_ADDR=" + ip,
		"MY_DB_PORT_5433_TCP_PORT=5433", "MY_DB_PORT_5432_TCP_START=tcp://" + ip + ":5432", "MY_DB_PORT_5432_TCP_PORT_START=5432",
		"MY_DB_PORT_5432_TCP_END=tcp://" + ip + ":5434", "MY_DB_PORT_5432_TCP_PORT_END=5434",
		"MY_DB_PORT_53_UDP=udp://" + ip + ":53", "MY_DB_PORT_53_UDP_PROTO=udp", "MY_DB_ENV_PASS=x=y", "MY_DB_NAME=own", "DELTA_NAME=/web/delta",
	} {
		if !strings.Contains("\n"+env, "\n"+want+"\n") {
			t.Errorf("the environment has no %s:\n%s", want, env)
		}
	}
	if first := h.docker.Run("exec", "web", "cat", "/proc/1/environ"); !strings.Contains(first, "MY_DB_PORT_5432_TCP_ADDR="+ip+"\x00") {
		t.Errorf("the first process has the environment %q", first)
	}
	if got := h.docker.Run("inspect", "-f", "{{json .HostConfig.Links}}", "web"); got != `["/db-1:/web/my-db","/delta:/web/delta"]`+"\n" {
		t.Errorf("the links are shown as %s", got)
	}
	if got := h.docker.Run("ps", "-a", "--no-trunc", "-f", "name=^db-1$", "--format", "{{.Names}}"); got != "db-1,web/my-db\n" {
		t.Errorf("the names are %q", got)
	}
	// The link follows its end to another address.
	h.docker.Run("stop", "-t", "0", "db-1")
	if out, stderr, err := h.docker.Try("restart", "-t", "0", "web"); err == nil || !strings.Contains(stderr, "Cannot link to a non running container: /db-1 AS /web/my-db") {
		t.Errorf("a link to a container that does not run: %q, %q, %v", out, stderr, err)
	}
	h.start(t, "taker", "--network", "bridge")
	h.docker.Run("start", "db-1")
	h.docker.Run("start", "web")
	h.docker.Run("stop", "-t", "0", "taker", "db-1")
	h.docker.Run("start", "taker", "db-1")
	moved := strings.TrimSpace(h.docker.Run("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "db-1"))
	if got := strings.TrimSpace(h.docker.Run("exec", "web", "sh", "-c", "grep my-db /etc/hosts | grep -v ^fd")); moved == ip || got != moved+"\tmy-db dbhost db-1" {
		t.Errorf("after the end of a link has moved from %s to %s /etc/hosts says %q", ip, moved, got)
	}
	h.docker.Run("rm", "--link", "web/my-db")
	h.lacks(t, "web", "/etc/hosts", "my-db")
	if got := h.docker.Run("inspect", "-f", "{{json .HostConfig.Links}}", "web"); got != `["/delta:/web/delta"]`+"\n" {
		t.Errorf("after rm --link the links are %s", got)
	}
	h.docker.Run("create", "--name", "round-2", "--network", "container:round-1", h.busybox) // which comes later
	h.docker.Run("create", "--name", "round-1", "--network", "container:round-2", h.busybox)
	for _, c := range []struct {
		want string
		args []string
	}{
		{"is to share a network that is to be shared with it", []string{"create", "--link", "round-1:x", h.busybox}},
		{"No such container: web/my-db", []string{"rm", "--link", "web/my-db"}},
		{"cannot remove the default link name of the container", []string{"rm", "--link", "web"}},
		{"Cannot get parent /nobody for link name /nobody/x", []string{"rm", "--link", "nobody/x"}},
		{"could not get container for nobody", []string{"create", "--link", "nobody:x", h.busybox}},
		{"bad format for links: db-1:a b", []string{"create", "--link", "db-1:a b", h.busybox}},
		{"host type networking can't be used with links", []string{"create", "--network", "host", "--link", "db-1:x", h.busybox}},
	} {
		if out, stderr, err := h.docker.Try(c.args...); err == nil || !strings.Contains(stderr, c.want) {
			t.Errorf("docker %s: %q, %q, %v, want %q", strings.Join(c.args, " "), out, stderr, err, c.want)
		}
	}
	h.docker.Run("rm", "-f", "taker", "db-1", "round-1", "round-2")
	h.docker.Run("restart", "-t", "0", "web")
}

// remove removes all containers, and looks at what the runner held of them.
func (h *named) remove(t *testing.T) {
	t.Helper()
	h.docker.Run("rm", "-f", "alfa", "bravo", "carol", "delta", "web")
	if got := h.docker.Run("ps", "-aq"); got != "" {
		t.Errorf("containers are left: %s", got)
	}
}
