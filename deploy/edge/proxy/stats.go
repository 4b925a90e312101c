package proxy

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/deploy/edge"
)

// stats count the requests of a service.
type stats struct {
	answers [6]atomic.Int64 // by the first digit of their status; 0 is none
	took    atomic.Int64    // nanoseconds
}

func (s *stats) count(status int, took time.Duration) {
	class := status / 100
	if class >= len(s.answers) {
		class = 0
	}
	s.answers[class].Add(1)
	s.took.Add(int64(took))
}

type serviceKey struct{ owner, service string }

// statsOf returns the counters of a service, which last as long as it has a route.
func (p *Proxy) statsOf(owner, service string) *stats {
	key := serviceKey{owner, service}
	if p.stats[key] == nil {
		p.stats[key] = new(stats)
	}
	return p.stats[key]
}

// services tells what was counted, in the order of the services' names.
func (p *Proxy) services() []edge.ServiceStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]edge.ServiceStats, 0, len(p.stats))
	for key, s := range p.stats {
		one := edge.ServiceStats{Owner: key.owner, Service: key.service, Answers: map[string]int64{}, Time: time.Duration(s.took.Load())}
		for class := range s.answers {
			if n := s.answers[class].Load(); n > 0 {
				one.Answers[strconv.Itoa(class)+"xx"] = n
			}
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b edge.ServiceStats) int {
		return strings.Compare(a.Owner+" "+a.Service, b.Owner+" "+b.Service)
	})
	return all
}
