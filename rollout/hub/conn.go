package hub

import (
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is a connection that was taken over.
type conn struct {
	net.Conn
	raw syscall.RawConn // of the kernel's; nil if there is none
}

// writeTime is how long a client may take to take its answer.
const writeTime = 2 * time.Second

func newConn(c net.Conn) *conn {
	k := &conn{Conn: c}
	below := c
	for range 4 { // TLS in a connection of a proxy, say
		if s, ok := below.(syscall.Conn); ok {
			k.raw, _ = s.SyscallConn() // then it is not known when it has gone
			break
		}
		switch inner := below.(type) {
		case interface{ NetConn() net.Conn }:
			below = inner.NetConn()
		case interface{ Raw() net.Conn }:
			below = inner.Raw()
		default:
			return k
		}
	}
	return k
}

// gone says whether the client has: it has closed, or it says something before it has its
// answer, as one does that ends TLS.
func (c *conn) gone() (gone bool) {
	if c.raw == nil {
		return false
	}
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = err != unix.EAGAIN && err != unix.EINTR
	})
	return gone || err != nil
}

// answer writes an answer, and closes the connection.
func (c *conn) answer(status int, body string) {
	_ = c.SetDeadline(time.Now().Add(writeTime))
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nDate: %s\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n",
		status, http.StatusText(status), time.Now().UTC().Format(http.TimeFormat))
	if status == http.StatusServiceUnavailable {
		head += "Retry-After: 1\r\n"
	}
	if status != http.StatusNoContent {
		head += fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	_, _ = c.Write([]byte(head + "\r\n" + body)) // a client that has gone learns nothing anyway
	c.close()
}

func (c *conn) close() {
	_ = c.SetDeadline(time.Now().Add(writeTime)) // TLS says that it ends
	_ = c.Close()
}
