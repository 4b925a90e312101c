package registry

import (
	"context"
	"io"
	"sync"
)

// Interrupter is a reader whose Read, under way in another goroutine, can be
// made to return early with an error. The HTTP server's bodies are.
type Interrupter interface {
	io.Reader
	Interrupt()
}

// sessions says which upload sessions have a writer in this process. A writer
// that arrives takes the session over: it interrupts the one that is there,
// whose connection is as good as dead if its client has begun again, and waits
// until that one has saved what it received.
type sessions struct {
	mu     sync.Mutex
	active map[string]*writer
}

type writer struct {
	body io.Reader
	done chan struct{}
}

// enter makes the caller the one writer of the session id, which it is until it
// calls leave.
func (s *sessions) enter(ctx context.Context, id string, body io.Reader) (leave func(), err error) {
	me := &writer{body: body, done: make(chan struct{})}
	for {
		s.mu.Lock()
		other := s.active[id]
		if other == nil {
			if s.active == nil {
				s.active = map[string]*writer{}
			}
			s.active[id] = me
			s.mu.Unlock()
			return func() { s.leave(id, me) }, nil
		}
		s.mu.Unlock()
		if i, ok := other.body.(Interrupter); ok {
			i.Interrupt()
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *sessions) leave(id string, me *writer) {
	s.mu.Lock()
	delete(s.active, id)
	s.mu.Unlock()
	close(me.done)
}

// tryEnter is enter for somebody who does not take over.
func (s *sessions) tryEnter(id string) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[id] != nil {
		return nil, false
	}
	if s.active == nil {
		s.active = map[string]*writer{}
	}
	me := &writer{done: make(chan struct{})}
	s.active[id] = me
	return func() { s.leave(id, me) }, true
}
