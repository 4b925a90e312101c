package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/moby/term"
	"golang.org/x/net/websocket"

	"github.com/berth-registry/berth/runner"
)

// attachWebSocket is attachContainer by WebSocket: what the client sends is
// standard input, and both outputs are what it gets, a frame for each piece and
// nothing that tells one from the other, as there is with a terminal.
func (x *exchange) attachWebSocket() error {
	keys, err := parseDetachKeys(x.q.Get("detachKeys"))
	if err != nil {
		return err
	}
	if err := x.sameOrigin(); err != nil {
		return err
	}
	opts := x.attachOptions()
	stream, err := x.engine.AttachContainer(x.r.Context(), x.container(), opts)
	if err != nil {
		return err
	}
	copied := false
	w := &webSocket{ResponseWriter: x.w.ResponseWriter}
	websocket.Server{Handler: func(ws *websocket.Conn) {
		copied = true
		x.w.status = http.StatusSwitchingProtocols
		if ws.PayloadType = websocket.TextFrame; x.v.binaryFrames() {
			ws.PayloadType = websocket.BinaryFrame
		}
		err = w.copy(x.r.Context(), ws, opts, stream, keys)
	}}.ServeHTTP(w, x.r)
	x.w.hijacked = w.conn != nil
	if !copied { // it was no handshake, and has been answered
		stream.Close()
		return nil
	}
	return unlessDetached(err)
}

// sameOrigin refuses a page of another site that a browser shows which has a
// certificate for this engine: of all that the API serves, browsers let pages of
// others use WebSockets alone. They cannot reach a unix socket.
func (x *exchange) sameOrigin() error {
	origin := x.r.Header.Get("Origin")
	if origin == "" || x.r.TLS == nil {
		return nil
	}
	if u, err := url.Parse(origin); err == nil && u.Host == x.r.Host {
		return nil
	}
	return runner.Errorf(runner.ErrForbidden, "the page at %q is not the engine's", origin)
}

// webSocket keeps the connection that a WebSocket takes over.
type webSocket struct {
	http.ResponseWriter

	conn net.Conn // nil until it is taken over
}

// Hijack is http.Hijacker's.
func (w *webSocket) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.conn = conn
	return conn, buffered, err
}

// copy carries the stream until it ends or the client is gone. The client is told
// the end, and has time to close: see hijacked.close.
func (w *webSocket) copy(ctx context.Context, ws *websocket.Conn, opts runner.AttachOptions, stream runner.Stream, keys []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer onHangup(w.conn, cancel)()
	var s runner.Streams
	if opts.Stdout {
		s.Stdout = ws
	}
	if opts.Stderr {
		s.Stderr = ws
	}
	in := &input{conn: w.conn, r: &untilClosed{ws: ws, gone: cancel}}
	if opts.Stdin && opts.Stream {
		if s.Stdin = in; stream.TTY {
			s.Stdin = term.NewEscapeProxy(in, keys)
		}
	}
	err := stream.Copy(ctx, s)
	in.stop()
	if sendClose(ws) == nil && w.conn.SetReadDeadline(time.Now().Add(linger)) == nil {
		_, _ = io.Copy(io.Discard, ws)
	}
	return err
}

// untilClosed is what the client sends until it closes. A WebSocket is closed in
// both directions at once: the process has a while to make of the end of its input
// what it will, and then the client is gone.
type untilClosed struct {
	ws   *websocket.Conn
	gone func()
}

func (r *untilClosed) Read(p []byte) (int, error) {
	n, err := r.ws.Read(p)
	if errors.Is(err, io.EOF) {
		_ = sendClose(r.ws) // it may not wait for it
		time.AfterFunc(linger, r.gone)
	}
	return n, err
}

// sendClose sends that the end is a normal one (RFC 6455, 7.4.1).
func sendClose(ws *websocket.Conn) error {
	normal := func(any) ([]byte, byte, error) { return []byte{1000 >> 8, 1000 & 0xff}, websocket.CloseFrame, nil }
	return websocket.Codec{Marshal: normal}.Send(ws, nil)
}
