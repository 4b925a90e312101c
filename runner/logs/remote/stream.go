package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// dialTime bounds a connection's beginning.
	dialTime = 10 * time.Second
	// probe is after how long without a word a host is asked whether it is there.
	probe = 30 * time.Second
	// silence is how long a host may take nothing until the connection counts as
	// broken; less would take a server that is busy for one that is gone.
	silence = 5 * time.Minute
)

// stream is a connection to a server, made again when it is used after its end.
type stream struct {
	dial func(ctx context.Context) (net.Conn, error)
	// watch has what the server says read and dropped, so that the end of a
	// connection is noticed while nothing is sent; lost may be nil without.
	watch bool
	lost  Lost

	mu      sync.Mutex
	conn    net.Conn
	at      time.Time // when it was made
	telling bool      // lost is being told of its end
	ended   bool      // it was told, and nothing has been sent since
}

// toSend is open for what follows what was sent before: it is ErrLost if a
// connection has ended since then.
func (s *stream) toSend(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	ended := s.ended
	s.ended = false
	s.mu.Unlock()
	if ended {
		return nil, ErrLost
	}
	return s.open(ctx)
}

// open returns the connection there is, or a new one.
func (s *stream) open(ctx context.Context) (net.Conn, error) {
	if conn := s.current(); conn != nil {
		return conn, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil { // somebody was faster
		conn.Close()
		return s.conn, nil
	}
	s.conn, s.at = conn, time.Now()
	if s.watch {
		go s.listen(conn)
	}
	return conn, nil
}

func (s *stream) current() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}

// age is how long there has been a connection; 0 if there is none.
func (s *stream) age() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return 0
	}
	return time.Since(s.at)
}

// listen waits for the end of a connection.
func (s *stream) listen(conn net.Conn) {
	_, err := io.Copy(io.Discard, conn)
	if err == nil {
		err = io.EOF
	}
	s.broken(conn, err)
}

// broken tells once of a connection that has ended with an error, and drops it: in
// this order, so that nothing is sent over another one before it is known.
func (s *stream) broken(conn net.Conn, err error) {
	if s.lost == nil {
		s.drop(conn)
		return
	}
	s.mu.Lock()
	known := s.conn != conn || s.telling
	s.telling = s.telling || !known
	s.mu.Unlock()
	if known {
		return
	}
	s.lost(time.Now(), !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.telling, s.ended = false, true
	if s.conn == conn {
		s.conn = nil
		conn.Close()
	}
}

// drop closes a connection if it is the current one.
func (s *stream) drop(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if conn != nil && s.conn == conn {
		s.conn = nil
		conn.Close()
	}
}

// write writes bytes to the connection, for as long as the server takes, or for a
// time if timeout is not 0.
func (s *stream) write(ctx context.Context, conn net.Conn, p []byte, timeout time.Duration) error {
	if timeout > 0 {
		if err := conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
	}
	defer interrupt(ctx, conn)()
	_, err := conn.Write(p)
	if err != nil {
		s.broken(conn, err)
	}
	return err
}

// interrupt ends what waits for a connection when ctx ends, until it is released.
// Deadlines are set before.
func interrupt(ctx context.Context, conn net.Conn) (release func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// dialStream connects to a host or a socket.
func dialStream(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probe, Interval: probe / 3, Count: 3}}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if c, ok := conn.(*net.TCPConn); ok {
		err = control(c, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence/time.Millisecond))
		})
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// control calls f with a connection's descriptor.
func control(conn syscall.Conn, f func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
