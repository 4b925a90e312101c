package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
)

// errDetached says that the client has ended its input with an error: it has
// typed the detach keys, or is gone.
var errDetached = errors.New("the client has detached")

// errWrite says that the client takes no more output.
var errWrite = errors.New("write to the client")

// pump carries a client's streams over a connection to the monitor. It ends
// when the process's output does (nil), when the client's input fails
// (errDetached), when its output cannot be written, or when ctx is done. With
// linger the connection then stays, its output thrown away.
func pump(ctx context.Context, conn *shim.Conn, s runner.Streams, linger func() bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &output{streams: s}
	ended := make(chan error, 1)
	go func() {
		err := out.copy(conn)
		ended <- err
		if errors.Is(err, errWrite) && linger() {
			out.discard()
			_ = out.copy(conn) // nobody reads it
		}
		conn.Close()
	}()
	if s.Stdin != nil {
		go func() {
			in := &clientInput{Reader: s.Stdin}
			_, err := io.Copy(conn, in)
			switch {
			case in.failed:
				cancel(errDetached)
			case err == nil:
				_ = conn.CloseWrite()
			}
			// If it could not be written the process is gone, and its output, which
			// may be on the way, comes to an end by itself.
		}()
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if linger() {
		out.discard()
	} else {
		conn.Close()
	}
	return context.Cause(ctx)
}

// clientInput knows whether an error was of the reader, and not of who writes what was
// read.
type clientInput struct {
	io.Reader
	failed bool
}

func (in *clientInput) Read(p []byte) (int, error) {
	n, err := in.Reader.Read(p)
	in.failed = err != nil && !errors.Is(err, io.EOF)
	return n, err
}

// leave ends a connection that was not pumped, or lets it linger.
func leave(conn *shim.Conn, linger func() bool) {
	if !linger() {
		conn.Close()
		return
	}
	go func() {
		_ = new(output).copy(conn) // nobody reads it
		conn.Close()
	}()
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
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	return nil
}

func (o *output) discard() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.streams = runner.Streams{}
}
