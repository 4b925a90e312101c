package engine

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/logs"
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
	if st.Status == container.StatePaused {
		return runner.Stream{}, runner.Errorf(runner.ErrConflict, "container %s is paused, unpause the container before attach", c.id)
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
	linger := rec.Config.OpenStdin && s.Stdin == nil
	err := pump(ctx, cl.conn, s, linger)
	if errors.Is(err, errDetached) {
		e.containerEvent(c, events.ActionDetach)
		return nil
	}
	return err
}

// errDetached says that the client has ended its input with an error: it has
// typed the detach keys, or is gone.
var errDetached = errors.New("the client has detached")

// pump carries a client's streams over a connection to the monitor. It ends
// when the process's output does (nil), when the client's input fails
// (errDetached), when its output cannot be written, or when ctx is done. With
// linger the connection then stays, its output thrown away.
func pump(ctx context.Context, conn *shim.Conn, s runner.Streams, linger bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &output{streams: s}
	ended := make(chan error, 1)
	go func() {
		ended <- out.copy(conn)
		conn.Close()
	}()
	if s.Stdin != nil {
		go func() {
			if _, err := io.Copy(conn, s.Stdin); err != nil {
				cancel(errDetached)
				return
			}
			if err := conn.CloseWrite(); err != nil {
				cancel(err)
			}
		}()
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if linger {
		out.discard()
	} else {
		conn.Close()
	}
	return context.Cause(ctx)
}

// output writes what comes from a monitor to a client, until it is discarded.
type output struct {
	mu      sync.Mutex
	streams runner.Streams
}

const outputBuffer = 32 << 10

func (o *output) copy(conn *shim.Conn) error {
	buf := make([]byte, outputBuffer)
	for {
		from, n, err := conn.Read(buf)
		if n > 0 {
			if err := o.write(from, buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (o *output) write(from shim.Stream, data []byte) error {
	o.mu.Lock()
	w := o.streams.Stdout
	if from == shim.Stderr {
		w = o.streams.Stderr
	}
	o.mu.Unlock()
	if w == nil {
		return nil
	}
	_, err := w.Write(data)
	return err
}

func (o *output) discard() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.streams = runner.Streams{}
}

// pastOutput writes what the container's log has so far.
func (e *Engine) pastOutput(ctx context.Context, c *ctr, s runner.Streams) error {
	rec, _ := c.snapshot()
	opts := runner.LogOptions{Stdout: s.Stdout != nil, Stderr: s.Stderr != nil, Tail: -1}
	over := make(chan struct{})
	close(over)
	return logs.Copy(ctx, e.store.Logs(c.id), opts, nil, over, rec.Config.Tty, s)
}

// ContainerLogs implements runner/api's ContainerStreams.
func (e *Engine) ContainerLogs(_ context.Context, ref string, opts runner.LogOptions) (runner.Stream, error) {
	c, err := e.find(ref)
	if err != nil {
		return runner.Stream{}, err
	}
	rec, st := c.snapshot()
	if !opts.Stdout && !opts.Stderr {
		return runner.Stream{}, runner.Errorf(runner.ErrInvalid, "You must choose at least one stream")
	}
	logOpts, err := e.logOptions(rec.HostConfig.LogConfig)
	if err != nil {
		return runner.Stream{}, err
	}
	if logOpts.Driver == logs.DriverNone {
		return runner.Stream{}, runner.Errorf(runner.ErrNotImplemented, "configured logging driver does not support reading")
	}
	ended := make(chan struct{})
	if r := c.currentRun(); r != nil && st.Running() {
		ended = r.ended
	} else {
		close(ended)
	}
	return runner.Stream{
		TTY:   rec.Config.Tty,
		Close: func() {},
		Copy: func(ctx context.Context, s runner.Streams) error {
			attrs := logOpts.Attributes(logs.Container{
				ID: rec.ID, Name: rec.Name,
				ImageID: rec.ImageID, ImageName: rec.Config.Image,
				Command:    strings.Join(append([]string{rec.Path}, rec.Args...), " "),
				DaemonName: "berth-runner",
				Labels:     rec.Config.Labels, Env: rec.Config.Env,
			})
			return logs.Copy(ctx, e.store.Logs(c.id), opts, attrs, ended, rec.Config.Tty, s)
		},
	}, nil
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
