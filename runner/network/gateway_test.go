package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
)

func TestGateway(t *testing.T) {
	mk := func(name, driver string, priority int, v4, v6 string, change func(*lan)) *endpoint {
		r := record{ID: newID(), Name: name, Driver: driver}
		if v4 != "" {
			p := netip.MustParsePrefix(v4)
			r.IPv4 = &addressing{Subnet: p, Gateway: p.Addr().Next()}
		}
		if v6 != "" {
			p := netip.MustParsePrefix(v6)
			r.IPv6 = &addressing{Subnet: p, Gateway: p.Addr().Next()}
		}
		n, err := newLan(r)
		must(t, err)
		if change != nil {
			change(n)
		}
		ep := &endpoint{lan: n, settings: &network.EndpointSettings{GwPriority: priority}, link: &link{}}
		if n.v4 != nil {
			ep.link.v4 = n.v4.prefix.Addr().Next().Next()
		}
		if n.v6 != nil {
			ep.link.v6 = n.v6.prefix.Addr().Next().Next()
		}
		return ep
	}
	b := mk("b", driverBridge, 0, "10.1.0.0/24", "fd01::/64", nil)
	a := mk("a", driverBridge, 0, "10.2.0.0/24", "", nil)
	high := mk("z", driverBridge, 7, "10.3.0.0/24", "", nil)
	low := mk("_", driverBridge, -1, "10.4.0.0/24", "", nil)
	inner := mk("0", driverBridge, 9, "10.5.0.0/24", "fd05::/64", func(n *lan) { n.Internal = true })
	mac := mk("0mac", driverMacvlan, 0, "10.6.0.0/24", "", nil)
	lost := mk("00", driverMacvlan, 0, "10.7.0.0/24", "", func(n *lan) { n.v4.gateway = netip.Addr{} })
	l3 := mk("0l3", driverIPvlan, 0, "10.8.0.0/24", "", func(n *lan) { n.layer3, n.v4.gateway = true, netip.Addr{} })
	for _, c := range []struct {
		what       string
		list       []*endpoint
		four, six  *endpoint
		published4 bool
	}{
		{"none", nil, nil, nil, false},
		{"one", []*endpoint{b}, b, b, true},
		{"the first name", []*endpoint{b, a}, a, b, true},
		{"priority", []*endpoint{a, high, b}, high, b, true},
		{"low priority", []*endpoint{low, b}, b, b, true},
		{"internal", []*endpoint{inner}, nil, nil, false},
		{"internal and not", []*endpoint{inner, b}, b, b, true},
		{"macvlan", []*endpoint{a, mac}, mac, nil, false},
		{"macvlan without a gateway", []*endpoint{a, lost}, a, nil, true},
		{"layer 3", []*endpoint{a, l3}, l3, nil, false},
	} {
		if four, six := gateway(c.list, false), gateway(c.list, true); four != c.four || six != c.six {
			t.Errorf("%s: %+v, %+v", c.what, four, six)
		}
		if to := targetOf(c.list); to.v4.IsValid() != c.published4 {
			t.Errorf("%s: ports lead to %+v", c.what, to)
		}
	}
}

// The state of versions that knew one bridge, and what was being written.
func TestOldState(t *testing.T) {
	newWorld(t)
	dir := t.TempDir()
	old := `[
	{"ID": "` + strings.Repeat("a1", 32) + `", "Name": "bridge", "Driver": "bridge", "Created": "2026-01-02T03:04:05Z", "Interface": "br-0c0fe3", "Subnet": "10.97.0.0/16", "Subnet6": "fd97::/64"},
	{"ID": "` + strings.Repeat("b2", 32) + `", "Name": "host", "Driver": "host", "Created": "2026-01-02T03:04:05Z"},
	{"ID": "` + strings.Repeat("c3", 32) + `", "Name": "none", "Driver": "null", "Created": "2026-01-02T03:04:05Z"}
]`
	must(t, os.WriteFile(filepath.Join(dir, stateFile), []byte(old), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, stateFile+".123"), []byte("[{"), 0o600))
	m := openManager(t, Options{Instance: "0c0fe3", StateDir: dir})
	if m.bridge.ID != strings.Repeat("a1", 32) || m.bridge.v4.prefix.String() != "10.97.0.0/16" || m.bridge.v6.gateway.String() != "fd97::1" {
		t.Errorf("the bridge is %+v", m.bridge.record)
	}
	if files, err := filepath.Glob(dir + "/*"); err != nil || len(files) != 1 {
		t.Errorf("on disk are %v, %v", files, err)
	}
	create(t, m, "n", subnet(config("10.98.0.0/24")))
	must(t, m.Close(t.Context()))
	// And that of newer ones: what is not known here keeps only its own from working.
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	must(t, err)
	newer := strings.Replace(string(data), `"Name": "n",`, `"Name": "n", "Options": {"com.example.new": "1"},`, 1)
	must(t, os.WriteFile(filepath.Join(dir, stateFile), []byte(newer), 0o600))
	m = openManager(t, Options{Instance: "0c0fe3", StateDir: dir})
	must(t, m.Restore(t.Context(), nil))
	a := connect(t, m, "a", nil, 80)
	check(t, []reach{{"", nil, "", hostPort(a.es.IPAddress, 80), "a"}})
	req := askFor("b", a.ns, nil)
	req.Networks = map[string]*network.EndpointSettings{"n": nil}
	if _, err := m.Connect(t.Context(), req); err == nil || !strings.Contains(err.Error(), "com.example.new") {
		t.Errorf("a network of a newer version: %v", err)
	}
	_, err = m.Remove(t.Context(), "n")
	must(t, err)
	must(t, m.Disconnect(t.Context(), a.ContainerID))
	must(t, m.Close(t.Context()))
	must(t, os.WriteFile(filepath.Join(dir, stateFile), []byte(`[{"Name":`), 0o600))
	if _, err := Open(t.Context(), Options{Instance: "0c0fe3", StateDir: dir}); err == nil || !strings.Contains(err.Error(), stateFile) {
		t.Errorf("opened with a damaged state: %v", err)
	}
}

