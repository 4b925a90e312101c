package network

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *syncBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(s, nil)) }

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestPool(t *testing.T) {
	p := newPool(netip.MustParsePrefix("10.0.0.7/29"))
	var got []string
	for range 7 {
		a, err := p.next("x")
		got = append(got, a.String())
		if err != nil {
			got[len(got)-1] = "none"
		}
		if len(got) == 2 {
			p.release(netip.MustParseAddr("10.0.0.2")) // is given again when all others were
		}
	}
	if s := fmt.Sprint(got); s != "[10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.2 none]" {
		t.Error(s)
	}
	for _, a := range []string{"10.0.0.0", "10.0.0.7", "10.0.0.1", "10.0.0.8"} {
		if err := p.take(netip.MustParseAddr(a), "x"); err == nil {
			t.Errorf("%s was given", a)
		}
	}
}

func TestBeside(t *testing.T) {
	v4, v6 := newPool(netip.MustParsePrefix("172.17.0.0/16")), newPool(netip.MustParsePrefix("fd00:1::/64"))
	for _, want := range []string{"fd00:1::103", "fd00:1::2"} {
		if a, err := v6.beside(netip.MustParseAddr("172.17.1.3"), v4, "x"); err != nil || a.String() != want {
			t.Errorf("got %v, %v, want %s", a, err, want)
		}
	}
}

func TestChooseSubnet(t *testing.T) {
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, p := range list {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	for _, c := range []struct {
		inUse []netip.Prefix
		want  string
	}{
		{nil, "172.17.0.0/16"},
		{prefixes("0.0.0.0/0", "::/0", "172.17.9.0/24"), "172.18.0.0/16"},
		{prefixes("172.16.0.0/12"), "192.168.0.0/20"},
		{prefixes("172.16.0.0/12", "192.168.1.0/24"), "192.168.16.0/20"},
		{prefixes("172.16.0.0/12", "192.168.0.0/16"), ""},
	} {
		got, err := chooseSubnet(c.inUse)
		if c.want == "" && err == nil || c.want != "" && got.String() != c.want {
			t.Errorf("%v: %v, %v, want %s", c.inUse, got, err, c.want)
		}
	}
	if p := randomULA(); p.Bits() != 64 || !netip.MustParsePrefix("fd00::/8").Contains(p.Addr()) || p == randomULA() {
		t.Errorf("%v", p)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{},
		{Instance: "12345"},
		{Instance: "12345g"},
		{Instance: "123456", Bridge: "docker0"},
		{Instance: "123456", Bridge: "br-0123456789abcd"},
		{Instance: "123456", Bridge: "br-../x"},
		{Instance: "123456", Subnet: netip.MustParsePrefix("10.0.0.0/30")},
		{Instance: "123456", Subnet6: netip.MustParsePrefix("10.0.0.0/24")},
	} {
		if err := o.complete(); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func TestHosts(t *testing.T) {
	got, err := Hosts("web", "example.org", addrs("172.17.0.2", "fd00::2"),
		[]string{"db:10.0.0.1", "six:[fd00::9]", "seven:fd00::7", "up:host-gateway"}, addrs("172.17.0.1", "fd00::1")...)
	must(t, err)
	want := hostsHead + `10.0.0.1	db
fd00::9	six
fd00::7	seven
172.17.0.1	up
fd00::1	up
172.17.0.2	web.example.org web
fd00::2	web.example.org web
`
	if string(got) != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for _, bad := range []string{"a", "a:b", ":10.0.0.1", "a b:10.0.0.1", "a\nb:10.0.0.1", "a:host-gateway"} {
		if got, err := Hosts("web", "", nil, []string{bad}); err == nil {
			t.Errorf("%q is accepted:\n%s", bad, got)
		}
	}
	got, err = HostsOfHost([]byte("127.0.0.1 localhost"), []string{"db:10.0.0.1"})
	if want := "127.0.0.1 localhost\n10.0.0.1\tdb\n"; string(got) != want || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestResolvConf(t *testing.T) {
	host := []byte("# made by hand\nnameserver 127.0.0.53\nnameserver 10.0.0.3\nnameserver fe80::1%eth0\nnameserver ::1\ndomain a\nsearch b c\noptions edns0\noptions ndots:2 trust-ad\n")
	for _, c := range []struct {
		what string
		got  []byte
		want string
	}{
		{"the host's", ResolvConf(host, nil, nil, nil), "nameserver 10.0.0.3|search b c|options edns0 ndots:2 trust-ad|"},
		{"servers given", ResolvConf(host, addrs("1.1.1.1", "127.0.0.9"), nil, nil), "nameserver 1.1.1.1|nameserver 127.0.0.9|search b c|options edns0 ndots:2 trust-ad|"},
		{"search given", ResolvConf(host, nil, []string{"x"}, []string{"ndots:0"}), "nameserver 10.0.0.3|search x|options ndots:0|"},
		{"no search", ResolvConf(host, nil, []string{"."}, nil), "nameserver 10.0.0.3|options edns0 ndots:2 trust-ad|"},
		{"only loopback", ResolvConf([]byte("nameserver 127.0.0.1\n"), nil, nil, nil), "nameserver 8.8.8.8|nameserver 8.8.4.4|"},
		{"none", ResolvConf(nil, nil, nil, nil), "nameserver 8.8.8.8|nameserver 8.8.4.4|"},
		{"in the host's network", ResolvConfOfHost([]byte("nameserver 127.0.0.1\n"), nil, []string{"x"}, nil), "nameserver 127.0.0.1|search x|"},
		{"in the host's network, unchanged", ResolvConfOfHost([]byte("# as it is\n"), nil, nil, nil), "# as it is|"},
	} {
		if got := strings.ReplaceAll(string(c.got), "\n", "|"); got != c.want {
			t.Errorf("%s: got %s\nwant %s", c.what, got, c.want)
		}
	}
}
