package names

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	must(t, err)
	return b
}

// TestBadPackets sends what is no query.
func TestBadPackets(t *testing.T) {
	w := newWorld(t, newBook("web 10.0.0.2"))
	good := packed(t, query("web.", dns.TypeA))
	changed := func(f func(b []byte)) []byte {
		b := append([]byte(nil), good...)
		f(b)
		return b
	}
	for _, c := range []struct {
		what   string
		packet []byte
		want   int // code; -1 for no answer
	}{
		{"nothing", []byte{}, -1},
		{"half a header", good[:11], -1},
		{"an answer", changed(func(b []byte) { b[2] |= 0x80 }), -1},
		{"only a header", good[:12], dns.RcodeFormatError},
		{"half a question", good[:15], dns.RcodeFormatError},
		{"no question", changed(func(b []byte) { b[5] = 0 })[:12], dns.RcodeFormatError},
		{"two questions", changed(func(b []byte) { b[5] = 2 }), dns.RcodeFormatError},
		{"65535 questions", changed(func(b []byte) { b[4], b[5] = 0xff, 0xff }), dns.RcodeFormatError},
		{"65535 records that are not there", changed(func(b []byte) { b[6], b[7] = 0xff, 0xff }), dns.RcodeSuccess},
		{"a name that points to itself", append(good[:12:12], 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		{"an update", changed(func(b []byte) { b[2] = dns.OpcodeUpdate << 3 }), dns.RcodeNotImplemented},
		{"a notice", changed(func(b []byte) { b[2] = dns.OpcodeNotify << 3 }), dns.RcodeNotImplemented},
		{"64 KiB", make([]byte, 65000), dns.RcodeFormatError},
	} {
		conn := w.dial("udp")
		_, err := conn.Write(c.packet)
		must(t, err)
		if c.want < 0 { // the next one is answered, and not this one
			_, err := conn.Write(good)
			must(t, err)
		}
		buf := make([]byte, 1024)
		n, err := conn.Read(buf)
		must(t, err)
		var got dns.Msg
		if err := got.Unpack(buf[:n]); err != nil || !got.Response || got.Rcode != max(c.want, 0) {
			t.Errorf("%s: got %s (%v), want %s", c.what, &got, err, dns.RcodeToString[max(c.want, 0)])
		}
	}
}

// TestBadConnections has clients that say they will send much, or nothing, or
// little by little.
func TestBadConnections(t *testing.T) {
	w := newWorld(t, newBook("web 10.0.0.2"))
	must(t, w.server.Serve(t.Context(), id, w.ns))
	huge := w.dial("tcp")
	_, err := huge.Write([]byte{0xff, 0xff, 0, 0})
	must(t, err)
	if n, err := huge.Read(make([]byte, 1)); err == nil {
		t.Errorf("a query of 64 KiB was answered with %d bytes", n)
	}
	// All connections there may be, each with half a query.
	q := packed(t, query("web.", dns.TypeA))
	msg := append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
	var slow []net.Conn
	for range connections {
		c := w.dial("tcp")
		_, err := c.Write(msg[:5])
		must(t, err)
		slow = append(slow, c)
	}
	if got := brief(w.ask("udp", query("web.", dns.TypeA))); got != "10.0.0.2" {
		t.Errorf("UDP beside slow connections: got %q", got)
	}
	// One more waits until one of them has ended.
	_ = slow[0].Close()
	if got := brief(w.ask("tcp", query("web.", dns.TypeA))); got != "10.0.0.2" {
		t.Errorf("one connection more: got %q", got)
	}
	// Several queries at once, the last one in two halves.
	c := slow[1]
	_, err = c.Write(append(append(msg[5:len(msg):len(msg)], msg...), msg[:7]...))
	must(t, err)
	for range 2 {
		answer, err := readTCP(c, time.Now().Add(5*time.Second), dns.MaxMsgSize)
		must(t, err)
		var got dns.Msg
		if err := got.Unpack(answer); err != nil || brief(&got) != "10.0.0.2" {
			t.Errorf("got %s (%v)", &got, err)
		}
	}
	begin := time.Now()
	w.server.Forget(id)
	if d := time.Since(begin); d > time.Second {
		t.Errorf("to forget a container with slow clients took %v", d)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives its container")
	}
}

// TestFlood asks for more than may be at upstreams at a time, of one that does
// not answer.
func TestFlood(t *testing.T) {
	w := newWorld(t, newBook("web 10.0.0.2"), silent(t))
	before := runtime.NumGoroutine()
	conn := w.dial("udp")
	flood := packed(t, query("example.org.", dns.TypeA))
	most := 0
	for range 4 * perContainer {
		_, err := conn.Write(flood)
		must(t, err)
		most = max(most, runtime.NumGoroutine())
	}
	// A query may find the socket's buffer full, and is sent again, as clients do.
	got, deadline := "", time.Now().Add(10*time.Second)
	for got == "" && time.Now().Before(deadline) {
		resp, _, err := (&dns.Client{Timeout: 100 * time.Millisecond}).ExchangeWithConn(query("web.", dns.TypeA), &dns.Conn{Conn: w.dial("udp")})
		if err == nil {
			got = brief(resp)
		}
	}
	if got != "10.0.0.2" {
		t.Errorf("a name of a container in a flood: got %q", got)
	}
	most = max(most, runtime.NumGoroutine()) - before
	if most > perContainer*3/2 {
		t.Errorf("%d goroutines for %d queries", most, 4*perContainer)
	}
	begin := time.Now()
	w.server.Forget(id)
	if d := time.Since(begin); d > time.Second {
		t.Errorf("to forget a container in a flood took %v", d)
	}
	if n := len(w.server.forwards); n > 0 {
		t.Errorf("%d queries are still counted", n)
	}
}

// TestNothingIsLeft counts the sockets in a container's namespace when it is
// forgotten: one would keep the namespace.
func TestNothingIsLeft(t *testing.T) {
	w := newWorld(t, newBook(), silent(t), Upstream{Addr: silent(t).Addr, Inside: true})
	ns, err := identify(w.ns)
	must(t, err)
	conns := []net.Conn{w.dial("udp"), w.dial("udp"), w.dial("tcp")}
	q := packed(t, query("example.org.", dns.TypeA))
	for i, c := range conns {
		if i == 2 {
			must(t, writeTCP(c, time.Now().Add(time.Second), q))
		} else {
			_, err := c.Write(q)
			must(t, err)
		}
	}
	for len(w.server.forwards) < len(conns) {
		runtime.Gosched()
	}
	for _, c := range conns {
		must(t, c.Close())
	}
	if n := sockets(t, ns); n < 2 {
		t.Errorf("found %d sockets in the namespace that is served", n)
	}
	w.server.Forget(id)
	w.server.Forget(id)
	if n := sockets(t, ns); n > 0 {
		t.Errorf("%d sockets are left in the namespace", n)
	}
}

// sockets counts those of this process in a namespace.
func sockets(t *testing.T, in nsID) (n int) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, f := range files {
		fd, err := strconv.Atoi(f.Name())
		must(t, err)
		ns, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
		if err != nil {
			continue // no socket
		}
		var st unix.Stat_t
		must(t, unix.Fstat(ns, &st))
		must(t, unix.Close(ns))
		if (nsID{st.Dev, st.Ino}) == in {
			n++
		}
	}
	return n
}
