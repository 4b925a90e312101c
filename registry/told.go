package registry

import (
	"hash/maphash"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// maxTold is how much told remembers at most.
const maxTold = 1 << 18

// told remembers what clients were told of by this process, and until when that holds.
// Where it is alone, content that something needs has no lease in its row, as that would
// have to be written for everybody who asks; but it can come to be garbage, and be collected, before a client
// has used it. Whoever tells of content has it remembered first and looks whether it
// is there then; a collection looks here in the transaction that removes something.
// So a client either was told of what stays, or is told that it is absent.
type told struct {
	seed maphash.Seed

	mu    sync.RWMutex
	until map[uint64]int64 // microseconds since 1970, by a hash: two that have the same both stay
	all   int64            // until when everything stays, as there was too much to remember
}

// toldKey is content that a review can be of.
type toldKey struct {
	kind   storage.ReviewKind
	repo   string
	digest digest.Digest
}

func newTold() told { return told{seed: maphash.MakeSeed(), until: map[uint64]int64{}} }

// tell has it remembered that somebody is told of content.
func (l *Local) tell(kind storage.ReviewKind, repo string, d digest.Digest) {
	lease, now := l.keeping.Load().Lease, l.now()
	l.told.put(toldKey{kind, repo, d}, now.Add(lease/2).UnixMicro(), now.Add(lease).UnixMicro())
}

// put remembers content until a time, unless it is remembered until enough already.
func (t *told) put(k toldKey, enough, until int64) {
	if t.get(k) >= enough {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.until) >= maxTold {
		t.all = max(t.all, until)
		clear(t.until)
	}
	t.until[maphash.Comparable(t.seed, k)] = until
}

// get is until when content stays.
func (t *told) get(k toldKey) int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return max(t.all, t.until[maphash.Comparable(t.seed, k)])
}

// arrivals are the bytes that pushes of this process are about to store, or have stored
// and not made known yet. What was known of the same bytes before stays until then:
// otherwise the new ones would be deleted for the old ones.
type arrivals struct {
	mu sync.Mutex
	n  map[digest.Digest]int
}

// begin keeps bytes until end is called.
func (a *arrivals) begin(d digest.Digest) (end func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n == nil {
		a.n = map[digest.Digest]int{}
	}
	a.n[d]++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.n[d]--; a.n[d] == 0 {
			delete(a.n, d)
		}
	}
}

func (a *arrivals) has(d digest.Digest) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n[d] > 0
}
