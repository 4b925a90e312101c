package registry

import "sync"

// holds are those who need stored bytes to stay for a while.
type holds struct {
	mu sync.Mutex // held while bytes are found to be garbage, and until they are gone
	n  int
}

// HoldCollection keeps collection from deleting stored bytes until release is called:
// those that a transaction shows which begins after it has returned stay, unless it
// shows a tombstone for them. Reviews of them stay queued; manifests and links go as
// ever. It waits for the few deletions that are under way.
func (l *Local) HoldCollection() (release func()) {
	add := func(n int) {
		l.holds.mu.Lock()
		defer l.holds.mu.Unlock()
		l.holds.n += n
	}
	add(1)
	return sync.OnceFunc(func() { add(-1) })
}
