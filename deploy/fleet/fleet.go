package fleet

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

// By is who deploys, in the history of stacks.
const By = "fleet"

// Manager is what is needed of the manager of stacks; see deploy.Manager.
type Manager interface {
	Deploy(ctx context.Context, req deploy.Request, watch func(deploy.Event)) (deploy.Revision, error)
	Cancel(ctx context.Context, stack string) error
	Status(ctx context.Context, stack string) (deploy.Status, error)
	History(ctx context.Context, stack string) ([]deploy.Revision, error)
}

// Source is a tag at its registry. Errors are of the kinds of package runner.
type Source interface {
	// Report tells how the node is doing, and returns what it is to do. It fails with
	// runner.ErrNotFound if there is no such repository, or the registry is no Berth.
	Report(ctx context.Context, r runner.FollowReport) (runner.FollowAnswer, error)
	// Watch returns when there is another version of what Report would return, or most
	// is over.
	Watch(ctx context.Context, version string, most time.Duration) (string, error)
	// Head returns what the tag names, with little effort if it is still the one known.
	Head(ctx context.Context, known digest.Digest) (digest.Digest, error)
	// Stack fetches the stack that a digest names. It fails with runner.ErrInvalid if it
	// can never be deployed here.
	Stack(ctx context.Context, d digest.Digest) (deploy.Request, error)
}

// Options of a Follower.
type Options struct {
	Ref    string // HOST/REPOSITORY:TAG that is followed
	Stack  string // name of the stack on this host
	Node   string
	Labels map[string]string // by which rollouts choose nodes
	Dir    string            // of what is remembered, one for all followers; made if need be
	// Interval is how long it takes at most from one report to the next.
	Interval time.Duration
	// Poll is how often a registry is asked that cannot be watched.
	Poll time.Duration
	Log  *slog.Logger
}

// Follower has a stack run what a tag names.
type Follower struct {
	o       Options
	manager Manager
	source  Source

	mu     sync.Mutex
	status deploy.Following
}

// New returns a Follower, which does nothing until it is run.
func New(m Manager, s Source, o Options) *Follower {
	o.Log = o.Log.With("stack", o.Stack, "follows", o.Ref)
	return &Follower{o: o, manager: m, source: s, status: deploy.Following{Stack: o.Stack, Ref: o.Ref, Node: o.Node, State: runner.FollowRunning}}
}

// Status returns how it is doing.
func (f *Follower) Status() deploy.Following {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *Follower) change(fn func(*deploy.Following)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn(&f.status)
}

// Run follows until ctx ends. A deployment that goes on then is resumed by the
// Manager when it is opened again.
func (f *Follower) Run(ctx context.Context) {
	l := &loop{Follower: f, done: make(chan result, 1)}
	l.memory = f.recall(ctx)
	defer l.running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for ctx.Err() == nil {
		l.turn(ctx)
	}
	l.stop()
}
