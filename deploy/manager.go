package deploy

import (
	"context"
	"log/slog"

	"github.com/berth-registry/berth/runner"
)

// Options configure a Manager.
type Options struct {
	Dir    string // that it keeps stacks and revisions in
	Engine Engine
	Edge   Edge // nil: a stack with routes is refused
	// History is how many revisions of a stack are remembered.
	History int
	Log     *slog.Logger
}

// Manager keeps the stacks of a host.
type Manager struct {
	opts Options
}

// Open opens what a directory has of stacks, and goes on with, or takes back, the
// deployments that were cut short.
func Open(_ context.Context, o Options) (*Manager, error) {
	return &Manager{opts: o}, nil
}

// Close ends what goes on in the background. Deployments that have not ended are
// resumed by the next Open.
func (m *Manager) Close() error { return nil }

// Deploy puts a stack into service, and returns when its revision has taken the
// traffic and held its gate. What happens is told to watch, one event after the
// other; watch may be nil. The end of ctx ends the watching, not the deployment.
//
// It fails with runner.ErrInvalid if the stack is wrong, with runner.ErrConflict if
// the stack is being deployed already, and with a *Failure if the version was not
// taken.
func (m *Manager) Deploy(_ context.Context, _ Request, _ func(Event)) (Revision, error) {
	return Revision{}, runner.Errorf(runner.ErrUnavailable, "not yet")
}

// Plan returns what Deploy would do.
func (m *Manager) Plan(_ context.Context, _ Request) (Plan, error) {
	return Plan{}, runner.Errorf(runner.ErrUnavailable, "not yet")
}

// Rollback puts a revision before into service again, as a revision of its own. With
// 0 it is the one that had the traffic before the present one. Errors are those of
// Deploy, and runner.ErrNotFound.
func (m *Manager) Rollback(_ context.Context, _ string, _ int, _ string, _ func(Event)) (Revision, error) {
	return Revision{}, runner.Errorf(runner.ErrUnavailable, "not yet")
}

// Scale changes the number of replicas of services, as a revision of its own. Errors
// are those of Deploy, and runner.ErrNotFound.
func (m *Manager) Scale(_ context.Context, _ string, _ map[string]int, _ string, _ func(Event)) (Revision, error) {
	return Revision{}, runner.Errorf(runner.ErrUnavailable, "not yet")
}

// Remove removes a stack: its containers, traffic, networks and files, and if asked
// for its volumes.
func (m *Manager) Remove(_ context.Context, _ string, _ bool, _ func(Event)) error {
	return runner.Errorf(runner.ErrUnavailable, "not yet")
}

// Cancel takes back the deployment of a stack that goes on, and returns when that is
// done. It fails with runner.ErrNotFound if there is none.
func (m *Manager) Cancel(_ context.Context, _ string) error {
	return runner.Errorf(runner.ErrUnavailable, "not yet")
}

// Stacks returns all stacks as they are now, sorted by name.
func (m *Manager) Stacks(_ context.Context) ([]Status, error) { return nil, nil }

// Status returns a stack as it is now, or runner.ErrNotFound.
func (m *Manager) Status(_ context.Context, _ string) (Status, error) { return Status{}, nil }

// History returns the revisions of a stack that are remembered, the newest first, or
// runner.ErrNotFound.
func (m *Manager) History(_ context.Context, _ string) ([]Revision, error) { return nil, nil }

// Stack returns what a revision is made of; with 0, the one in service. It fails with
// runner.ErrNotFound.
func (m *Manager) Stack(_ context.Context, _ string, _ int) (Stack, error) { return Stack{}, nil }
