// Package hub holds the connections of those who wait for something new about a tag.
//
// It promises that who waits costs next to nothing: no goroutine, and no buffer, but a
// connection and a few words. One loop looks at every tag that somebody waits for, all of
// them in one read, every Tick; where nobody else writes to the store, only if something
// was written. It writes the answers itself, and finds out which clients have gone.
//
// An answer ends the connection: what was taken over from net/http cannot be handed back
// without a goroutine that waits on it. A client comes again with another one, at most
// once for each answer.
//
// By HTTP/2, whose connections cannot be taken over, and within a process, the handler
// waits, and the hub wakes it.
package hub

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/rollout"
	"github.com/berth-registry/berth/storage"
)

const (
	// Tick is how often it is looked whether there is something new.
	Tick = 200 * time.Millisecond
	// MaxWait is how long a client can wait for an answer.
	MaxWait = 5 * time.Minute
	// goneTicks is after how many ticks it is looked whether a client has gone.
	goneTicks = 25
	// MaxRef is how many may wait for a tag.
	MaxRef = 2000
	// MaxAccount is how many an account may have wait.
	MaxAccount = 2000
	// maxAll is how many may wait at all, if there are twice as many descriptors.
	maxAll = 10_000
)

// Source is what is looked at; a rollout.Store is one.
type Source interface {
	See(ctx context.Context, refs []rollout.Ref) ([]rollout.Seen, error)
	Tick(ctx context.Context, ref rollout.Ref) error
}

// Options are what a Hub can be told.
type Options struct {
	// Meta, if it is a storage.Versioner, says when there is nothing new to see.
	Meta storage.Meta
	// Max is how many may wait; 0 for as many as there are descriptors for.
	Max int
	// Every is how often it is looked; 0 for Tick.
	Every time.Duration
	Log   *slog.Logger
}

// Hub holds those who wait. Run must run for them to be answered.
type Hub struct {
	source  Source
	version func() uint64 // nil if others write, too
	max     int
	every   time.Duration
	log     *slog.Logger
	some    chan struct{} // has one when the first has come
	waiting atomic.Int64

	closing sync.Mutex // held while Close answers

	mu       sync.Mutex
	closed   bool
	refs     map[rollout.Ref]*watched
	accounts map[string]int
}

// watched is a tag that somebody waits for.
type watched struct {
	waiters map[*waiter]struct{}
	ticking atomic.Bool
}

// waiter is who waits: by a connection, or by a goroutine.
type waiter struct {
	account string
	version string
	until   time.Time
	conn    *conn        // or nil
	woken   chan verdict // of a goroutine, which takes one
	turn    uint64       // the tick, of goneTicks, in which it is looked whether it has gone
}

// verdict is what a waiter is told.
type verdict struct {
	version string // something is new
	stopped bool   // the server stops; else, without a version, the time is over
}

// New makes a hub.
func New(source Source, o Options) *Hub {
	h := &Hub{source: source, max: o.Max, every: cmp.Or(o.Every, Tick), log: o.Log, some: make(chan struct{}, 1), refs: map[rollout.Ref]*watched{}, accounts: map[string]int{}}
	if v, ok := o.Meta.(storage.Versioner); ok {
		h.version = v.Version
	}
	if h.max == 0 {
		h.max = roomFor()
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	return h
}

// roomFor is how many connections there are descriptors for, and as many again for
// everybody else.
func roomFor() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return maxAll / 10
	}
	return int(min(maxAll, max(16, limit.Cur/2)))
}

// Waiting is how many wait.
func (h *Hub) Waiting() int { return int(h.waiting.Load()) }

// add has somebody wait, or says why not: too many do, or the server stops.
func (h *Hub) add(ref rollout.Ref, w *waiter) (refused string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.refs[ref]
	switch {
	case h.closed:
		return "the server stops"
	case h.Waiting() >= h.max, h.accounts[w.account] >= MaxAccount, at != nil && len(at.waiters) >= MaxRef:
		return "too many wait already"
	}
	if at == nil {
		at = &watched{waiters: map[*waiter]struct{}{}}
		h.refs[ref] = at
	}
	at.waiters[w] = struct{}{}
	h.accounts[w.account]++
	if h.waiting.Add(1) == 1 {
		select {
		case h.some <- struct{}{}:
		default:
		}
	}
	return ""
}

// drop has somebody not wait any more, and says whether they did.
func (h *Hub) drop(ref rollout.Ref, w *waiter) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dropLocked(ref, w)
}

func (h *Hub) dropLocked(ref rollout.Ref, w *waiter) bool {
	at := h.refs[ref]
	if at == nil {
		return false
	}
	if _, ok := at.waiters[w]; !ok {
		return false
	}
	delete(at.waiters, w)
	if len(at.waiters) == 0 {
		delete(h.refs, ref)
	}
	if h.accounts[w.account]--; h.accounts[w.account] == 0 {
		delete(h.accounts, w.account)
	}
	h.waiting.Add(-1)
	return true
}

// Close answers everybody, and whoever comes later, that the server stops. It returns when
// that is done.
func (h *Hub) Close() {
	h.closing.Lock()
	defer h.closing.Unlock()
	h.mu.Lock()
	h.closed = true
	var all []answered
	for ref, at := range h.refs {
		for w := range at.waiters {
			all = append(all, answered{w, verdict{stopped: true}})
			h.dropLocked(ref, w)
		}
	}
	h.mu.Unlock()
	tell(all)
}

// answered is a waiter that is told something.
type answered struct {
	*waiter
	verdict
}

// writers is how many answers are written at the same time: a client that takes its
// answer slowly, which fills a buffer of the kernel, holds up one.
const writers = 32

// tell answers all of a list, and returns when that is done.
func tell(all []answered) {
	work := make(chan answered)
	var running sync.WaitGroup
	for range min(writers, len(all)) {
		running.Go(func() {
			for a := range work {
				a.tell()
			}
		})
	}
	for _, a := range all {
		work <- a
	}
	close(work)
	running.Wait()
}

func (a answered) tell() {
	if a.conn == nil {
		a.woken <- a.verdict // it has room for the one
		return
	}
	status, body := a.answer()
	a.conn.answer(status, body)
}

// answer is the status and the body of the answer.
func (v verdict) answer() (status int, body string) {
	switch {
	case v.stopped:
		return http.StatusServiceUnavailable, refusal("the server stops")
	case v.version == "":
		return http.StatusNoContent, ""
	}
	return http.StatusOK, `{"version":"` + v.version + `"}` + "\n" // of letters, digits and marks
}
