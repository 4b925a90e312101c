package engine

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
)

// client is somebody who has attached to a container, which may not run yet.
type client struct {
	input bool          // it may write to the container
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
		if cl, err = e.attach(ctx, c, opts.Stdin); err != nil {
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
func (e *Engine) attach(ctx context.Context, c *ctr, input bool) (*client, error) {
	cl := &client{input: input, ready: make(chan struct{})}
	c.mu.Lock()
	if !c.state.Running() {
		c.clients = append(c.clients, cl)
		c.mu.Unlock()
		return cl, nil
	}
	c.mu.Unlock()
	conn, err := e.connect(ctx, c)
	if err != nil {
		return nil, runner.Errorf(runner.ErrConflict, "attach to container %s: %w", c.id, err)
	}
	cl.resolve(conn, nil)
	return cl, nil
}

// connect connects to the monitor of a container. One to which many connect at
// once takes some of them later.
func (e *Engine) connect(ctx context.Context, c *ctr) (*shim.Conn, error) {
	const again, enough = 5 * time.Millisecond, 10 * time.Second
	for deadline := time.Now().Add(enough); ; {
		conn, err := e.shim.Attach(ctx, c.id, "")
		if !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
			return conn, err
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
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
		cl.resolve(e.connect(ctx, c))
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
		leave(cl.conn, c.lingerFor(cl))
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
	err := pump(ctx, cl.conn, s, c.lingerFor(cl))
	if errors.Is(err, errDetached) {
		e.containerEvent(c, events.ActionDetach)
		return nil
	}
	return err
}

// lingerFor says whether the connection of a client is to stay when the client is
// gone. The monitor closes the container's input with a connection, if it is to be
// closed at all; a client without input must not do that.
func (c *ctr) lingerFor(cl *client) func() bool {
	rec, _ := c.snapshot()
	cfg := rec.Config
	if cl.input || !cfg.OpenStdin || !cfg.StdinOnce || cfg.Tty {
		return never
	}
	return c.linger
}

func never() bool { return false }

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
	e.containerEvent(c, events.ActionResize, "height", strconv.Itoa(int(height)), "width", strconv.Itoa(int(width)))
	return nil
}
