package logs

import (
	"errors"
	"io/fs"
	"sync"
	"time"
)

// item is a log that is sent.
type item struct {
	f      *Forwarder
	log    Log
	sender *sender

	// Guarded by the Forwarder's mutex.
	key    string // among the items
	wd     int
	queued bool // waits for its turn
	ended  bool // no monitor writes it
	gone   bool // is not sent any more
	lost   []loss
	timer  *time.Timer // of what a removed container left

	// moving is held to write while the log's directory becomes another.
	moving sync.RWMutex
	dir    string

	// settling is held while the log of a container that has ended is trimmed.
	settling sync.Mutex

	// What follows belongs to the sender's goroutine.
	queue   *queue
	history []sending
	behind  bool // more was kept for it than the log's own bound

	dropped   int64
	unknown   bool // and more, nobody knows how much
	lastNoted time.Time
}

// loss is a connection that broke.
type loss struct {
	at     time.Time
	unread bool
}

// sending is a position from which on something was sent.
type sending struct {
	at   time.Time
	sum  int64 // what the sender had sent then
	from position
}

const (
	// What may have been read by a server and not stored when its connection
	// ended is sent again; and what may not have been read, if some was not.
	unstored = 2 * time.Second
	unread   = 8 << 20
	// histories bounds how many positions are remembered for that.
	histories = 64
)

// turn sends the next batch. It says whether there may be more.
func (it *item) turn(s *sender) (more bool, err error) {
	it.f.mu.Lock()
	ended, lost, gone := it.ended, it.lost, it.gone
	it.lost = nil
	it.f.mu.Unlock()
	if gone {
		return false, nil
	}
	for _, l := range lost {
		if err := it.goBack(l); err != nil {
			return false, &unreadable{err}
		}
	}
	dropped, unknown := it.dropped, it.unknown
	next, more, err := it.read(s, ended)
	if err != nil {
		return false, &unreadable{err}
	}
	if len(s.out.entries) > 0 {
		if err := s.dest.Send(it.f.ctx, it.log.Source, s.out.entries); err != nil {
			it.queue.rewind(it.queue.sent)
			it.dropped, it.unknown = dropped, unknown
			return true, err
		}
		if s.settings.Lossy {
			it.remember(s)
		}
	}
	if err := it.commit(next); err != nil {
		return false, &unreadable{err}
	}
	if !more {
		it.queue.idle()
		it.caughtUp(ended)
	}
	return more, nil
}

// read reads the next batch, and all that will not become a line if the log has
// ended.
func (it *item) read(s *sender, ended bool) (next position, more bool, err error) {
	it.moving.RLock()
	defer it.moving.RUnlock()
	s.out.clear()
	it.queue.buf = s.buf
	next, more, err = it.queue.read(it.dir, &s.out)
	if errors.Is(err, fs.ErrNotExist) { // the log was removed
		return it.queue.sent, false, nil
	}
	if err == nil && !more && ended {
		it.queue.batch.flush()
		next = it.queue.batch.position(it.queue.at)
	}
	return next, more, err
}

// commit notes that all up to a position is sent.
func (it *item) commit(next position) error {
	it.noteGap(false)
	before := it.queue.sent
	if next == before {
		return nil
	}
	it.behind = it.behind || next.Number > before.Number
	it.queue.sent = next
	return it.save(next)
}

func (it *item) save(p position) error {
	if p.Hold = 0; len(it.history) > 0 {
		p.Hold = max(it.history[0].from.Number, 1)
	}
	it.moving.RLock()
	defer it.moving.RUnlock()
	return ignoreNotExist(p.save(it.dir))
}

// giveUp leaves out the batch that could not be sent.
func (it *item) giveUp(s *sender) {
	next, _, err := it.read(s, false)
	if err != nil || next == it.queue.sent {
		return
	}
	sum := int64(0)
	for _, e := range s.out.entries {
		sum += int64(len(e.Line))
	}
	it.gap(sum)
	if err := it.commit(next); err != nil {
		it.f.log.ErrorContext(it.f.ctx, "note how far a log is sent", "container", it.log.Source.ID, "err", err)
	}
}

// remember notes that a batch was sent, in case that it does not arrive.
func (it *item) remember(s *sender) {
	size := int64(len(s.out.text))
	s.sent += size
	now := time.Now()
	if n := len(it.history); n > 0 && now.Sub(it.history[n-1].at) < unstored/4 && s.sent-it.history[n-1].sum < unread/16 {
		return
	}
	it.history = append(it.history, sending{now, s.sent - size, it.queue.sent})
	for len(it.history) > histories || len(it.history) > 1 && now.Sub(it.history[1].at) > unstored && s.sent-it.history[1].sum > unread {
		it.history = it.history[1:]
	}
}

// goBack goes back to before what may be lost, for good: the daemon may end before
// it is sent again.
func (it *item) goBack(l loss) error {
	for i, h := range it.history {
		if h.at.Before(l.at.Add(-unstored)) && (!l.unread || it.sender.sent-h.sum > unread) {
			continue
		}
		it.queue.rewind(h.from)
		it.history = it.history[:i]
		it.behind = true
		return it.save(h.from)
	}
	return nil
}

// gap counts what is left out.
func (it *item) gap(bytes int64) {
	if bytes < 0 {
		it.unknown = true
	} else {
		it.dropped += bytes
	}
}

// noteInterval is how often gaps of a log are told.
const noteInterval = 10 * time.Second

// noteGap warns of what was left out since the last time.
func (it *item) noteGap(last bool) {
	if it.dropped == 0 && !it.unknown || !last && time.Since(it.lastNoted) < noteInterval {
		return
	}
	it.f.log.WarnContext(it.f.ctx, "a part of a log was not sent: its server did not take it in time",
		"container", it.log.Source.ID, "bytes", it.dropped, "more", it.unknown)
	it.dropped, it.unknown, it.lastNoted = 0, false, time.Now()
}

// caughtUp does what is to be done when all is sent.
func (it *item) caughtUp(ended bool) {
	if !ended {
		if it.behind {
			it.behind = false
			it.f.keeper.Trim(it.log.ID)
		}
		return
	}
	it.noteGap(true)
	it.settling.Lock()
	defer it.settling.Unlock()
	if !it.over() {
		return
	}
	if len(it.history) > 0 {
		it.history = nil // there will be nobody to send it again
		if err := it.save(it.queue.sent); err != nil {
			it.f.log.ErrorContext(it.f.ctx, "note how far a log is sent", "container", it.log.Source.ID, "err", err)
		}
	}
	it.settle()
	it.f.mu.Lock()
	defer it.f.mu.Unlock()
	if it.ended && !it.queued {
		it.f.forget(it)
	}
}

// over says whether the log has ended, and nothing has happened since.
func (it *item) over() bool {
	it.f.mu.Lock()
	defer it.f.mu.Unlock()
	return it.ended && !it.queued && !it.gone
}
