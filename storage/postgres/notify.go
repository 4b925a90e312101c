package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-registry/berth/storage"
)

// ears are those who listen. One connection is for all of them, while there are any.
type ears struct {
	config *pgx.ConnConfig

	mu     sync.Mutex
	some   chan struct{} // closed when there is one; nil until somebody waits for it
	by     map[*ear]struct{}
	closed bool
}

type ear struct {
	topic string
	heard chan struct{}
}

// maxTopic is how long the name of a topic may be, in bytes.
const maxTopic = 1000

func (m *Meta) channel() string { return "berth:" + m.schema }

// Notify implements storage.Notifier.
func (m *Meta) Notify(ctx context.Context, topic string) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if len(topic) == 0 || len(topic) > maxTopic {
		return fmt.Errorf("topic of %d bytes, want 1 to %d", len(topic), maxTopic)
	}
	for t := m.newTries(); ; {
		err := m.notify(ctx, topic)
		if err == nil || meaning(err) != lost || !t.again(ctx, &m.counts.lost) {
			return told(err)
		}
	}
}

func (m *Meta) notify(ctx context.Context, topic string) error {
	ctx, cancel := m.answer(ctx)
	defer cancel()
	_, err := m.side.Exec(ctx, "SELECT pg_notify($1, $2)", m.channel(), topic)
	return slow(ctx, err)
}

// Listen implements storage.Notifier.
func (m *Meta) Listen(ctx context.Context, topic string, fn func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e := &ear{topic: topic, heard: make(chan struct{}, 1)}
	if !m.ears.add(e) {
		return storage.ErrClosed
	}
	defer m.ears.remove(e)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, open := <-e.heard:
			if !open {
				return storage.ErrClosed
			}
			fn()
		}
	}
}

func (s *ears) add(e *ear) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.by == nil {
		s.by = map[*ear]struct{}{}
	}
	s.by[e] = struct{}{}
	e.heard <- struct{}{} // something may have been missed before
	if s.some != nil {
		close(s.some)
		s.some = nil
	}
	return true
}

func (s *ears) remove(e *ear) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, e)
}

// close ends all Listens.
func (s *ears) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for e := range s.by {
		close(e.heard)
	}
}

// tell tells those who listen for a topic, or everybody if it is empty.
func (s *ears) tell(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := range s.by {
		if topic != "" && e.topic != topic {
			continue
		}
		select {
		case e.heard <- struct{}{}:
		default: // it has not come to the last one yet
		}
	}
}

// any returns nil if somebody listens, or else what is closed when somebody does.
func (s *ears) any() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.by) > 0 {
		return nil
	}
	if s.some == nil {
		s.some = make(chan struct{})
	}
	return s.some
}

const (
	// listenCheck is how long nothing is heard before the connection is tried.
	listenCheck = 30 * time.Second
	// listenPause is how long to wait before it is made anew, at most.
	listenPause = 5 * time.Second
)

// listenAlways hears for everybody, and connects again when the connection is lost.
func (m *Meta) listenAlways(ctx context.Context) {
	defer m.ears.close()
	pause := listenPause / 64
	for {
		if some := m.ears.any(); some != nil {
			select {
			case <-ctx.Done():
				return
			case <-some:
			}
		}
		began := time.Now()
		err := m.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		m.log.InfoContext(ctx, "notices of other servers are not heard for a while", "error", told(err))
		if time.Since(began) > listenCheck {
			pause = listenPause / 64
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, listenPause)
	}
}

// listen hears until the connection is lost.
func (m *Meta) listen(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, m.ears.config.Copy())
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTime)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+quoted(m.channel())); err != nil {
		return err
	}
	m.ears.tell("")
	for {
		waiting, cancel := context.WithTimeout(ctx, listenCheck)
		notice, err := conn.WaitForNotification(waiting)
		quiet := waiting.Err() != nil
		cancel()
		switch {
		case err == nil:
			m.ears.tell(notice.Payload)
		case ctx.Err() != nil || !quiet:
			return err
		default:
			checking, cancel := m.answer(ctx)
			err := conn.Ping(checking)
			cancel()
			if err != nil {
				return err
			}
		}
	}
}
