package copying

import (
	"context"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Group is what copies share that go on at once: how many blobs they copy at a time,
// all together, and that none is sent twice into one repository.
type Group struct {
	room chan struct{}

	mu   sync.Mutex
	busy map[blobKey]chan struct{} // closed when the copy of it has ended
}

type blobKey struct {
	repo   string
	digest digest.Digest
}

// NewGroup returns a group that copies up to jobs blobs at a time; 0 means
// DefaultJobs.
func NewGroup(jobs int) *Group {
	if jobs <= 0 {
		jobs = DefaultJobs
	}
	return &Group{room: make(chan struct{}, jobs), busy: map[blobKey]chan struct{}{}}
}

// Jobs is how many blobs are copied at a time.
func (g *Group) Jobs() int { return cap(g.room) }

// claim waits until no other copy has the blob, and there is room. Who claims
// releases.
func (g *Group) claim(ctx context.Context, repo string, d digest.Digest) (release func(), err error) {
	key, mine := blobKey{repo, d}, make(chan struct{})
	for {
		g.mu.Lock()
		other, taken := g.busy[key]
		if !taken {
			g.busy[key] = mine
		}
		g.mu.Unlock()
		if !taken {
			break
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	free := func() {
		g.mu.Lock()
		delete(g.busy, key)
		g.mu.Unlock()
		close(mine)
	}
	select {
	case g.room <- struct{}{}:
		return func() { <-g.room; free() }, nil
	case <-ctx.Done():
		free()
		return nil, context.Cause(ctx)
	}
}
