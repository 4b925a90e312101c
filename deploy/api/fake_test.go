package api_test

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/api"
)

// fake answers as its fields say, and keeps what it was asked.
type fake struct {
	events   []deploy.Event
	err      error
	revision deploy.Revision
	plan     deploy.Plan
	stacks   []deploy.Status
	history  []deploy.Revision
	stack    deploy.Stack
	// during, if not nil, goes on until a deployment ends.
	during func(ctx context.Context, watch func(deploy.Event))

	mu    sync.Mutex
	asked []any
}

// ask keeps the parts of a request.
func (f *fake) ask(parts ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, parts...)
}

func (f *fake) work(ctx context.Context, watch func(deploy.Event)) (deploy.Revision, error) {
	for _, e := range f.events {
		watch(e)
	}
	if f.during != nil {
		f.during(ctx, watch)
	}
	return f.revision, f.err
}

func (f *fake) Deploy(ctx context.Context, req deploy.Request, watch func(deploy.Event)) (deploy.Revision, error) {
	f.ask("deploy", req)
	return f.work(ctx, watch)
}

func (f *fake) Rollback(ctx context.Context, stack string, to int, by string, watch func(deploy.Event)) (deploy.Revision, error) {
	f.ask("rollback", stack, to, by)
	return f.work(ctx, watch)
}

func (f *fake) Scale(ctx context.Context, stack string, replicas map[string]int, by string, watch func(deploy.Event)) (deploy.Revision, error) {
	f.ask("scale", stack, replicas, by)
	return f.work(ctx, watch)
}

func (f *fake) Remove(ctx context.Context, stack string, volumes bool, watch func(deploy.Event)) error {
	f.ask("remove", stack, volumes)
	_, err := f.work(ctx, watch)
	return err
}

func (f *fake) Cancel(_ context.Context, stack string) error {
	f.ask("cancel", stack)
	return f.err
}

func (f *fake) Plan(_ context.Context, req deploy.Request) (deploy.Plan, error) {
	f.ask("plan", req)
	return f.plan, f.err
}

func (f *fake) Stacks(context.Context) ([]deploy.Status, error) {
	f.ask("stacks")
	return f.stacks, f.err
}

func (f *fake) Status(_ context.Context, stack string) (deploy.Status, error) {
	f.ask("status", stack)
	if f.err != nil {
		return deploy.Status{}, f.err
	}
	return f.stacks[0], nil
}

func (f *fake) History(_ context.Context, stack string) ([]deploy.Revision, error) {
	f.ask("history", stack)
	return f.history, f.err
}

func (f *fake) Stack(_ context.Context, stack string, revision int) (deploy.Stack, error) {
	f.ask("stack", stack, revision)
	return f.stack, f.err
}

// daemon is a server on a unix socket.
type daemon struct {
	server *http.Server
	path   string
}

// serve starts a server of a handler.
func serve(t *testing.T, h http.Handler) *daemon {
	t.Helper()
	d := &daemon{server: &http.Server{Handler: h}, path: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = d.server.Serve(l) })
	t.Cleanup(func() {
		_ = d.server.Close()
		serving.Wait()
	})
	return d
}

func (d *daemon) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", d.path)
}

// client is a client of the daemon.
func (d *daemon) client(t *testing.T) *api.Client {
	c := api.NewClient(d.dial)
	t.Cleanup(c.Close)
	return c
}

// connect starts a server of stacks and a client of it.
func connect(t *testing.T, s api.Stacks) (*daemon, *api.Client) {
	t.Helper()
	d := serve(t, api.New(s, api.Options{}))
	c := d.client(t)
	return d, c
}
