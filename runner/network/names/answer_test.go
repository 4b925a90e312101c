package names

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/berth-registry/berth/internal/netns"
)

func TestAnswers(t *testing.T) {
	up := newUpstream(t, nil, failWith(dns.RcodeNameError))
	w := newWorld(t, newBook(
		"web 10.0.0.2 fd00::2",
		"v4.only 10.0.0.3",
		"both 10.0.0.4 10.0.0.5 fd00::4 fd00::5",
		"none",
		"service 10.0.0.6 fd00::6",
	), up.Upstream)
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"web.", dns.TypeA, "10.0.0.2"},
		{"web.", dns.TypeAAAA, "fd00::2"},
		{"WeB.", dns.TypeA, "10.0.0.2"},
		{"v4.only.", dns.TypeA, "10.0.0.3"},
		{"v4.only.", dns.TypeAAAA, ""},
		{"both.", dns.TypeA, "10.0.0.4 10.0.0.5"},
		{"both.", dns.TypeAAAA, "fd00::4 fd00::5"},
		{"both.", dns.TypeANY, "10.0.0.4 10.0.0.5 fd00::4 fd00::5"},
		{"none.", dns.TypeA, ""},
		{"service.", dns.TypeANY, "10.0.0.6 fd00::6"},
		{"web.", dns.TypeMX, ""},
		{"web.", dns.TypeTXT, ""},
		{"web.", dns.TypeHTTPS, ""},
		{"2.0.0.10.in-addr.arpa.", dns.TypePTR, "web.net."},
		{"2.0.0.10.IN-ADDR.arpa.", dns.TypePTR, "web.net."},
		{"2.0.0.10.in-addr.arpa.", dns.TypeTXT, ""},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, "web.net."},
	} {
		for _, proto := range []string{"udp", "tcp"} {
			got := w.ask(proto, query(c.name, c.qtype))
			if brief(got) != c.want || !got.RecursionAvailable || len(got.Question) != 1 || got.Question[0].Name != c.name {
				t.Errorf("%s %s over %s: got %s, want %q", c.name, dns.TypeToString[c.qtype], proto, got, c.want)
			}
			ttl := uint32(600)
			if c.name == "service." {
				ttl = 1
			}
			for _, rr := range got.Answer {
				if h := rr.Header(); h.Ttl != ttl || h.Name != c.name {
					t.Errorf("%s: got the header %v", c.name, h)
				}
			}
		}
	}
	if n := up.count(); n > 0 {
		t.Errorf("names of containers were asked of the upstream: %q", up.asked)
	}
	for _, unknown := range []string{"webb.", "3.0.0.0.10.in-addr.arpa.", "9.0.0.10.in-addr.arpa.", "0.10.in-addr.arpa.", "ip6.arpa.", "."} {
		if got := w.ask("udp", query(unknown, dns.TypePTR)); got.Rcode != dns.RcodeNameError {
			t.Errorf("%s: got %s, want what the upstream says", unknown, got)
		}
	}
	chaos := query("web.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	if got := w.ask("udp", chaos); got.Rcode != dns.RcodeNameError {
		t.Errorf("another class: got %s, want what the upstream says", got)
	}
}

func TestSeveralAddressesChangeOrder(t *testing.T) {
	w := newWorld(t, newBook("both 10.0.0.4 10.0.0.5"))
	first := map[string]bool{}
	for range 64 {
		first[w.ask("udp", query("both.", dns.TypeA)).Answer[0].(*dns.A).A.String()] = true
	}
	if len(first) != 2 {
		t.Errorf("in 64 answers only %v came first", first)
	}
}

// TestSizeOfAnswers has more addresses than 512 bytes hold.
func TestSizeOfAnswers(t *testing.T) {
	b := newBook()
	for i := range 100 {
		b.addrs["many"] = append(b.addrs["many"], netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	w := newWorld(t, b)
	small := w.ask("udp", query("many.", dns.TypeA))
	small.Compress = true
	if !small.Truncated || small.Len() > 512 || len(small.Answer) < 20 {
		t.Errorf("without EDNS: got %d records, truncated %v", len(small.Answer), small.Truncated)
	}
	edns := query("many.", dns.TypeA)
	edns.SetEdns0(4096, true)
	got := w.ask("udp", edns)
	if opt := got.IsEdns0(); got.Truncated || len(got.Answer) != 100 || opt == nil || !opt.Do() {
		t.Errorf("with EDNS: got %d records, truncated %v, option %v", len(got.Answer), got.Truncated, opt)
	}
	if got := w.ask("tcp", query("many.", dns.TypeA)); got.Truncated || len(got.Answer) != 100 {
		t.Errorf("over TCP: got %d records, truncated %v", len(got.Answer), got.Truncated)
	}
}

// TestContainerServesNames has a server in the container at port 53 of all
// addresses.
func TestContainerServesNames(t *testing.T) {
	w := newWorld(t, newBook("web 10.0.0.2"))
	handler := dns.HandlerFunc(answerWith("60 IN A 192.0.2.9"))
	must(t, netns.Do(w.ns, func() error {
		pc, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "0.0.0.0:53")
		if err != nil {
			return err
		}
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "0.0.0.0:53")
		if err != nil {
			return err
		}
		for _, s := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
			go func() { _ = s.ActivateAndServe() }()
			t.Cleanup(func() { _ = s.Shutdown() })
		}
		return nil
	}))
	for _, proto := range []string{"udp", "tcp"} {
		if got := brief(w.ask(proto, query("web.", dns.TypeA))); got != "10.0.0.2" {
			t.Errorf("127.0.0.11 over %s: got %q", proto, got)
		}
		var resp *dns.Msg
		must(t, netns.Do(w.ns, func() (err error) {
			resp, _, err = (&dns.Client{Net: proto}).Exchange(query("web.", dns.TypeA), "127.0.0.1:53")
			return err
		}))
		if got := brief(resp); got != "192.0.2.9" {
			t.Errorf("127.0.0.1 over %s: got %q", proto, got)
		}
	}
}

func TestReversed(t *testing.T) {
	for name, want := range map[string]string{
		"1.2.3.4.in-addr.arpa.":  "4.3.2.1",
		"01.2.3.4.in-addr.arpa.": "",
		"1.2.3.in-addr.arpa.":    "",
		"1.2.3.4.5.arpa.":        "",
		"x.2.3.4.in-addr.arpa.":  "",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.D.0.1.0.0.2.IP6.ARPA.": "2001:db8::1",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.g.D.0.1.0.0.2.IP6.ARPA.": "",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.:.:.D.0.1.0.0.2.IP6.ARPA.": "",
		"1.0.ip6.arpa.": "",
	} {
		addr, ok := reversed(name)
		if got := fmt.Sprint(addr); ok != (want != "") || ok && got != want {
			t.Errorf("%s: got %s (%v), want %q", name, got, ok, want)
		}
	}
}
