package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/term"

	"github.com/berth-registry/berth/runner"
)

// attachContainer carries the streams of a container that runs, or is about to.
func (x *exchange) attachContainer() error {
	keys, err := parseDetachKeys(x.q.Get("detachKeys"))
	if err != nil {
		return err
	}
	opts := x.attachOptions()
	stream, err := x.engine.AttachContainer(x.r.Context(), x.container(), opts)
	if err != nil {
		return err
	}
	h, err := x.hijack(stream.TTY)
	if err != nil {
		stream.Close()
		return err
	}
	defer h.close()
	var s runner.Streams
	stdout, stderr := h.outputs()
	if opts.Stdout {
		s.Stdout = stdout
	}
	if opts.Stderr {
		s.Stderr = stderr
	}
	if opts.Stdin && opts.Stream {
		s.Stdin = h.input
		if stream.TTY {
			s.Stdin = term.NewEscapeProxy(h.input, keys)
		}
	}
	return unlessDetached(h.copy(x.r.Context(), stream, s))
}

func (x *exchange) attachOptions() runner.AttachOptions {
	return runner.AttachOptions{
		Stdin: x.isSet("stdin"), Stdout: x.isSet("stdout"), Stderr: x.isSet("stderr"),
		Logs: x.isSet("logs"), Stream: x.isSet("stream"), DetachKeys: x.q.Get("detachKeys"),
	}
}

// unlessDetached drops an error that says that the client went.
func unlessDetached(err error) error {
	var detached term.EscapeError
	if errors.As(err, &detached) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (x *exchange) createExec() error {
	var req container.ExecCreateRequest
	if _, err := x.body(&req); err != nil {
		return err
	}
	if len(req.Cmd) == 0 {
		return runner.Errorf(runner.ErrInvalid, "No exec command specified")
	}
	if req.DetachKeys != "" {
		keys, err := parseDetachKeys(req.DetachKeys)
		if err != nil {
			return err
		}
		req.DetachKeys = string(keys)
	}
	if !x.v.consoleSize() {
		req.ConsoleSize = nil
	}
	id, err := x.engine.CreateExec(x.r.Context(), x.container(), req)
	if err != nil {
		return err
	}
	return x.json(http.StatusCreated, container.ExecCreateResponse{ID: id})
}

func (x *exchange) startExec() error {
	var req container.ExecStartRequest
	if _, err := x.body(&req); err != nil {
		return err
	}
	if !x.v.consoleSize() || !req.Tty {
		req.ConsoleSize = nil
	}
	ctx := x.r.Context()
	if req.Detach {
		if err := x.engine.StartExecDetached(ctx, x.name, req); err != nil {
			return err
		}
		return x.done(http.StatusOK)
	}
	var keys []byte
	if req.Tty {
		e, err := x.engine.InspectExec(ctx, x.name)
		if err != nil {
			return err
		}
		if keys = e.DetachKeys; len(keys) == 0 {
			keys, _ = parseDetachKeys("")
		}
	}
	// Which of them the process really has, it was said when it was created.
	stream, err := x.engine.StartExec(ctx, x.name, req, true, true, true)
	if err != nil {
		return err
	}
	h, err := x.hijack(req.Tty)
	if err != nil {
		stream.Close()
		return err
	}
	defer h.close()
	s := runner.Streams{Stdin: h.input}
	s.Stdout, s.Stderr = h.outputs()
	if req.Tty {
		s.Stdin = term.NewEscapeProxy(h.input, keys)
	}
	err = unlessDetached(h.copy(ctx, stream, s))
	if err != nil {
		// The answer is under way: why a process did not start is read where its
		// output would be.
		_, _ = fmt.Fprintf(s.Stdout, "%v\r\n", err)
	}
	return err
}

func (x *exchange) resizeExec() error {
	height, width, err := x.size()
	if err != nil {
		return err
	}
	if err := x.engine.ResizeExec(x.r.Context(), x.name, height, width); err != nil {
		return err
	}
	return x.done(http.StatusOK)
}

func (x *exchange) inspectExec() error {
	e, err := x.engine.InspectExec(x.r.Context(), x.name)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, e)
}

func (x *exchange) logOptions() (opts runner.LogOptions, err error) {
	opts = runner.LogOptions{
		Stdout: x.isSet("stdout"), Stderr: x.isSet("stderr"), Follow: x.isSet("follow"),
		Timestamps: x.isSet("timestamps"), Details: x.isSet("details"), Tail: -1,
	}
	if !opts.Stdout && !opts.Stderr {
		return opts, runner.Errorf(runner.ErrInvalid, "Bad parameters: you must choose at least one stream")
	}
	// Anything that is no number means all of them.
	if n, err := strconv.Atoi(x.q.Get("tail")); err == nil {
		opts.Tail = n
	}
	if opts.Since, err = x.moment("since"); err != nil {
		return opts, err
	}
	opts.Until, err = x.moment("until")
	return opts, err
}

// containerLogs sends what a container has written. The client is told that it
// will come before there is any.
func (x *exchange) containerLogs() error {
	opts, err := x.logOptions()
	if err != nil {
		return err
	}
	ctx := x.r.Context()
	stream, err := x.engine.ContainerLogs(ctx, x.container(), opts)
	if err != nil {
		return err
	}
	media := types.MediaTypeRawStream
	if !stream.TTY && x.v.multiplexedContent() {
		media = types.MediaTypeMultiplexedStream
	}
	x.w.Header()["Content-Type"] = []string{media}

	var out io.WriteCloser
	if opts.Follow {
		out = newFlushed(x.w)
	} else {
		x.w.Flush()
		out = inPieces{bufio.NewWriterSize(x.w, 32<<10)}
	}
	s := runner.Streams{Stdout: out, Stderr: out}
	var trouble io.Writer = out
	if !stream.TTY {
		f := &frames{w: out}
		s = runner.Streams{Stdout: f.stream(stdcopy.Stdout), Stderr: f.stream(stdcopy.Stderr)}
		trouble = f.stream(stdcopy.Systemerr)
	}
	if err := stream.Copy(ctx, s); err != nil && ctx.Err() == nil {
		x.logFailure(err, status(err))
		_, _ = fmt.Fprintf(trouble, "Error grabbing logs: %v\n", err)
	}
	return out.Close()
}

// inPieces is a writer of large pieces.
type inPieces struct{ *bufio.Writer }

func (w inPieces) Close() error { return w.Flush() }
