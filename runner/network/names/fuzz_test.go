package names

import (
	"bytes"
	"testing"

	"github.com/miekg/dns"
)

// FuzzReply feeds bytes to a listener as a query.
func FuzzReply(f *testing.F) {
	edns := query("web.", dns.TypeAAAA)
	edns.SetEdns0(1232, true)
	for _, m := range []*dns.Msg{
		query("web.", dns.TypeA), query("example.org.", dns.TypeMX), edns,
		query("2.0.0.10.in-addr.arpa.", dns.TypePTR), query(".", dns.TypeNS),
	} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b[:len(b)-3], true)
	}
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"), false)
	l := &listener{id: id, server: Open(Options{Resolver: newBook("web 10.0.0.2 fd00::2", "many 10.0.0.3 10.0.0.4")})}
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		answer, rest := l.reply(b, tcp)
		switch {
		case answer != nil && rest != nil:
			t.Fatal("a query was answered and is passed on")
		case rest != nil:
			if !bytes.Equal(rest.raw, b) || rest.limit < dns.MinMsgSize {
				t.Fatalf("passed on is %x with a limit of %d", rest.raw, rest.limit)
			}
		case answer != nil:
			checkAnswer(t, b, answer)
		case len(b) >= headerLen && b[2]&0x80 == 0:
			t.Fatal("a query was not answered")
		}
	})
}

func checkAnswer(t *testing.T, query, answer []byte) {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(answer); err != nil {
		t.Fatalf("answer %x: %v", answer, err)
	}
	if !m.Response || !bytes.Equal(answer[:2], query[:2]) {
		t.Fatalf("answer %x to %x", answer, query)
	}
}

// FuzzAnswer feeds bytes to a query that waits for its answer.
func FuzzAnswer(f *testing.F) {
	b, err := query("example.org.", dns.TypeA).Pack()
	if err != nil {
		f.Fatal(err)
	}
	m := replyTo(query("example.org.", dns.TypeA), "60 IN A 192.0.2.1", "60 IN A 192.0.2.2")
	m.Id = 0
	good, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, 512)
	f.Add(good, 40)
	f.Add(good[:20], 512)
	q := &question{raw: b, name: "example.org.", qtype: dns.TypeA, class: dns.ClassINET}
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		if !q.answeredBy(b, []byte{0, 0}) {
			return
		}
		limit = max(limit, dns.MinMsgSize)
		if cut := fit(b, limit); len(cut) > limit || cut[0] != 0 || cut[1] != 0 {
			t.Fatalf("%x cut to %d is %x", b, limit, cut)
		}
	})
}
