package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// carrier has the connections that this process carries to containers where no rule
// can: from [::1], as an answer to ::1 that comes in by a bridge is not routed, and
// from one family of addresses to the other.
type carrier struct {
	mu       sync.Mutex
	closed   bool
	sessions map[*session]struct{}
	wg       sync.WaitGroup
}

// session is one connection, or one client of a UDP port.
type session struct {
	to  netip.Addr
	end func()
}

func newCarrier() *carrier { return &carrier{sessions: map[*session]struct{}{}} }

// run carries a session in the background, unless the carrier is closed.
func (c *carrier) run(s *session, carry func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.sessions[s] = struct{}{}
	c.wg.Go(func() {
		defer c.forget(s)
		carry()
	})
	return true
}

func (c *carrier) forget(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, s)
}

// count counts the sessions with an address.
func (c *carrier) count(addrs ...netip.Addr) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.sessions {
		n += b2i(isOneOf(s.to, addrs))
	}
	return n
}

// drop ends the sessions with addresses that are nobody's any more.
func (c *carrier) drop(addrs ...netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.sessions {
		if isOneOf(s.to, addrs) {
			s.end()
		}
	}
}

// close ends all sessions.
func (c *carrier) close() {
	c.mu.Lock()
	c.closed = true
	for s := range c.sessions {
		s.end()
	}
	c.mu.Unlock()
	c.wg.Wait()
}

func isOneOf(addr netip.Addr, list []netip.Addr) bool {
	for _, a := range list {
		if a.IsValid() && a == addr {
			return true
		}
	}
	return false
}

// ownFile is a second descriptor of a socket, for the package net.
func ownFile(fd int) (*os.File, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(dup), "port"), nil
}

// tcpFront takes the connections to a port.
type tcpFront struct {
	fd     int
	l      net.Listener
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// listenTCP has a bound socket listen until the front is stopped.
func listenTCP(fd int, c *carrier, to *balance) (front, error) {
	// Its connections shall not keep the port from others when it is given up. While
	// it listens, nobody can share the port all the same.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, err
	}
	err := unix.Listen(fd, unix.SOMAXCONN)
	var l net.Listener
	if err == nil {
		l, err = listener(fd)
	}
	if err != nil {
		listenNoMore(fd)
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &tcpFront{fd: fd, l: l, cancel: cancel}
	t.wg.Go(func() {
		for {
			client, err := l.Accept()
			switch {
			case err == nil:
				c.accept(client.(*net.TCPConn), to.pick()) //nolint:forcetypeassert // of a TCP listener
			case ctx.Err() != nil:
				return
			default:
				time.Sleep(10 * time.Millisecond) // out of descriptors, for example
			}
		}
	})
	return t, nil
}

func listener(fd int) (net.Listener, error) {
	f, err := ownFile(fd)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}

func listenNoMore(fd int) {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
	_ = unix.Shutdown(fd, unix.SHUT_RD)
}

// stop has the socket listen no more; it stays bound.
func (t *tcpFront) stop() {
	t.cancel()
	listenNoMore(t.fd)
	_ = t.l.Close()
	t.wg.Wait()
}

// accept carries one connection until both sides have ended it.
func (c *carrier) accept(client *net.TCPConn, to netip.AddrPort) {
	ctx, cancel := context.WithCancel(context.Background())
	ok := to.IsValid() && c.run(&session{to: to.Addr(), end: cancel}, func() {
		defer cancel()
		carryTCP(ctx, client, to)
	})
	if !ok {
		cancel()
		reset(client)
	}
}

// reset closes a connection so that the client sees no orderly end.
func reset(client *net.TCPConn) {
	_ = client.SetLinger(0)
	_ = client.Close()
}

// carryTCP carries one connection until both sides have ended it, or ctx is done.
func carryTCP(ctx context.Context, client *net.TCPConn, to netip.AddrPort) {
	defer client.Close()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		reset(client)
		return
	}
	server := conn.(*net.TCPConn) //nolint:forcetypeassert // of a TCP dialer
	defer server.Close()
	defer context.AfterFunc(ctx, func() {
		_ = client.Close()
		_ = server.Close()
	})()
	var wg sync.WaitGroup
	wg.Go(func() { pipe(server, client) })
	pipe(client, server)
	wg.Wait()
}

// pipe copies until src ends, and passes the end on.
func pipe(dst, src *net.TCPConn) {
	if _, err := io.Copy(dst, src); err != nil {
		_ = src.CloseRead()
	}
	_ = dst.CloseWrite()
}

const (
	udpSessions = 1024 // clients of one port at a time
	udpIdle     = 90 * time.Second
)

// udpFront keeps a socket for each client, so that answers find back.
type udpFront struct {
	fd    int
	front *net.UDPConn
	carry *carrier
	to    *balance
	wg    sync.WaitGroup

	mu      sync.Mutex
	clients map[netip.AddrPort]*net.UDPConn
}

// listenUDP takes packets from a bound socket until the front is stopped.
func listenUDP(fd int, c *carrier, to *balance) (front, error) {
	file, err := ownFile(fd)
	if err != nil {
		return nil, err
	}
	conn, err := net.FilePacketConn(file)
	_ = file.Close()
	if err != nil {
		return nil, err
	}
	f := &udpFront{fd: fd, front: conn.(*net.UDPConn), carry: c, to: to, clients: map[netip.AddrPort]*net.UDPConn{}} //nolint:forcetypeassert // of a UDP socket
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil {
		_ = conn.Close()
		return nil, err
	}
	f.wg.Go(f.run)
	return f, nil
}

// stop ends the clients, too, who cannot be answered any more.
func (f *udpFront) stop() {
	_ = deaf(f.fd)
	_ = f.front.Close()
	f.wg.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.clients {
		_ = c.Close()
	}
}

// run carries packets to containers until the front is stopped.
func (f *udpFront) run() {
	buf := make([]byte, 1<<16)
	for {
		n, client, err := f.front.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if back := f.client(client); back != nil {
			_, _ = back.Write(buf[:n]) // a packet may be lost
		}
	}
}

// client returns the socket of a client, or nil if there are too many.
func (f *udpFront) client(addr netip.AddrPort) *net.UDPConn {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c, ok := f.clients[addr]; ok {
		return c
	}
	to := f.to.pick()
	if len(f.clients) >= udpSessions || !to.IsValid() {
		return nil
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil
	}
	if !f.carry.run(&session{to: to.Addr(), end: func() { _ = c.Close() }}, func() { f.answer(addr, c) }) {
		_ = c.Close()
		return nil
	}
	f.clients[addr] = c
	return c
}

// answer carries packets back to a client, until the container has sent none for
// a while.
func (f *udpFront) answer(addr netip.AddrPort, c *net.UDPConn) {
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.clients, addr)
		_ = c.Close()
	}()
	buf := make([]byte, 1<<16)
	for {
		_ = c.SetReadDeadline(time.Now().Add(udpIdle))
		n, err := c.Read(buf)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue // nobody listens in the container, at present
		}
		if err != nil {
			return
		}
		_, _ = f.front.WriteToUDPAddrPort(buf[:n], addr)
	}
}
