package engine

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
)

// client is somebody who has attached to a container that does not run yet.
type client struct {
	ready chan struct{} // closed when conn or err is set
	conn  *shim.Conn
	err   error
}

// AttachContainer implements runner/api's ContainerStreams.
func (e *Engine) AttachContainer(ctx context.Context, ref string, opts runner.AttachOptions) (runner.Stream, error) {
	c, err := e.find(ref)
	if err != nil {
		return runner.Stream{}, err
	}
	rec, st := c.snapshot()
	switch st.Status {
	case container.StatePaused:
		return runner.Stream{}, runner.Errorf(runner.ErrConflict, "container %s is paused, unpause the container before attach", c.id)
	case container.StateRestarting:
		return runner.Stream{}, runner.Errorf(runner.ErrConflict, "container %s is restarting, wait until the container is running", c.id)
	default:
	}
	stream := runner.Stream{TTY: rec.Config.Tty, Close: func() {}}
	var cl *client
	if opts.Stream {
		if cl, err = e.attach(ctx, c); err != nil {
			return runner.Stream{}, err
		}
		stream.Close = func() { c.drop(cl) }
	}
	e.containerEvent(c, events.ActionAttach)
	stream.Copy = func(ctx context.Context, s runner.Streams) error {
		s = chosen(s, opts)
		if opts.Logs {
			if err := e.pastOutput(ctx, c, s); err != nil || !opts.Stream {
				return err
			}
		}
		if cl == nil {
			return nil
		}
		return e.copyClient(ctx, c, cl, s)
	}
	return stream, nil
}

// chosen leaves of the client's streams those that it asked for.
func chosen(s runner.Streams, opts runner.AttachOptions) runner.Streams {
	if !opts.Stdin {
		s.Stdin = nil
	}
	if !opts.Stdout {
		s.Stdout = nil
	}
	if !opts.Stderr {
		s.Stderr = nil
	}
	return s
}

// attach connects to a running container, or queues for the next start.
func (e *Engine) attach(ctx context.Context, c *ctr) (*client, error) {
	cl := &client{ready: make(chan struct{})}
	c.mu.Lock()
	if !c.state.Running() {
		c.clients = append(c.clients, cl)
		c.mu.Unlock()
		return cl, nil
	}
	c.mu.Unlock()
	conn, err := e.shim.Attach(ctx, c.id, "")
	if err != nil {
		return nil, runner.Errorf(runner.ErrConflict, "attach to container %s: %w", c.id, err)
	}
	cl.resolve(conn, nil)
	return cl, nil
}

func (cl *client) resolve(conn *shim.Conn, err error) {
	cl.conn, cl.err = conn, err
	close(cl.ready)
}

// connectClients attaches those who wait for the start.
func (e *Engine) connectClients(ctx context.Context, c *ctr) {
	c.mu.Lock()
	waiting := c.clients
	c.clients = nil
	c.mu.Unlock()
	for _, cl := range waiting {
		cl.resolve(e.shim.Attach(ctx, c.id, ""))
	}
}

// failClients ends the attachments of those who waited for a start that failed.
func (c *ctr) failClients(err error) {
	c.mu.Lock()
	waiting := c.clients
	c.clients = nil
	c.mu.Unlock()
	for _, cl := range waiting {
		cl.resolve(nil, err)
	}
}

// drop gives up a client that has not been copied.
func (c *ctr) drop(cl *client) {
	c.mu.Lock()
	for i, other := range c.clients {
		if other == cl {
			c.clients = append(c.clients[:i:i], c.clients[i+1:]...)
			c.mu.Unlock()
			return
		}
	}
	c.mu.Unlock()
	<-cl.ready
	if cl.conn != nil {
		cl.conn.Close()
	}
}

// copyClient carries a client's streams until the container ends, the client
// detaches, or ctx is done.
func (e *Engine) copyClient(ctx context.Context, c *ctr, cl *client, s runner.Streams) error {
	select {
	case <-cl.ready:
	case <-c.removed:
		c.drop(cl)
		return nil
	case <-ctx.Done():
		c.drop(cl)
		return ctx.Err()
	}
	if cl.err != nil {
		return cl.err
	}
	rec, _ := c.snapshot()
	// The monitor closes the container's input with the connection of a client,
	// if it is to be closed at all; a client without input must not do that.
	linger := func() bool { return false }
	if closesInput(rec.Config) && s.Stdin == nil {
		linger = c.linger
	}
	err := pump(ctx, cl.conn, s, linger)
	if errors.Is(err, errDetached) {
		e.containerEvent(c, events.ActionDetach)
		return nil
	}
	return err
}

// closesInput says whether the container's input ends with a client's.
func closesInput(cfg *container.Config) bool {
	return cfg.OpenStdin && cfg.StdinOnce && !cfg.Tty
}

// maxLinger bounds the connections that stay when their clients are gone.
const maxLinger = 64

// linger counts one more connection that stays until the container ends. If there
// are too many, it does not.
func (c *ctr) linger() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run == nil || c.run.lingers == maxLinger {
		return false
	}
	c.run.lingers++
	return true
}

// ResizeContainer implements runner/api's ContainerStreams.
func (e *Engine) ResizeContainer(ctx context.Context, ref string, height, width uint16) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	if _, st := c.snapshot(); !st.Running() {
		return runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	}
	if err := e.shim.Resize(ctx, c.id, "", height, width); err != nil {
		return err
	}
	e.containerEvent(c, events.ActionResize)
	return nil
}
