package edge

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
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
	wanted chan struct{} // gets what somebody waits for it to serve

	mu     sync.Mutex
	ready  chan struct{} // closed while the program serves
	err    error         // why it does not
	failed bool          // it has not served since it was started last
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
	e := &Edge{
		cfg: cfg, client: NewClient(cfg.Control()), cancel: cancel,
		ended: make(chan struct{}), wanted: make(chan struct{}), ready: make(chan struct{}),
	}
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
// and fails with runner.ErrUnavailable if there is none after a while. To let go of all
// routes takes no program.
func (e *Edge) SetRoutes(ctx context.Context, owner string, routes []deploy.EdgeRoute) error {
	if len(routes) == 0 && !e.serves() {
		if done, err := forget(e.cfg.Options, owner); done || err != nil {
			return err
		}
	}
	return e.serving(ctx, func(ctx context.Context) error { return e.client.SetRoutes(ctx, owner, routes) })
}

// CheckRoutes implements deploy.Edge.
func (e *Edge) CheckRoutes(ctx context.Context, owner string, routes []deploy.EdgeRoute) error {
	return e.serving(ctx, func(ctx context.Context) error { return e.client.CheckRoutes(ctx, owner, routes) })
}

// Requests implements deploy.Edge. Those of programs that have retired count.
func (e *Edge) Requests(ctx context.Context, containerID string) (n int, err error) {
	err = e.serving(ctx, func(ctx context.Context) error {
		n, err = e.client.Requests(ctx, containerID)
		return err
	})
	for _, socket := range e.cfg.allRetired() {
		if err != nil {
			return 0, err
		}
		var more int
		more, err = NewClient(socket).Requests(ctx, containerID)
		n += more
		if isKind(err, syscall.ECONNREFUSED) || isKind(err, fs.ErrNotExist) {
			err = os.RemoveAll(socket) // it has ended
		}
	}
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
	// failPatience is how long one is waited for that did not serve when it was started.
	failPatience = 5 * time.Second
	again        = 20 * time.Millisecond
)

// serving calls f while the program serves; again if the program ended meanwhile: what
// it is asked may be asked twice.
func (e *Edge) serving(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		if err := e.wait(ctx); err != nil {
			return err
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

// wait waits until the program serves. One that rests before it is started again rests
// no longer.
func (e *Edge) wait(ctx context.Context) error {
	begin, wanted := time.Now(), e.wanted
	for {
		ready, failed, reason := e.state()
		if failed && time.Since(begin) > failPatience {
			return runner.Errorf(runner.ErrUnavailable, "the HTTP edge does not serve: %w", reason)
		}
		select {
		case <-ready:
			return nil
		case wanted <- struct{}{}:
			wanted = nil
		case <-time.After(failPatience):
		case <-ctx.Done():
			_, _, reason = e.state()
			return runner.Errorf(runner.ErrUnavailable, "the HTTP edge does not serve: %w", reason)
		}
	}
}

func (e *Edge) state() (ready <-chan struct{}, failed bool, reason error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if reason = e.err; reason == nil {
		reason = errStarting
	}
	return e.ready, e.failed, reason
}

func (e *Edge) serves() bool {
	ready, _, _ := e.state()
	select {
	case <-ready:
		return true
	default:
		return false
	}
}

// up says that the program serves, down that it does not.
func (e *Edge) up() {
	if e.serves() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err, e.failed = nil, false
	close(e.ready)
}

func (e *Edge) down(err error, failed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.ready:
		e.ready = make(chan struct{})
	default:
	}
	e.err, e.failed = err, failed
}
