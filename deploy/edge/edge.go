package edge

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

// Config says which program is kept running, and with which options.
type Config struct {
	Options

	Program string // path
	Log     *slog.Logger
}

// Edge keeps the program running, and tells it the routes. It implements deploy.Edge.
type Edge struct {
	cfg    Config
	client *Client
	cancel context.CancelFunc
	ended  chan struct{} // closed when nothing watches the program any more

	mu    sync.Mutex
	ready chan struct{} // closed while the program serves
	err   error         // why it does not
}

var _ deploy.Edge = (*Edge)(nil)

// Open finds the program that serves, or starts one, in the background: that it cannot
// be started is logged, and told by SetRoutes.
func Open(ctx context.Context, cfg Config) (*Edge, error) {
	if _, err := ProgramOf(cfg.Program); err != nil {
		return nil, err
	}
	if err := makeDirs(cfg.Options); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e := &Edge{cfg: cfg, client: NewClient(cfg.Control()), cancel: cancel, ended: make(chan struct{}), ready: make(chan struct{})}
	go e.keep(ctx)
	return e, nil
}

// Close lets go of the program, which goes on serving.
func (e *Edge) Close() error {
	e.cancel()
	<-e.ended
	return nil
}

// SetRoutes implements deploy.Edge. It waits for a program that is just being started,
// and fails with runner.ErrUnavailable if there is none after a while.
func (e *Edge) SetRoutes(ctx context.Context, owner string, routes []deploy.EdgeRoute) error {
	return e.serving(ctx, func(ctx context.Context) error { return e.client.SetRoutes(ctx, owner, routes) })
}

// Requests implements deploy.Edge.
func (e *Edge) Requests(ctx context.Context, containerID string) (n int, err error) {
	err = e.serving(ctx, func(ctx context.Context) error {
		n, err = e.client.Requests(ctx, containerID)
		return err
	})
	return n, err
}

// Status asks the program for its status.
func (e *Edge) Status(ctx context.Context) (s Status, err error) {
	err = e.serving(ctx, func(ctx context.Context) error {
		s, err = e.client.Status(ctx)
		return err
	})
	return s, err
}

const (
	startPatience = 30 * time.Second // that a program may take until it serves
	again         = 20 * time.Millisecond
)

// serving calls f while the program serves; again if the program ended meanwhile: what
// it is asked may be asked twice.
func (e *Edge) serving(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		ready, _ := e.state()
		select {
		case <-ready:
		case <-ctx.Done():
			_, reason := e.state()
			return runner.Errorf(runner.ErrUnavailable, "the HTTP edge does not serve: %w", reason)
		}
		err := f(ctx)
		if kind := runner.ErrUnavailable; err == nil || !isKind(err, kind) {
			return err
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return err
		}
	}
}

func (e *Edge) state() (ready <-chan struct{}, reason error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if reason = e.err; reason == nil {
		reason = errStarting
	}
	return e.ready, reason
}

// up says that the program serves, down that it does not.
func (e *Edge) up() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = nil
	close(e.ready)
}

func (e *Edge) down(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.ready:
		e.ready = make(chan struct{})
	default:
	}
	e.err = err
}
