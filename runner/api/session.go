package api

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"

	"github.com/berth-registry/berth/runner"
)

// buildControl hands the connection over to BuildKit's gRPC services.
func (x *exchange) buildControl() error {
	conn, _, err := x.upgrade()
	if err != nil {
		return err
	}
	defer conn.Close()
	return x.engine.BuildControl(x.r.Context(), conn)
}

// buildSession hands the connection over to builds, which call the client by it.
func (x *exchange) buildSession() error {
	conn, proto, err := x.upgrade()
	if err != nil {
		return err
	}
	defer conn.Close()
	return x.engine.BuildSession(x.r.Context(), conn, proto, x.r.Header)
}

// upgrade takes the connection over for HTTP/2, which is what these clients ask
// for.
func (x *exchange) upgrade() (conn net.Conn, proto string, err error) {
	proto = x.r.Header.Get("Upgrade")
	switch proto {
	case "":
		return nil, "", runner.Errorf(runner.ErrInvalid, "no upgrade proto in request")
	case "h2c":
	default:
		return nil, "", runner.Errorf(runner.ErrInvalid, "protocol %s not supported", proto)
	}
	conn, buffered, err := http.NewResponseController(x.w.ResponseWriter).Hijack()
	if err != nil {
		return nil, "", runner.Errorf(runner.ErrInvalid, "the connection cannot carry a stream: %w", err)
	}
	x.w.hijacked, x.w.status = true, http.StatusSwitchingProtocols
	if early, _ := buffered.Peek(buffered.Reader.Buffered()); len(early) > 0 {
		conn = &earlyConn{conn, io.MultiReader(bytes.NewReader(slices.Clone(early)), conn)}
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+proto+"\r\n\r\n"); err != nil {
		_ = conn.Close()
		return nil, "", err
	}
	return conn, proto, nil
}

// earlyConn is a connection whose beginning was read with the request.
type earlyConn struct {
	net.Conn

	r io.Reader
}

func (c *earlyConn) Read(p []byte) (int, error) { return c.r.Read(p) }
