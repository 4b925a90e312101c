package mirror

import (
	"context"
	"errors"
	"sync"
	"time"
)

// flights shares the answer to a question among all who ask it while it is being
// found. Who gives up waiting leaves it to the others.
type flights[K comparable, V any] struct {
	mu     sync.Mutex
	flying map[K]*flight[V]
}

// flight is a question that is being answered.
type flight[V any] struct {
	begun time.Time
	done  chan struct{} // closed when the rest is set
	value V
	err   error
}

// join joins the flight of a question, or begins it with ask, which goes starts.
func (f *flights[K, V]) join(key K, goes func(func()) error, ask func() (V, error)) (*flight[V], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.flying[key]; ok {
		return fl, nil
	}
	fl := &flight[V]{begun: time.Now(), done: make(chan struct{})}
	err := goes(func() {
		defer close(fl.done)
		defer func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.flying, key)
		}()
		fl.value, fl.err = ask()
	})
	if err != nil {
		return nil, err
	}
	if f.flying == nil {
		f.flying = map[K]*flight[V]{}
	}
	f.flying[key] = fl
	return fl, nil
}

// errPatience says that a flight took longer than its caller would wait.
var errPatience = errors.New("the upstream takes long to answer")

// wait waits for the answer; with patience, no longer than until that is over since
// the flight began.
func (f *flight[V]) wait(ctx context.Context, patience time.Duration) (v V, err error) {
	var over <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(time.Until(f.begun.Add(patience)))
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		return v, ctx.Err()
	case <-over:
		return v, errPatience
	}
}
