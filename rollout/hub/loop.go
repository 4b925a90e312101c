package hub

import (
	"context"
	"time"

	"github.com/berth-registry/berth/rollout"
)

// Run looks, for as long as somebody waits, until ctx ends; then it is closed.
func (h *Hub) Run(ctx context.Context) {
	defer h.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.some:
		}
		h.look(ctx)
	}
}

// look looks until nobody waits.
func (h *Hub) look(ctx context.Context) {
	l := &loop{Hub: h}
	t := time.NewTicker(l.every)
	defer t.Stop()
	for h.Waiting() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			l.tick(ctx)
		}
	}
}

// loop is what the loop remembers.
type loop struct {
	*Hub
	n      uint64 // ticks
	seen   uint64 // version of the store that was looked at
	looked bool   // there is one
	failed bool   // the last look
	known  map[rollout.Ref]*rollout.Seen
}

// tick is one look at everything.
func (l *loop) tick(ctx context.Context) {
	l.n++
	now := time.Now()
	refs := l.watchedRefs()
	l.see(ctx, refs)
	l.time(ctx, now)
	tell(l.news(now))
	l.gone()
}

func (l *loop) watchedRefs() []rollout.Ref {
	l.mu.Lock()
	defer l.mu.Unlock()
	refs := make([]rollout.Ref, 0, len(l.refs))
	for ref := range l.refs {
		refs = append(refs, ref)
	}
	return refs
}

// see reads what there is of the tags. If the store has not changed, it only reads of
// those that are new.
func (l *loop) see(ctx context.Context, refs []rollout.Ref) {
	if l.version != nil {
		v := l.version() // from before the look
		if l.looked && v == l.seen {
			fresh := refs[:0:0]
			for _, ref := range refs {
				if l.known[ref] == nil {
					fresh = append(fresh, ref)
				}
			}
			refs = fresh
		} else {
			l.known = nil
		}
		l.seen, l.looked = v, true
	} else {
		l.known = nil
	}
	if l.known == nil {
		l.known = make(map[rollout.Ref]*rollout.Seen, len(refs))
	}
	if len(refs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	seen, err := l.source.See(ctx, refs)
	if err != nil {
		l.looked = false // again with the next tick
		if !l.failed {
			l.log.WarnContext(ctx, "cannot look for what nodes wait for; will try again", "error", err)
		}
		l.failed = true
		return
	}
	l.failed = false
	for i, ref := range refs {
		l.known[ref] = &seen[i]
	}
}

// time has happen what time alone brings.
func (l *loop) time(ctx context.Context, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ref, at := range l.refs {
		s := l.known[ref]
		if s == nil || s.Next().IsZero() || now.Before(s.Next()) || !at.ticking.CompareAndSwap(false, true) {
			continue
		}
		go func() {
			defer at.ticking.Store(false)
			if err := l.source.Tick(ctx, ref); err != nil && ctx.Err() == nil {
				l.log.WarnContext(ctx, "a rollout cannot go on; will try again", "repository", ref.Repo, "tag", ref.Tag, "error", err)
				select { // not at once, with a warning each time
				case <-ctx.Done():
				case <-time.After(5 * l.every):
				}
			}
		}()
	}
}

// news takes out who is to be answered.
func (l *loop) news(now time.Time) (all []answered) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ref, at := range l.refs {
		s := l.known[ref]
		for w := range at.waiters {
			switch {
			case s != nil && s.Differs(w.version):
				all = append(all, answered{w, verdict{version: s.Version()}})
			case !now.Before(w.until):
				all = append(all, answered{w, verdict{}})
			default:
				continue
			}
			l.dropLocked(ref, w)
		}
	}
	return all
}

// gone lets go of the connections whose clients have gone; each is looked at once in
// goneTicks.
func (l *loop) gone() {
	var gone []*conn
	l.mu.Lock()
	for ref, at := range l.refs {
		for w := range at.waiters {
			if w.conn != nil && w.turn == l.n%goneTicks && w.conn.gone() {
				l.dropLocked(ref, w)
				gone = append(gone, w.conn)
			}
		}
	}
	l.mu.Unlock()
	for _, c := range gone {
		c.close()
	}
}
