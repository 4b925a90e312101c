package engine

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers"
)

// ctr is the live handle of a container.
type ctr struct {
	id string
	// turn is held by the one operation that changes the container.
	turn chan struct{}
	work *gate // counts the turns that are held

	mu       sync.Mutex
	record   *runner.Container // replaced whole, never changed in place
	state    runner.State
	clients  []*client          // attached before it is started
	run      *run               // nil unless it runs
	health   *container.Health  // what the checks of this run have found; nil without a check
	waiters  []waiter           // for an exit or the removal
	stopping context.CancelFunc // ends the wait for the next try of a restart policy
	tries    int                // starts by a restart policy since the last that lasted
	keepers  int                // operations that --rm has to wait for
	ooms     uint64             // times that the kernel killed for want of memory
	removed  chan struct{}
	unread   error // why its record is not known; what is asked of it fails so

	unsampled map[string]bool // why it could not be sampled, of which the log has told
}

// run is one run of a container, from its start until its exit is recorded.
type run struct {
	ended   chan struct{} // closed when the exit is recorded
	lingers int           // connections whose clients are gone: see pump
	pauses  int           // how often it was paused
	kills   int           // for want of memory, of which is told
}

type waiter struct {
	until container.WaitCondition
	done  chan container.WaitResponse // with room for the one response
}

func newCtr(work *gate, record *runner.Container, state runner.State) *ctr {
	return &ctr{
		id:      record.ID,
		turn:    make(chan struct{}, 1),
		work:    work,
		record:  record,
		state:   state,
		removed: make(chan struct{}),
	}
}

// snapshot returns the record, which is not to be changed, and the state.
func (c *ctr) snapshot() (*runner.Container, runner.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record, c.state
}

// lock waits for the container's turn. It fails if ctx ends first, if the
// container was removed meanwhile, or if the engine is stopping.
func (c *ctr) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-c.removed:
		<-c.turn
		return nil, noSuchContainer(c.id)
	default:
	}
	if err := c.work.enter(); err != nil {
		<-c.turn
		return nil, err
	}
	return func() {
		<-c.turn
		c.work.leave()
	}, nil
}

// currentRun is the run that goes on, or nil.
func (c *ctr) currentRun() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

// keep holds --rm back while an operation ends a run in order to start another.
func (c *ctr) keep(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if on {
		c.keepers++
	} else {
		c.keepers--
	}
}

func (c *ctr) kept() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keepers > 0
}

// notify answers the waiters for an exit. Those for the removal stay.
func (c *ctr) notify() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiters = slices.DeleteFunc(c.waiters, func(w waiter) bool {
		if w.until == container.WaitConditionRemoved {
			return false
		}
		w.done <- c.response()
		return true
	})
}

// notifyRemoved answers everybody who waits, and marks the container as gone.
func (c *ctr) notifyRemoved() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.waiters {
		w.done <- c.response()
	}
	c.waiters = nil
	close(c.removed)
}

func (c *ctr) response() container.WaitResponse {
	return container.WaitResponse{StatusCode: int64(c.state.ExitCode)}
}

// change replaces the state, in memory and on disk: first there, so that nobody
// sees what a crash could undo.
func (e *Engine) change(c *ctr, next runner.State) error {
	if err := e.store.SaveState(c.id, next); err != nil {
		return err
	}
	c.set(next)
	return nil
}

// set replaces the state in memory.
func (c *ctr) set(next runner.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = next
}

// may returns an error that names the container if an event cannot be now.
func (c *ctr) may(event containers.Event) error {
	_, st := c.snapshot()
	if _, err := containers.Next(st.Status, event); err != nil {
		return runner.Errorf(runner.ErrConflict, "container %s %w", c.id, err)
	}
	return nil
}

// transition moves the container on and changes its state by edit, durably.
func (e *Engine) transition(c *ctr, event containers.Event, edit func(*runner.State)) error {
	if err := c.may(event); err != nil {
		return err
	}
	_, st := c.snapshot()
	st.Status, _ = containers.Next(st.Status, event)
	edit(&st)
	return e.change(c, st)
}

// replaceRecord replaces a container's record, on disk and in memory.
func (e *Engine) replaceRecord(c *ctr, rec *runner.Container) error {
	if err := e.store.SaveRecord(rec); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record = rec
	return nil
}

func noSuchContainer(ref string) error {
	return runner.Errorf(runner.ErrNotFound, "No such container: %s", ref)
}

// find returns the container that a client names: by name, by ID, or by the
// beginning of an ID that only one has. It fails with the reason if its record cannot
// be read.
func (e *Engine) find(ref string) (*ctr, error) {
	c, err := e.lookUp(ref)
	if err != nil {
		return nil, err
	}
	return c, c.unread
}

// lookUp is find, also of a container whose record cannot be read.
func (e *Engine) lookUp(ref string) (*ctr, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	name := strings.TrimPrefix(ref, "/")
	if name == "" {
		return nil, noSuchContainer(ref)
	}
	if c, ok := e.containers[name]; ok {
		return c, nil
	}
	if id, ok := e.names[name]; ok {
		if c, ok := e.containers[id]; ok {
			return c, nil
		}
		return nil, noSuchContainer(ref) // it is being made
	}
	var found *ctr
	for id, c := range e.containers {
		if !strings.HasPrefix(id, name) {
			continue
		}
		if found != nil {
			return nil, runner.Errorf(runner.ErrInvalid, "multiple IDs found with provided prefix: %s", name)
		}
		found = c
	}
	if found == nil {
		return nil, noSuchContainer(ref)
	}
	return found, nil
}

// findLocked finds a container and waits for its turn.
func (e *Engine) findLocked(ctx context.Context, ref string) (*ctr, func(), error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, nil, err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	return c, unlock, nil
}
