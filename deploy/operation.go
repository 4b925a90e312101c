package deploy

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/berth-registry/berth/runner"
)

// operation is something that is done about a stack, one at a time.
type operation struct {
	what   string // as in "it is being ..."
	by     string
	since  time.Time
	cancel context.CancelCauseFunc
	done   chan struct{}

	mu      sync.Mutex
	events  []Event
	more    chan struct{} // there are events
	watched bool
	result  Revision
	err     error
}

// errCancelled is why a deployment ends that somebody has cancelled.
var errCancelled = errors.New("cancelled")

// begin makes an operation the one that goes on. It fails with runner.ErrConflict if
// another does. The operation's context ends when it is cancelled, or the Manager
// closes.
func (u *unit) begin(what, by string, watched bool) (context.Context, *operation, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if other := u.op; other != nil {
		who := ""
		if other.by != "" {
			who = " by " + other.by
		}
		return nil, nil, runner.Errorf(runner.ErrConflict, "stack %s is being %s since %s%s", u.name, other.what, other.since.Format(time.RFC3339), who)
	}
	if u.gone {
		return nil, nil, runner.Errorf(runner.ErrConflict, "stack %s was just removed", u.name)
	}
	ctx, cancel := context.WithCancelCause(u.m.lifetime())
	u.op = &operation{
		what: what, by: by, since: time.Now(), cancel: cancel,
		done: make(chan struct{}), more: make(chan struct{}, 1), watched: watched,
	}
	return ctx, u.op, nil
}

// end lets go of an operation before or after it has run.
func (u *unit) end(op *operation, result Revision, err error) {
	if errors.Is(err, errClosing) {
		err = runner.Errorf(runner.ErrUnavailable, "stack %s: %w: it is gone on with when it starts again", u.name, errClosing)
	}
	op.mu.Lock()
	op.result, op.err = result, err
	op.mu.Unlock()
	u.mu.Lock()
	u.op = nil
	u.mu.Unlock()
	op.cancel(nil)
	close(op.done)
}

// after looks at what happened while an operation ran. What it could not finish, or take
// back, is tried again.
func (u *unit) after(err error) {
	rec, ctx := u.record(), u.m.lifetime()
	if !rec.pending() {
		u.m.poke(u)
		return
	}
	wait, news := u.fails(err)
	if news && ctx.Err() == nil {
		u.m.log.WarnContext(ctx, "it does not come to its end yet", "stack", u.name, "error", err)
	}
	u.m.pokeIn(u, wait)
}

// takeTurn waits until nobody else changes the stack, or a context ends.
func (u *unit) takeTurn(ctx context.Context) error {
	select {
	case u.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run runs an operation in the background, when a repair that goes on is over.
func (u *unit) run(ctx context.Context, op *operation, do func(ctx context.Context) (Revision, error)) {
	u.m.work.Go(func() {
		var result Revision
		err := u.takeTurn(u.m.lifetime())
		if err == nil {
			result, err = do(ctx)
			<-u.turn
		}
		u.end(op, result, err)
		u.after(err)
	})
}

// runNow is run for who has the turn.
func (u *unit) runNow(ctx context.Context, op *operation, do func(ctx context.Context) (Revision, error)) {
	u.m.work.Go(func() {
		result, err := do(ctx)
		<-u.turn
		u.end(op, result, err)
		u.after(err)
	})
}

const eventsHeld = 4096 // events that a slow watcher may be behind before details are dropped

// tell keeps an event for who watches.
func (op *operation) tell(e Event) {
	op.mu.Lock()
	defer op.mu.Unlock()
	if !op.watched || e.Kind == EventDetail && len(op.events) > eventsHeld {
		return
	}
	op.events = append(op.events, e)
	select {
	case op.more <- struct{}{}:
	default:
	}
}

// watch passes events on until the operation has ended, and returns what it came to.
// The end of ctx ends only the watching.
func (op *operation) watch(ctx context.Context, watch func(Event)) (Revision, error) {
	for {
		var over bool
		select {
		case <-op.more:
		case <-op.done:
			over = true
		case <-ctx.Done():
		}
		op.mu.Lock()
		events := op.events
		op.events = nil
		if ctx.Err() != nil && !over {
			op.watched = false
		}
		result, err := op.result, op.err
		op.mu.Unlock()
		for _, e := range events {
			if watch != nil {
				watch(e)
			}
		}
		if over {
			return result, err
		}
		if ctx.Err() != nil {
			return Revision{}, ctx.Err()
		}
	}
}
