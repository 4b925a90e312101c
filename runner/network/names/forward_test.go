package names

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/berth-registry/berth/internal/netns"
)

// silent is an upstream that never answers.
func silent(t testing.TB) Upstream {
	t.Helper()
	pc, l, err := listenBoth(t.Context())
	must(t, err)
	t.Cleanup(func() { _, _ = pc.Close(), l.Close() })
	return Upstream{Addr: pc.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// refusing is an upstream that is not there.
func refusing() Upstream { return Upstream{Addr: netip.MustParseAddrPort("127.0.0.1:1")} }

func TestForward(t *testing.T) {
	good := newUpstream(t, nil, answerWith("60 IN A 192.0.2.1", "60 IN A 192.0.2.2")).Upstream
	failing := newUpstream(t, nil, failWith(dns.RcodeServerFailure)).Upstream
	rejecting := newUpstream(t, nil, failWith(dns.RcodeRefused)).Upstream
	unknowing := newUpstream(t, nil, failWith(dns.RcodeNameError)).Upstream
	const records = "192.0.2.1 192.0.2.2"
	for _, c := range []struct {
		what      string
		upstreams []Upstream
		want      string
	}{
		{"one", []Upstream{good}, records},
		{"the first is not there", []Upstream{refusing(), good}, records},
		{"the first two are silent", []Upstream{silent(t), silent(t), good}, records},
		{"the first fails", []Upstream{failing, good}, records},
		{"the first refuses", []Upstream{rejecting, good}, records},
		{"the first knows it not to be", []Upstream{unknowing, good}, "NXDOMAIN"},
		{"all fail", []Upstream{rejecting, failing}, "SERVFAIL"},
		{"all refuse", []Upstream{rejecting, rejecting}, "SERVFAIL"},
		{"none is there", []Upstream{refusing(), refusing()}, "SERVFAIL"},
		{"silence", []Upstream{silent(t)}, "SERVFAIL"},
		{"none", nil, "SERVFAIL"},
	} {
		for _, proto := range []string{"udp", "tcp"} {
			t.Run(proto+": "+c.what, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, newBook(), c.upstreams...)
				begin := time.Now()
				if got := brief(w.ask(proto, query("example.org.", dns.TypeA))); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				if d := time.Since(begin); d > 5*time.Second {
					t.Errorf("it took %v, and clients wait for 5 s", d)
				}
			})
		}
	}
}

// TestForwardedAsItIs has an upstream that tells what it was asked.
func TestForwardedAsItIs(t *testing.T) {
	ids := make(chan uint16, 16)
	up := newUpstream(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
		ids <- r.Id
		m := replyTo(r, `60 IN TYPE65280 \# 4 0a000001`)
		if opt := r.IsEdns0(); opt != nil {
			m.Extra = append(m.Extra, opt)
		}
		m.AuthenticatedData, m.CheckingDisabled = true, r.CheckingDisabled
		_ = w.WriteMsg(m)
	})
	w := newWorld(t, newBook(), up.Upstream)
	same := 0
	for range 8 {
		q := query("eXample.org.", 65280)
		q.SetEdns0(1400, true)
		q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: dns.EDNS0LOCALSTART, Data: []byte("option")})
		q.CheckingDisabled = true
		got := w.ask("udp", q)
		opt := got.IsEdns0()
		if opt == nil || opt.UDPSize() != 1400 || !opt.Do() || len(opt.Option) != 1 || !got.CheckingDisabled || !got.AuthenticatedData ||
			len(got.Answer) != 1 || got.Question[0].Name != "eXample.org." {
			t.Errorf("got %s", got)
		}
		if <-ids == q.Id {
			same++
		}
	}
	if same > 1 {
		t.Errorf("%d of 8 queries had the client's ID, which others may know", same)
	}
}

