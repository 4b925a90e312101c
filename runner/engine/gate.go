package engine

import (
	"sync"

	"github.com/berth-registry/berth/runner"
)

// gate counts what is at work, so that an engine that closes can wait for it.
// Nothing begins once it is shut.
type gate struct {
	mu     sync.Mutex
	shut   bool
	inside sync.WaitGroup
}

// enter counts one more that is at work, who is to leave. It fails if the gate
// is shut.
func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return errStopping()
	}
	g.inside.Add(1)
	return nil
}

func (g *gate) leave() { g.inside.Done() }

// run runs f beside its caller, unless the gate is shut.
func (g *gate) run(f func()) {
	if g.enter() != nil {
		return
	}
	go func() {
		defer g.leave()
		f()
	}()
}

// close shuts the gate, and waits until all have left.
func (g *gate) close() {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
	g.inside.Wait()
}

func errStopping() error {
	return runner.Errorf(runner.ErrUnavailable, "the engine is stopping")
}
