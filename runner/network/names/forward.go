package names

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// allTries is the time that all upstreams together have for a query: clients wait
// for five seconds before they ask once more.
const allTries = 4500 * time.Millisecond

// forward asks the upstreams, and returns an answer that the client takes.
func (l *listener) forward(ctx context.Context, q *question, tcp bool) []byte {
	ctx, cancel := context.WithTimeout(ctx, allTries)
	defer cancel()
	var failure []byte
	upstreams := l.upstreams()
	for i, u := range upstreams {
		answer, err := l.try(ctx, u, q, tcp, len(upstreams)-i)
		if err != nil {
			l.server.Log.DebugContext(ctx, "an upstream server of names does not answer", "server", u.Addr, "container", l.id, "error", err)
			continue
		}
		switch int(answer[3] & 0x0f) {
		case dns.RcodeServerFailure, dns.RcodeRefused: // perhaps the next one knows
			failure = answer
			continue
		}
		return fit(answer, q.limit)
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil // nobody listens to the container any more
	}
	if len(failure) >= headerLen && failure[3]&0x0f == dns.RcodeServerFailure {
		return fit(failure, q.limit)
	}
	return refusal(q.raw, dns.RcodeServerFailure)
}

// upstreams returns those that the container may have asked. One that is this
// server again is none.
func (l *listener) upstreams() []Upstream {
	external := l.server.Resolver.External(l.id)
	var list []Upstream
	for _, u := range l.server.Upstreams(l.id) {
		if u.Inside && u.Addr.Addr().Unmap() == Address() || !u.Inside && !external {
			continue
		}
		list = append(list, u)
	}
	return list
}

// try asks one upstream, which has its share of the time that is left for it and
// those after it.
func (l *listener) try(ctx context.Context, u Upstream, q *question, tcp bool, left int) ([]byte, error) {
	end, _ := ctx.Deadline()
	ctx, cancel := context.WithTimeout(ctx, time.Until(end)/time.Duration(left))
	defer cancel()
	if tcp {
		return l.ask(ctx, u, q, "tcp")
	}
	answer, err := l.ask(ctx, u, q, "udp")
	if err != nil || answer[2]&truncated == 0 {
		return answer, err
	}
	// What the client can take of the whole answer is more than what it would
	// get: not all try again over TCP.
	if whole, err := l.ask(ctx, u, q, "tcp"); err == nil {
		return whole, nil
	}
	return answer, nil
}

const truncated = 0x02 // TC, in the third byte of a header

// ask sends a question and returns the answer to it, with the client's ID.
func (l *listener) ask(ctx context.Context, u Upstream, q *question, proto string) ([]byte, error) {
	conn, err := l.dial(ctx, u, proto)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	// The client's ID may be known to others, or easily guessed.
	query := append([]byte(nil), q.raw...)
	_, _ = rand.Read(query[:2]) // never fails
	var answer []byte
	if proto == "tcp" {
		answer, err = exchangeTCP(ctx, conn, query, q)
	} else {
		answer, err = exchangeUDP(conn, query, q)
	}
	if err != nil {
		return nil, err
	}
	copy(answer, q.raw[:2])
	return answer, nil
}

var errOther = errors.New("the answer is to another question")

func exchangeTCP(ctx context.Context, conn net.Conn, query []byte, q *question) ([]byte, error) {
	end, _ := ctx.Deadline()
	if err := writeTCP(conn, end, query); err != nil {
		return nil, err
	}
	answer, err := readTCP(conn, end, dns.MaxMsgSize)
	if err == nil && !q.answeredBy(answer, query) {
		err = errOther
	}
	return answer, err
}

// exchangeUDP waits for the answer until the socket is closed: what else comes
// may be sent by somebody who pretends to be the server.
func exchangeUDP(conn net.Conn, query []byte, q *question) ([]byte, error) {
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	raw, err := conn.(*net.UDPConn).SyscallConn() //nolint:forcetypeassert // of the network udp
	if err != nil {
		return nil, err
	}
	for {
		packet, _, err := receive(raw)
		if err != nil {
			return nil, fmt.Errorf("receive: %w", err)
		}
		if q.answeredBy(packet, query) {
			return packet, nil
		}
	}
}

// answeredBy says whether a message is an answer to the query, which is the
// question under another ID.
func (q *question) answeredBy(msg, query []byte) bool {
	if len(msg) < headerLen || msg[0] != query[0] || msg[1] != query[1] || msg[2]&0x80 == 0 {
		return false
	}
	switch binary.BigEndian.Uint16(msg[4:]) {
	case 0: // some repeat no question when they fail
		return msg[3]&0x0f != dns.RcodeSuccess
	case 1:
	default:
		return false
	}
	name, off, err := dns.UnpackDomainName(msg, headerLen)
	return err == nil && off+4 <= len(msg) && strings.EqualFold(name, q.name) &&
		binary.BigEndian.Uint16(msg[off:]) == q.qtype && binary.BigEndian.Uint16(msg[off+2:]) == q.class
}

// fit cuts an answer to what the client takes.
func fit(answer []byte, limit int) []byte {
	if len(answer) <= limit {
		return answer
	}
	var msg dns.Msg
	if msg.Unpack(answer) == nil {
		msg.Truncate(limit)
		if cut, err := msg.Pack(); err == nil && len(cut) <= limit {
			return cut
		}
	}
	short := refusal(answer, int(answer[3]&0x0f))
	short[2] |= truncated
	return short
}