func FuzzSysctls(f *testing.F) {
	for _, s := range []string{"net.ipv4.conf.IFNAME.log_martians=1", "net.ipv6.conf.IFNAME.a=b=c,net.ipv4.neigh.IFNAME.x=", "net.ipv4.conf.../../x=1", "", ",", "net.ipv4.conf.IFNAME./etc=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		files, err := sysctlsFor(s, "eth0")
		if err != nil {
			return
		}
		for name := range files {
			if !filepath.IsLocal(name) || !strings.HasPrefix(name, "net/") || strings.Count(name, "/") != 4 || filepath.Clean(name) != name {
				t.Errorf("%q is a file %q", s, name)
			}
		}
	})
}

func FuzzOptions(f *testing.F) {
	for _, name := range []string{optBridge, optICC, optMTU, optHostBinding, optGateway6, optPrefix, optParent, optMacvlanMode, optIPvlanFlag, "x"} {
		f.Add(driverBridge, name, "1")
		f.Add(driverMacvlan, name, "../x")
		f.Add(driverIPvlan, name, "private")
	}
	f.Fuzz(func(t *testing.T, driver, name, value string) {
		s, err := parseOptions(driver, false, map[string]string{name: value})
		if err != nil {
			return
		}
		for _, ifname := range []string{s.bridge, s.parent, s.prefix} {
			if len(ifname) > 15 || strings.ContainsAny(ifname, "/ \n") {
				t.Errorf("%s=%q names an interface %q", name, value, ifname)
			}
		}
		if s.mtu < 0 || s.hostBinding.IsValid() && !s.hostBinding.Is4() {
			t.Errorf("%s=%q: %+v", name, value, s)
		}
	})
}

func TestPorts(t *testing.T) {
	both := target{v4: netip.MustParseAddr("10.0.0.2"), v6: netip.MustParseAddr("fd00::2")}
	four, six := target{v4: both.v4}, target{v6: both.v6}
	bound := target{v4: both.v4, host: netip.MustParseAddr("127.0.0.1")}
	table := newPortTable(true, newCarrier())
	for _, c := range []struct {
		spec string
		to   target
		want string
	}{
		{"8080>80/tcp", both, "0.0.0.0 10.0.0.2, :: fd00::2"},
		{"8080>80/tcp", four, "0.0.0.0 10.0.0.2, :: 10.0.0.2"},
		{"8080>80/tcp", six, "0.0.0.0 fd00::2, :: fd00::2"},
		{"8080>80/sctp", four, "0.0.0.0 10.0.0.2"},
		{"8080>80/tcp", bound, "127.0.0.1 10.0.0.2"},
		{"0.0.0.0|8080>80/tcp", bound, "0.0.0.0 10.0.0.2"},
		{"8080>80/tcp", target{}, ""},
	} {
		wishes, _, err := table.parse(order{c.to.publisher("web"), ports(t, c.spec)})
		must(t, err)
		var got []string
		for _, w := range wishes {
			for _, addr := range w.addrs {
				got = append(got, addr.String()+" "+c.to.of(addr).String())
			}
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s to %+v: %s, want %s", c.spec, c.to, s, c.want)
		}
	}
	if _, _, err := table.parse(order{both.publisher("web"), network.PortMap{port80: {{HostPort: "8010-8000"}}}}); err == nil {
		t.Error("a range that goes down is accepted")
	}
}
