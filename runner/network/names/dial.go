package names

import (
	"context"
	"net"
	"os"

	"golang.org/x/sys/unix"

	nspkg "github.com/berth-registry/berth/internal/netns"
)

// dial connects to an upstream, from where it is reached.
func (l *listener) dial(ctx context.Context, u Upstream, proto string) (net.Conn, error) {
	var d net.Dialer
	if !u.Inside {
		return d.DialContext(ctx, proto, u.Addr.String())
	}
	if proto == "tcp" { // to connect may take a while, and a thread
		select {
		case l.server.dials <- struct{}{}:
			defer func() { <-l.server.dials }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	ns, err := l.namespace()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var conn net.Conn
	err = nspkg.Do(ns, func() (err error) {
		conn, err = d.DialContext(ctx, proto, u.Addr.String())
		return err
	})
	return conn, err
}

// namespace opens the namespace that the sockets are in.
func (l *listener) namespace() (*os.File, error) {
	raw, err := l.udp.SyscallConn()
	if err != nil {
		return nil, err
	}
	var ns int
	if cerr := raw.Control(func(fd uintptr) { ns, err = unix.IoctlRetInt(int(fd), unix.SIOCGSKNS) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, os.NewSyscallError("SIOCGSKNS", err)
	}
	return os.NewFile(uintptr(ns), "net"), nil
}