// TestTruncatedUpstream has more to answer than fits.
func TestTruncatedUpstream(t *testing.T) {
	records := make([]string, 100)
	for i := range records {
		records[i] = "60 IN A " + netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String()
	}
	up := newUpstream(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
		m := replyTo(r, records...)
		m.Compress = true
		if w.LocalAddr().Network() == "udp" {
			m.Answer, m.Truncated = nil, true
		}
		_ = w.WriteMsg(m)
	})
	w := newWorld(t, newBook(), up.Upstream)
	small := w.ask("udp", query("many.example.", dns.TypeA))
	small.Compress = true
	if !small.Truncated || small.Len() > 512 || len(small.Answer) < 20 {
		t.Errorf("without EDNS: got %d records, truncated %v", len(small.Answer), small.Truncated)
	}
	edns := query("many.example.", dns.TypeA)
	edns.SetEdns0(4096, false)
	if got := w.ask("udp", edns); got.Truncated || len(got.Answer) != 100 {
		t.Errorf("with EDNS: got %d records, truncated %v", len(got.Answer), got.Truncated)
	}
	before := up.count()
	if got := w.ask("tcp", query("many.example.", dns.TypeA)); got.Truncated || len(got.Answer) != 100 {
		t.Errorf("over TCP: got %d records, truncated %v", len(got.Answer), got.Truncated)
	}
	if up.mu.Lock(); len(up.asked) != before+1 || !strings.HasPrefix(up.asked[before], "tcp") {
		t.Errorf("a query over TCP was passed on as %q", up.asked[before:])
	}
	up.mu.Unlock()
}

// TestTruncatedWithoutTCP has an upstream that says that there is more, and does
// not tell it.
func TestTruncatedWithoutTCP(t *testing.T) {
	pc, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	must(t, err)
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := replyTo(r, "60 IN A 192.0.2.1")
		m.Truncated = true
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
	w := newWorld(t, newBook(), Upstream{Addr: pc.LocalAddr().(*net.UDPAddr).AddrPort()})
	if got := brief(w.ask("udp", query("example.org.", dns.TypeA))); got != "192.0.2.1 TC" {
		t.Errorf("got %q", got)
	}
}

// TestSpoofed has somebody answer before the server does who does not know all
// of the question.
func TestSpoofed(t *testing.T) {
	up := newUpstream(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
		spoof := func(change func(m *dns.Msg)) {
			m := replyTo(r, "60 IN A 203.0.113.66")
			change(m)
			_ = w.WriteMsg(m)
		}
		spoof(func(m *dns.Msg) { m.Id++ })
		spoof(func(m *dns.Msg) { m.Question[0].Name = "example.net." })
		spoof(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA })
		spoof(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS })
		spoof(func(m *dns.Msg) { m.Question = nil })
		spoof(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) })
		spoof(func(m *dns.Msg) { m.Response = false })
		_, _ = w.Write([]byte("short"))
		_ = w.WriteMsg(replyTo(r, "60 IN A 192.0.2.1"))
	})
	w := newWorld(t, newBook(), up.Upstream)
	if got := brief(w.ask("udp", query("example.org.", dns.TypeA))); got != "192.0.2.1" {
		t.Errorf("over UDP: got %q", got)
	}
	// Nobody else can send by a connection: there, what is wrong is an error.
	if got := brief(w.ask("tcp", query("example.org.", dns.TypeA))); got != "SERVFAIL" {
		t.Errorf("over TCP: got %q", got)
	}
}

