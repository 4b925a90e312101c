package daemon

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen listens on addr. "localhost" means the machine itself by IPv4 and by
// IPv6, if it has that: a client may try either. A connection whose client takes
// nothing of what it is sent for the time of patience is broken off.
func Listen(ctx context.Context, addr string, patience time.Duration) ([]net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds()))
		})
		return errors.Join(cerr, err)
	}}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host != "localhost" {
		l, err := config.Listen(ctx, "tcp", addr)
		return []net.Listener{l}, plain(err)
	}
	l4, err := config.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, plain(err)
	}
	_, port, err = net.SplitHostPort(l4.Addr().String()) // where 0 has become a port
	if err != nil {
		return nil, err
	}
	l6, err := config.Listen(ctx, "tcp6", net.JoinHostPort("::1", port))
	if err == nil {
		return []net.Listener{l4, l6}, nil
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		_ = l4.Close() // it serves nobody yet
		return nil, plain(err)
	}
	return []net.Listener{l4}, nil
}

// plain cuts the error of a listener down to what is wrong.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && errors.Is(op.Err, syscall.EADDRINUSE) {
		return errors.New("the address is in use by another program")
	}
	return err
}
