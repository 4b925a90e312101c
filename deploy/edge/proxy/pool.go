package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// replica is one who answers. It stays the same for as long as it has its address.
type replica struct {
	id       string // of the container
	mark     string // what the cookie of a client says that stays with it
	upstream *reverseproxy.Upstream
	avoid    atomic.Int64 // until when, in nanoseconds of time.UnixNano
}

func newReplica(id string, addr netip.AddrPort) *replica {
	sum := sha256.Sum256([]byte(id))
	return &replica{
		id: id, mark: hex.EncodeToString(sum[:12]),
		upstream: &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: addr.String()},
	}
}

// rest is how long a replica that did not answer is avoided.
const rest = 5 * time.Second

func (r *replica) failed()              { r.avoid.Store(time.Now().Add(rest).UnixNano()) }
func (r *replica) answered()            { r.avoid.Store(0) }
func (r *replica) rests(now int64) bool { return r.avoid.Load() > now }

// requests are those that it has now.
func (r *replica) requests() int { return r.upstream.NumRequests() }

// pool is those who answer on a route, each with its part of the requests. It does not
// change, but for the turn and the holds.
type pool struct {
	members []member
	turn    *atomic.Uint64 // shared by all pools that a route has had
	holds   atomic.Int64   // requests for which a replica is being chosen
}

// member is a replica with its weight, which is above 0.
type member struct {
	*replica

	weight int
}

// choose returns the replica that a request is sent to: the one that its client stays
// with, if that is there; otherwise whose turn it is. Those that rest, and those that
// skip names, come only if there is no other; nil: nobody else is left.
func (p *pool) choose(mark string, skip map[*replica]bool) *replica {
	now := time.Now().UnixNano()
	for _, m := range p.members {
		if mark != "" && m.mark == mark && !skip[m.replica] && !m.rests(now) {
			return m.replica
		}
	}
	if r := p.next(func(r *replica) bool { return !skip[r] && !r.rests(now) }); r != nil {
		return r
	}
	return p.next(func(r *replica) bool { return !skip[r] })
}

// next takes the turns of a low-discrepancy sequence, which gives each member its part
// of any number of requests that follow each other.
func (p *pool) next(may func(*replica) bool) *replica {
	total := 0
	for _, m := range p.members {
		if may(m.replica) {
			total += m.weight
		}
	}
	if total == 0 {
		return nil
	}
	_, frac := math.Modf(float64(p.turn.Add(1)&(1<<32-1)) * (math.Phi - 1))
	at := int(frac * float64(total))
	for _, m := range p.members {
		if !may(m.replica) {
			continue
		}
		if at -= m.weight; at < 0 {
			return m.replica
		}
	}
	// One that began to rest meanwhile: the last does it.
	for _, m := range p.members {
		if may(m.replica) {
			return m.replica
		}
	}
	return nil
}
