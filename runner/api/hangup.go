package api

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// onHangup calls gone, at most once, when the peer of conn has closed both
// directions. Reading does not tell that from a peer that has only closed its own,
// and that still wants to hear how things end. A TCP peer is known to be gone only
// after something was sent to it. stop ends the watch.
func onHangup(conn net.Conn, gone func()) (stop func()) {
	nothing := func() {}
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = t.NetConn()
	}
	c, ok := conn.(interface{ File() (*os.File, error) })
	if !ok {
		return nothing
	}
	// A duplicate, because waiting on the connection itself would keep others from
	// reading it. The wait is the poller's: it costs no thread.
	f, err := c.File()
	if err != nil {
		return nothing
	}
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nothing
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if raw.Read(hungUp) == nil {
			gone()
		}
	}()
	return func() {
		_ = f.Close()
		<-done
	}
}

// hungUp is asked whenever something has happened to the connection.
func hungUp(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}
