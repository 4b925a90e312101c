package registry

import (
	"container/list"
	"sync"

	"github.com/opencontainers/go-digest"
)

const (
	// cacheBytes is how many bytes of manifests are kept in memory.
	cacheBytes = 4 << 20
	// cacheEntry is the size in bytes from which a manifest is not kept: it
	// would displace many that are asked for more often.
	cacheEntry = 64 << 10
)

// cache keeps the bytes of manifests that were read or written last. It knows
// nothing of repositories: whoever asks has found the manifest in one.
type cache struct {
	mu      sync.Mutex
	room    int // bytes
	entries map[digest.Digest]*list.Element
	recent  *list.List // of cached, the most recently used first
}

type cached struct {
	digest digest.Digest
	data   []byte
}

func newCache(room int) *cache {
	return &cache{room: room, entries: map[digest.Digest]*list.Element{}, recent: list.New()}
}

func (c *cache) get(d digest.Digest) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[d]
	if !ok {
		return nil, false
	}
	c.recent.MoveToFront(e)
	return e.Value.(cached).data, true
}

func (c *cache) put(d digest.Digest, data []byte) {
	if len(data) > cacheEntry {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.entries[d]; ok {
		return
	}
	c.entries[d] = c.recent.PushFront(cached{d, data})
	for c.room -= len(data); c.room < 0; {
		oldest := c.recent.Remove(c.recent.Back()).(cached)
		delete(c.entries, oldest.digest)
		c.room += len(oldest.data)
	}
}
