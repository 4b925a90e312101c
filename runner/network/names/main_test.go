package names

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/internal/netns"
)

// book is a Resolver of what a test writes into it, the same for all containers.
type book struct {
	mu       sync.Mutex
	addrs    map[string][]netip.Addr
	internal bool
}

// Lookup finds names that begin with service to be those of services.
func (b *book) Lookup(_, name string) (a Answer, found bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list, found := b.addrs[name]
	for _, addr := range list {
		if addr.Is4() {
			a.V4 = append(a.V4, addr)
		} else {
			a.V6 = append(a.V6, addr)
		}
	}
	a.Moves = strings.HasPrefix(name, "service")
	return a, found
}

func (b *book) Reverse(_ string, addr netip.Addr) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, list := range b.addrs {
		if slices.Contains(list, addr) {
			return name + ".net", true
		}
	}
	return "", false
}

func (b *book) External(string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.internal
}

func newBook(lines ...string) *book {
	b := &book{addrs: map[string][]netip.Addr{}}
	for _, l := range lines {
		f := strings.Fields(l)
		b.addrs[f[0]] = nil
		for _, a := range f[1:] {
			b.addrs[f[0]] = append(b.addrs[f[0]], netip.MustParseAddr(a))
		}
	}
	return b
}

// world is a container that is served.
type world struct {
	t         testing.TB
	ns        *os.File
	book      *book
	server    *Server
	mu        sync.Mutex
	upstreams []Upstream
}

const id = "0123456789ab"

func newWorld(t testing.TB, b *book, upstreams ...Upstream) *world {
	t.Helper()
	w := &world{t: t, ns: newNamespace(t), book: b, upstreams: upstreams}
	w.open()
	return w
}

// open starts a server, as a daemon does.
func (w *world) open() {
	w.t.Helper()
	w.server = Open(Options{
		Resolver: w.book,
		Upstreams: func(string) []Upstream {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.upstreams
		},
		Log: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	w.t.Cleanup(w.server.Close)
	must(w.t, w.server.Serve(w.t.Context(), id, w.ns))
}

func newNamespace(t testing.TB) *os.File {
	t.Helper()
	ns, err := netns.New(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		lo, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		lo.SetUint16(unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	})
	if err != nil {
		t.Fatalf("a network namespace, which needs root: %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dial connects to the server from the container.
func (w *world) dial(proto string) net.Conn {
	w.t.Helper()
	var c net.Conn
	must(w.t, netns.Do(w.ns, func() (err error) {
		c, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(w.t.Context(), proto, "127.0.0.11:53")
		return err
	}))
	w.t.Cleanup(func() { _ = c.Close() })
	must(w.t, c.SetDeadline(time.Now().Add(10*time.Second)))
	return c
}

func query(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// ask sends a query from the container and returns the answer.
func (w *world) ask(proto string, q *dns.Msg) *dns.Msg {
	w.t.Helper()
	c := &dns.Client{Net: proto, Timeout: 10 * time.Second}
	resp, _, err := c.ExchangeWithConn(q, &dns.Conn{Conn: w.dial(proto)})
	if err != nil {
		w.t.Fatalf("%s: %v", q.Question[0].String(), err)
	}
	return resp
}

// brief is what an answer says in one line: its code, unless it is success, and
// the data of its records, sorted.
func brief(m *dns.Msg) string {
	var list []string
	for _, rr := range m.Answer {
		list = append(list, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(list)
	if m.Truncated {
		list = append(list, "TC")
	}
	if m.Rcode != dns.RcodeSuccess {
		list = append([]string{dns.RcodeToString[m.Rcode]}, list...)
	}
	return strings.Join(list, " ")
}

// upstream is a real server of names on the loopback of a namespace (nil: the
// test's) that counts what it was asked.
type upstream struct {
	Upstream
	mu    sync.Mutex
	asked []string
}

func (u *upstream) log(r *dns.Msg, proto string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = append(u.asked, proto+" "+r.Question[0].Name+" "+dns.TypeToString[r.Question[0].Qtype])
}

func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.asked)
}

// newUpstream starts a server that answers by handle.
func newUpstream(t testing.TB, ns *os.File, handle func(w dns.ResponseWriter, r *dns.Msg)) *upstream {
	t.Helper()
	u := new(upstream)
	listen := func() error {
		pc, l, err := listenBoth(t.Context())
		if err != nil {
			return err
		}
		u.Addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
		for _, s := range []*dns.Server{{PacketConn: pc}, {Listener: l}} {
			proto := "udp"
			if s.Listener != nil {
				proto = "tcp"
			}
			s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
				u.log(r, proto)
				handle(w, r)
			})
			started := make(chan struct{})
			s.NotifyStartedFunc = func() { close(started) }
			go func() { _ = s.ActivateAndServe() }()
			<-started
			t.Cleanup(func() { _ = s.ShutdownContext(context.Background()) })
		}
		return nil
	}
	if ns == nil {
		must(t, listen())
		return u
	}
	u.Inside = true
	must(t, netns.Do(ns, listen))
	return u
}

// listenBoth listens at a port of the loopback that is free for UDP and TCP.
func listenBoth(ctx context.Context) (pc net.PacketConn, l net.Listener, err error) {
	for range 10 {
		pc, err = (&net.ListenConfig{}).ListenPacket(ctx, "udp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, err
		}
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", pc.LocalAddr().String())
		if err == nil {
			return pc, l, nil
		}
		err = errors.Join(err, pc.Close())
	}
	return nil, nil, err
}

// answerWith answers each query with records, written as in a zone file without
// their name.
func answerWith(records ...string) func(w dns.ResponseWriter, r *dns.Msg) {
	return func(w dns.ResponseWriter, r *dns.Msg) { _ = w.WriteMsg(replyTo(r, records...)) }
}

func replyTo(r *dns.Msg, records ...string) *dns.Msg {
	m := new(dns.Msg).SetReply(r)
	for _, s := range records {
		rr, err := dns.NewRR(r.Question[0].Name + " " + s)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}

func failWith(rcode int) func(w dns.ResponseWriter, r *dns.Msg) {
	return func(w dns.ResponseWriter, r *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(r, rcode)) }
}
