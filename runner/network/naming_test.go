package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"
)

func TestResolvConfOfNames(t *testing.T) {
	host := []byte("nameserver 127.0.0.53\nsearch b c\noptions edns0\n")
	for _, c := range []struct {
		what string
		got  []byte
		want string
	}{
		{"the host's", ResolvConfOfNames(host, nil, nil), "nameserver 127.0.0.11|search b c|options edns0 ndots:0|"},
		{"none", ResolvConfOfNames(nil, nil, nil), "nameserver 127.0.0.11|options ndots:0|"},
		{"given", ResolvConfOfNames(host, []string{"x"}, []string{"rotate"}), "nameserver 127.0.0.11|search x|options rotate ndots:0|"},
		{"dots given", ResolvConfOfNames(host, []string{"."}, []string{"ndots:2"}), "nameserver 127.0.0.11|options ndots:2|"},
		{"the host's dots", ResolvConfOfNames([]byte("options ndots:5\n"), nil, nil), "nameserver 127.0.0.11|options ndots:5|"},
		{"dots that are no number", ResolvConfOfNames(nil, nil, []string{"ndots:x"}), "nameserver 127.0.0.11|options ndots:x ndots:0|"},
	} {
		if got := strings.ReplaceAll(string(c.got), "\n", "|"); got != c.want {
			t.Errorf("%s: got %s\nwant %s", c.what, got, c.want)
		}
	}
}

func TestEditHosts(t *testing.T) {
	content := []byte("# mine\n127.0.0.1\tlocalhost\n10.0.0.2 web # x\n\n10.0.0.3\tdb\n10.0.0.2:80 x\nlast")
	got := string(EditHosts(content, func(l HostsLine) bool { return l.Addr == netip.MustParseAddr("10.0.0.2") },
		HostsLines([]string{"db", "db2"}, addrs("10.0.0.9", "fd00::9"))...))
	want := "# mine\n127.0.0.1\tlocalhost\n\n10.0.0.3\tdb\n10.0.0.2:80 x\nlast\n10.0.0.9\tdb db2\nfd00::9\tdb db2\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := EditHosts(nil, nil); len(got) > 0 {
		t.Errorf("of nothing: %q", got)
	}
}

// TestNamesServed asks in the namespaces of containers, which are then served by
// the next manager.
func TestNamesServed(t *testing.T) {
	newWorld(t)
	o := Options{StateDir: t.TempDir(), Instance: "0a0b0c"}
	m := openManager(t, o)
	must(t, m.Restore(t.Context(), nil))
	_, err := m.Create(t.Context(), network.CreateRequest{Name: "netA", Driver: "bridge"})
	must(t, err)
	ns := map[string]*os.File{}
	var alive []Attached
	for _, name := range []string{"one", "two"} {
		ns[name], err = NewNetNS()
		must(t, err)
		defer ns[name].Close()
		req := askFor(name, ns[name], nil)
		req.Networks = map[string]*network.EndpointSettings{"netA": {Aliases: []string{"both"}}}
		got, err := m.Connect(t.Context(), req)
		must(t, err)
		alive = append(alive, Attached{ContainerID: req.ContainerID, Name: name, Endpoint: got, NetNS: pathOf(t, ns[name])})
	}
	question := func(name string) (n int) {
		must(t, inNetNS(ns["one"], func() error {
			resp, err := dns.ExchangeContext(context.Background(), new(dns.Msg).SetQuestion(name, dns.TypeA), "127.0.0.11:53")
			if err == nil {
				n = len(resp.Answer)
			}
			return err
		}))
		return n
	}
	if one, both := question("two."), question("both."); one != 1 || both != 2 {
		t.Errorf("found %d addresses of a name and %d of an alias of two", one, both)
	}
	must(t, m.Close(context.Background()))
	m = openManager(t, o)
	gone := Attached{ContainerID: newID(), Name: "gone", Endpoint: Endpoint{Networks: map[string]*network.EndpointSettings{"netA": {EndpointID: newID()}}}, NetNS: "/proc/self/ns/net"}
	must(t, m.Restore(t.Context(), append(alive, gone)))
	if one := question("two."); one != 1 {
		t.Errorf("after a restart found %d addresses of a name", one)
	}
	if tables := nft(t, "list", "tables"); strings.Contains(tables, "names") {
		t.Errorf("a table is in the host's namespace: %s", tables)
	}
	must(t, m.Disconnect(t.Context(), gone.ContainerID))
	for _, a := range alive {
		must(t, m.Disconnect(t.Context(), a.ContainerID))
	}
	_, err = m.Remove(t.Context(), "netA")
	must(t, err)
}

// pathOf is a path by which another file of the namespace is opened.
func pathOf(t *testing.T, ns *os.File) string {
	t.Helper()
	raw, err := ns.SyscallConn()
	must(t, err)
	var path string
	must(t, raw.Control(func(fd uintptr) { path = fmt.Sprintf("/proc/self/fd/%d", fd) }))
	return path
}
