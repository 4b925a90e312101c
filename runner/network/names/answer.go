package names

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// What answers have, in seconds.
const (
	timeToLive  = 600 // as Docker's do
	timeToLeave = 1   // the name of a service: who keeps it notices a switch
)

const headerLen = 12 // bytes of a message before its first question

// question is a query that is well formed.
type question struct {
	raw   []byte
	name  string // as it was written
	qtype uint16
	class uint16
	limit int // bytes that the client takes as an answer
}

// reply answers a query that needs nobody else. It returns the answer, or the
// question to pass on; neither for what is not answered.
func (l *listener) reply(query []byte, tcp bool) (answer []byte, rest *question) {
	if len(query) < headerLen || query[2]&0x80 != 0 {
		return nil, nil // an answer to an answer would be the beginning of a loop
	}
	if opcode := int(query[2]>>3) & 0xf; opcode != dns.OpcodeQuery {
		return refusal(query, dns.RcodeNotImplemented), nil
	}
	var msg dns.Msg
	if len(query) > longestQuery || msg.Unpack(query) != nil || len(msg.Question) != 1 {
		return refusal(query, dns.RcodeFormatError), nil
	}
	q := &question{
		raw: query, name: msg.Question[0].Name, qtype: msg.Question[0].Qtype, class: msg.Question[0].Qclass,
		limit: limitOf(&msg, tcp),
	}
	records, known := answers(l.server.Resolver, l.id, q)
	if !known {
		return nil, q
	}
	resp := new(dns.Msg).SetReply(&msg)
	resp.RecursionAvailable, resp.Compress, resp.Answer = true, true, records
	if opt := msg.IsEdns0(); opt != nil {
		resp.SetEdns0(longestQuery, opt.Do())
	}
	resp.Truncate(q.limit)
	answer, err := resp.Pack()
	if err != nil {
		return refusal(query, dns.RcodeServerFailure), nil
	}
	return answer, nil
}

// limitOf is how long an answer may be: 512 bytes over UDP, unless the query says
// otherwise (RFC 6891, 6.2.3).
func limitOf(msg *dns.Msg, tcp bool) int {
	if tcp {
		return dns.MaxMsgSize
	}
	limit := dns.MinMsgSize
	if opt := msg.IsEdns0(); opt != nil {
		limit = max(limit, int(opt.UDPSize()))
	}
	return limit
}

// refusal is an answer without more than a code. It repeats the question only
// if that can be read.
func refusal(query []byte, rcode int) []byte {
	end := headerLen
	if _, off, err := dns.UnpackDomainName(query, headerLen); err == nil && off+4 <= len(query) && query[4] == 0 && query[5] == 1 {
		end = off + 4
	}
	msg := append([]byte(nil), query[:end]...)
	msg[2] = msg[2]&0x79 | 0x80      // QR; opcode and RD stay
	msg[3] = 0x80 | byte(rcode)&0x0f // RA
	clear(msg[4:headerLen])
	if end > headerLen {
		msg[5] = 1
	}
	return msg
}

// answers returns the records that answer a question, which are none if the name
// has none of the type; known is false for what is not ours to answer.
func answers(r Resolver, containerID string, q *question) (records []dns.RR, known bool) {
	if q.class != dns.ClassINET && q.class != dns.ClassANY {
		return nil, false
	}
	ttl := uint32(timeToLive)
	header := func(rrtype uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
	}
	if addr, ok := reversed(q.name); ok {
		name, found := r.Reverse(containerID, addr)
		if found && (q.qtype == dns.TypePTR || q.qtype == dns.TypeANY) {
			records = append(records, &dns.PTR{Hdr: header(dns.TypePTR), Ptr: dns.Fqdn(name)})
		}
		return records, found
	}
	a, found := r.Lookup(containerID, strings.ToLower(strings.TrimSuffix(q.name, ".")))
	if a.Moves {
		ttl = timeToLeave
	}
	if q.qtype == dns.TypeA || q.qtype == dns.TypeANY {
		for _, i := range rand.Perm(len(a.V4)) { //nolint:gosec // G404: an order is no secret
			records = append(records, &dns.A{Hdr: header(dns.TypeA), A: a.V4[i].AsSlice()})
		}
	}
	if q.qtype == dns.TypeAAAA || q.qtype == dns.TypeANY {
		for _, i := range rand.Perm(len(a.V6)) { //nolint:gosec // G404: as above
			records = append(records, &dns.AAAA{Hdr: header(dns.TypeAAAA), AAAA: a.V6[i].AsSlice()})
		}
	}
	return records, found
}

// reversed returns the address whose name is asked for.
func reversed(name string) (netip.Addr, bool) {
	name = strings.ToLower(name)
	if s, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(s, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		addr, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return addr, err == nil
	}
	s, ok := strings.CutSuffix(name, ".ip6.arpa.")
	const digits = 32
	if !ok || len(s) != 2*digits-1 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := digits - 1; i >= 0; i-- {
		if i < digits-1 && s[2*i+1] != '.' || !strings.ContainsRune("0123456789abcdef", rune(s[2*i])) {
			return netip.Addr{}, false
		}
		b.WriteByte(s[2*i])
		if i%4 == 0 && i > 0 {
			b.WriteByte(':')
		}
	}
	addr, err := netip.ParseAddr(b.String())
	return addr, err == nil
}
