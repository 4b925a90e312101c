package images

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// flightKey names what an ingest makes: another digest of the same blob's archive
// would be a lie, of which only one pull may suffer.
type flightKey struct{ blob, diffID digest.Digest }

// flight is an ingest that all who want the layer wait for.
type flight struct {
	meter  meter
	done   chan struct{}
	cancel context.CancelFunc
	// What follows is guarded by Store.mu, but result and err are set before done
	// is closed and stay.
	waiting int
	result  *unpacked
	err     error
}

// share returns the layer that in describes, from an ingest under way if there is
// one. The caller owns the result until it calls release. watch is called with
// the meter and must return when done is closed.
func (s *Store) share(ctx context.Context, in layerInput, watch func(m *meter, done <-chan struct{})) (*unpacked, error) {
	for {
		f, mine := s.board(ctx, in)
		watch(&f.meter, f.done)
		u, err := s.leave(ctx, f)
		if err != nil && !mine && ctx.Err() == nil {
			continue // somebody else's registry or credentials may be at fault
		}
		return u, err
	}
}

// board joins the flight of a layer, or starts it.
func (s *Store) board(ctx context.Context, in layerInput) (f *flight, mine bool) {
	key := flightKey{in.blob.Digest, in.diffID}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flights[key]; f != nil && f.waiting > 0 {
		f.waiting++
		return f, false
	}
	// It goes on for as long as someone waits for it, whoever came first.
	fctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f = &flight{done: make(chan struct{}), cancel: cancel, waiting: 1}
	s.flights[key] = f
	s.tasks.Go(func() {
		defer cancel()
		u, err := s.ingestInTurn(fctx, in, &f.meter)
		s.mu.Lock()
		defer s.mu.Unlock()
		defer close(f.done) // no one can leave between owners and this
		f.result, f.err = u, err
		if s.flights[key] == f {
			delete(s.flights, key)
		}
		if u == nil {
			return
		}
		if u.owners = f.waiting; u.owners == 0 {
			f.result = nil
			s.mu.Unlock()
			u.unpin()
			s.removeTree(u.dir)
			s.mu.Lock()
		}
	})
	return f, true
}

func (s *Store) ingestInTurn(ctx context.Context, in layerInput, m *meter) (*unpacked, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.slots }()
	return s.ingest(ctx, in, m)
}

// leave waits for a flight. Who gives up last ends it.
func (s *Store) leave(ctx context.Context, f *flight) (*unpacked, error) {
	select {
	case <-f.done:
		return f.result, f.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	select {
	case <-f.done: // after all
		s.mu.Unlock()
		if f.result != nil {
			s.release(f.result)
		}
		return nil, context.Cause(ctx)
	default:
	}
	f.waiting--
	last := f.waiting == 0
	s.mu.Unlock()
	if last {
		f.cancel()
		<-f.done // what it made is gone then
	}
	return nil, context.Cause(ctx)
}

// release gives up a layer. Its tree goes with the last owner, unless an image
// has it.
func (s *Store) release(u *unpacked) {
	s.mu.Lock()
	u.owners--
	last, taken := u.owners == 0, s.shared[u.dir] > 0
	for _, l := range s.layers {
		taken = taken || l.Dir == u.dir
	}
	s.mu.Unlock()
	if !last {
		return
	}
	u.unpin()
	if !taken {
		s.removeTree(u.dir)
	}
}
