package api

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types"
	"github.com/moby/term"

	"github.com/berth-registry/berth/runner"
)

// linger is how long a client may take to close its connection after everything
// was sent to it.
const linger = 10 * time.Second

// hijacked is a connection that was taken over from the server: what the client
// sends is a process's standard input, and what it gets is the output.
type hijacked struct {
	conn  net.Conn
	input *input
	raw   bool // one stream without frames
}

// hijack takes the connection over and answers the request.
func (x *exchange) hijack(raw bool) (*hijacked, error) {
	conn, buffered, err := http.NewResponseController(x.w.ResponseWriter).Hijack()
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "the connection cannot carry a stream: %w", err)
	}
	x.w.hijacked = true
	// What came right behind the request is the beginning of the input.
	early, _ := buffered.Peek(buffered.Reader.Buffered())
	h := &hijacked{conn: conn, raw: raw, input: &input{
		conn: conn,
		r:    io.MultiReader(bytes.NewReader(slices.Clone(early)), conn),
	}}

	var head bytes.Buffer
	media := types.MediaTypeRawStream
	if _, upgrade := x.r.Header["Upgrade"]; upgrade {
		x.w.status = http.StatusSwitchingProtocols
		if !raw && x.v.multiplexedContent() {
			media = types.MediaTypeMultiplexedStream
		}
		head.WriteString("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n")
	} else {
		x.w.status = http.StatusOK
		head.WriteString("HTTP/1.1 200 OK\r\n")
	}
	header := x.w.Header()
	header.Set("Content-Type", media)
	_ = header.Write(&head) // to a buffer
	head.WriteString("\r\n")
	if _, err := conn.Write(head.Bytes()); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// outputs returns writers to the client for the two streams of output.
func (h *hijacked) outputs() (stdout, stderr io.Writer) {
	if h.raw {
		return h.conn, h.conn
	}
	f := &frames{w: h.conn}
	return f.stream(stdcopy.Stdout), f.stream(stdcopy.Stderr)
}

// copy carries the stream until it ends or the client is gone.
func (h *hijacked) copy(ctx context.Context, stream runner.Stream, s runner.Streams) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer onHangup(h.conn, cancel)()
	return stream.Copy(ctx, s)
}

// close ends the connection so that the client gets all that was written: it is
// told the end, and what it still sends is thrown away until it closes too. Closing
// at once would reset the connection under what is on its way.
func (h *hijacked) close() {
	defer h.conn.Close()
	h.input.stop()
	half, ok := h.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if h.conn.SetReadDeadline(time.Now().Add(linger)) == nil {
		_, _ = io.Copy(io.Discard, h.conn)
	}
}

// input is what the client sends. A reader of it can be stopped.
type input struct {
	conn    net.Conn
	mu      sync.Mutex // held while reading
	r       io.Reader
	stopped bool
}

func (i *input) Read(p []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopped {
		return 0, os.ErrClosed
	}
	return i.r.Read(p)
}

// stop makes the read that is under way, and all later ones, fail.
func (i *input) stop() {
	_ = i.conn.SetReadDeadline(time.Unix(1, 0)) // in the past: wakes the reader
	i.mu.Lock()
	i.stopped = true
	i.mu.Unlock()
}

// defaultDetachKeys are control-P and control-Q.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// parseDetachKeys reads the keys by which a client lets go of a terminal.
func parseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		s = defaultDetachKeys
	}
	keys, err := term.ToBytes(s)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "Invalid detach keys (%s) provided", s)
	}
	return keys, nil
}