// TestWaysToUpstreams has a server on the host's loopback and one on the
// container's own.
func TestWaysToUpstreams(t *testing.T) {
	outer := newUpstream(t, nil, answerWith("60 IN A 192.0.2.1"))
	w := newWorld(t, newBook("web 10.0.0.2"))
	inner := newUpstream(t, w.ns, answerWith("60 IN A 192.0.2.2"))
	for _, c := range []struct {
		what      string
		internal  bool
		upstreams []Upstream
		want      string
	}{
		{"of the host", false, []Upstream{outer.Upstream}, "192.0.2.1"},
		{"inside", false, []Upstream{inner.Upstream}, "192.0.2.2"},
		{"inside, by its own address once more", false, []Upstream{{Addr: netip.AddrPortFrom(Address(), port), Inside: true}, inner.Upstream}, "192.0.2.2"},
		{"of the host, without a way out", true, []Upstream{outer.Upstream}, "SERVFAIL"},
		{"inside, without a way out", true, []Upstream{outer.Upstream, inner.Upstream}, "192.0.2.2"},
		{"by its own address", false, []Upstream{{Addr: netip.AddrPortFrom(Address(), port), Inside: true}}, "SERVFAIL"},
	} {
		w.mu.Lock()
		w.upstreams = c.upstreams
		w.mu.Unlock()
		w.book.mu.Lock()
		w.book.internal = c.internal
		w.book.mu.Unlock()
		for _, proto := range []string{"udp", "tcp"} {
			begin := time.Now()
			if got := brief(w.ask(proto, query("example.org.", dns.TypeA))); got != c.want {
				t.Errorf("%s over %s: got %q, want %q", c.what, proto, got, c.want)
			}
			if d := time.Since(begin); d > time.Second {
				t.Errorf("%s over %s: it took %v", c.what, proto, d)
			}
		}
		if got := brief(w.ask("udp", query("web.", dns.TypeA))); got != "10.0.0.2" {
			t.Errorf("%s: the name of a container is %q", c.what, got)
		}
	}
}

// TestRestart has the daemon go and come again.
func TestRestart(t *testing.T) {
	w := newWorld(t, newBook("web 10.0.0.2"))
	must(t, w.server.Serve(t.Context(), id, w.ns)) // changes nothing
	if got := brief(w.ask("udp", query("web.", dns.TypeA))); got != "10.0.0.2" {
		t.Fatalf("before: got %q", got)
	}
	w.server.Close()
	if err := w.server.Serve(t.Context(), id, w.ns); err == nil {
		t.Error("a closed server serves")
	}
	// A query in between is neither answered nor refused.
	conn := w.dial("udp")
	packed, err := query("web.", dns.TypeA).Pack()
	must(t, err)
	_, err = conn.Write(packed)
	must(t, err)
	w.open()
	if _, err = conn.Write(packed); err != nil {
		t.Fatalf("the query before was refused: %v", err)
	}
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatalf("a query that is sent again: %v", err)
	}
	var got dns.Msg
	if err := got.Unpack(buf[:n]); err != nil || brief(&got) != "10.0.0.2" {
		t.Errorf("got %s (%v)", &got, err)
	}
	if got := brief(w.ask("tcp", query("web.", dns.TypeA))); got != "10.0.0.2" {
		t.Errorf("over TCP: got %q", got)
	}
	w.book.mu.Lock()
	w.book.addrs["web"] = []netip.Addr{netip.MustParseAddr("10.0.0.9")}
	w.book.mu.Unlock()
	if got := brief(w.ask("udp", query("web.", dns.TypeA))); got != "10.0.0.9" {
		t.Errorf("after a change: got %q", got)
	}
}

// TestAnotherNamespace serves a container that has been started again.
func TestAnotherNamespace(t *testing.T) {
	w := newWorld(t, newBook("web 10.0.0.2"))
	old := w.ns
	w.ns = newNamespace(t)
	must(t, w.server.Serve(t.Context(), id, w.ns))
	if got := brief(w.ask("udp", query("web.", dns.TypeA))); got != "10.0.0.2" {
		t.Errorf("got %q", got)
	}
	err := netns.Do(old, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, _, err := new(dns.Client).ExchangeContext(ctx, query("web.", dns.TypeA), "127.0.0.11:53")
		return err
	})
	if err == nil {
		t.Error("the former namespace is still served")
	}
}
