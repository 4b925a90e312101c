package logs

import (
	"context"
	"errors"
	"time"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/logs/remote"
)

// sender sends the logs of the containers that have the same server, in turns.
type sender struct {
	f        *Forwarder
	settings remote.Settings
	dest     remote.Destination

	// Guarded by the Forwarder's mutex.
	turns   []*item // that may have something to send
	running bool
	users   int
	unused  bool // is closed when it has come to its end

	// Of the goroutine that runs.
	out    scratch
	buf    []byte
	sent   int64 // bytes read from logs and sent
	failed int64 // tries in a row
	since  time.Time
}

const (
	// Between two tries of a server that does not answer, unless the driver's
	// options say how long.
	firstWait = 100 * time.Millisecond
	lastWait  = 10 * time.Second
)

// senderFor returns the sender for a server. The mutex is held.
func (f *Forwarder) senderFor(settings remote.Settings) (*sender, error) {
	if s := f.senders[settings.Key]; s != nil {
		return s, nil
	}
	s := &sender{f: f, settings: settings}
	var err error
	if s.dest, err = settings.New(s.lost); err != nil {
		return nil, err
	}
	f.senders[settings.Key] = s
	return s, nil
}

// enqueue gives a log a turn. The mutex is held.
func (f *Forwarder) enqueue(it *item) {
	s := it.sender
	if f.closed || it.gone || it.queued {
		return
	}
	it.queued = true
	s.turns = append(s.turns, it)
	if !s.running {
		s.running = true
		f.working.Go(s.run)
	}
}

// run sends until there is nothing to send.
func (s *sender) run() {
	s.buf = make([]byte, bufferSize)
	for it := s.next(); it != nil; it = s.next() {
		more, err := it.turn(s)
		switch {
		case s.f.ctx.Err() != nil:
		case err == nil:
			s.recovered()
		case errors.Is(err, remote.ErrLost):
			more = true // after what was lost
		case errors.As(err, new(*unreadable)):
			s.f.log.ErrorContext(s.f.ctx, "read a log to send it", "container", it.log.Source.ID, "err", err)
		default:
			more = true
			s.fail(it, err)
		}
		if more {
			s.f.activate(it)
		}
	}
}

// next takes the turn of a log; nil ends the goroutine.
func (s *sender) next() *item {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if len(s.turns) == 0 || s.f.closed {
		s.running, s.buf, s.out = false, nil, scratch{}
		if s.unused {
			go s.dest.Close()
		}
		return nil
	}
	it := s.turns[0]
	s.turns = s.turns[1:]
	it.queued = false
	return it
}

// fail waits after a try that failed. It warns of the first one.
func (s *sender) fail(it *item, err error) {
	if s.failed == 0 {
		s.since = time.Now()
		s.f.log.WarnContext(s.f.ctx, "a log server does not take logs: they are kept for it", "driver", s.settings.Driver, "container", it.log.Source.ID, "err", err)
	}
	s.failed++
	if s.settings.MaxRetries >= 0 && s.failed > s.settings.MaxRetries {
		it.giveUp(s)
		s.failed = 1
		return
	}
	wait := s.settings.RetryWait
	if wait == 0 {
		wait = min(firstWait<<min(s.failed-1, 8), lastWait)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.f.ctx.Done():
	}
}

func (s *sender) recovered() {
	if s.failed > 0 {
		s.f.log.InfoContext(s.f.ctx, "a log server takes logs again", "driver", s.settings.Driver, "after", time.Since(s.since).Round(time.Millisecond).String())
		s.failed = 0
	}
}

// lost sends again what may have been on its way when a connection broke.
func (s *sender) lost(at time.Time, unread bool) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	for _, it := range s.f.items {
		if it.sender == s {
			it.lost = append(it.lost, loss{at, unread})
			s.f.enqueue(it)
		}
	}
}

// unreadable is that a log could not be read, which is not its server's fault.
type unreadable struct{ err error }

// Error implements error.
func (u *unreadable) Error() string { return u.err.Error() }

// runnerError is why a container does not start, in Docker's words.
func runnerError(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return runner.Errorf(runner.ErrUnavailable, "failed to create task for container: failed to initialize logging driver: %w", err)
}
