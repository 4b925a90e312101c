package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// forwarder carries what comes to a port to a container where no rule can: from
// [::1], as an answer to ::1 that comes in by a bridge is not routed, and from IPv6
// to a container that has none, or the other way round.
type forwarder struct {
	cancel context.CancelFunc
	socket io.Closer
	wg     sync.WaitGroup
}

// Close ends the forwarder and the connections that it carries.
func (f *forwarder) Close() error {
	f.cancel()
	err := f.socket.Close()
	f.wg.Wait()
	return err
}

// reuse lets the socket share its port with the one that holds it at all other
// addresses.
func reuse(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}

// familyName returns the name of a network of a certain family.
func familyName(proto string, addr netip.Addr) string {
	if addr.Is4() {
		return proto + "4"
	}
	return proto + "6"
}

func forwardTCP(at, to netip.AddrPort) (io.Closer, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l, err := (&net.ListenConfig{Control: reuse}).Listen(ctx, familyName("tcp", at.Addr()), at.String())
	if err != nil {
		cancel()
		return nil, err
	}
	f := &forwarder{cancel: cancel, socket: l}
	f.wg.Go(func() {
		for {
			client, err := l.Accept()
			switch {
			case err == nil:
				f.wg.Go(func() { carryTCP(ctx, client.(*net.TCPConn), to) }) //nolint:forcetypeassert // of a TCP listener
			case ctx.Err() != nil:
				return
			default:
				time.Sleep(10 * time.Millisecond) // out of descriptors, for example
			}
		}
	})
	return f, nil
}

// carryTCP carries one connection until both sides have ended it, or ctx is done.
func carryTCP(ctx context.Context, client *net.TCPConn, to netip.AddrPort) {
	defer client.Close()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		_ = client.SetLinger(0) // the client sees a reset, not an orderly end
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

// udpForwarder keeps a socket for each client, so that answers find back.
type udpForwarder struct {
	*forwarder
	front *net.UDPConn
	to    netip.AddrPort

	mu      sync.Mutex
	clients map[netip.AddrPort]*net.UDPConn
}

// forwardUDP may share the port with another socket at other addresses.
func forwardUDP(at, to netip.AddrPort, share bool) (io.Closer, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var lc net.ListenConfig
	if share {
		lc.Control = reuse
	}
	l, err := lc.ListenPacket(ctx, familyName("udp", at.Addr()), at.String())
	if err != nil {
		cancel()
		return nil, err
	}
	front := l.(*net.UDPConn) //nolint:forcetypeassert // of the network udp4 or udp6
	f := &udpForwarder{
		forwarder: &forwarder{cancel: cancel, socket: front},
		front:     front, to: to, clients: map[netip.AddrPort]*net.UDPConn{},
	}
	f.wg.Go(func() { f.run(ctx) })
	return f, nil
}

// run carries packets to the container until the forwarder is closed.
func (f *udpForwarder) run(ctx context.Context) {
	defer f.end()
	buf := make([]byte, 1<<16)
	for {
		n, client, err := f.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		if back := f.client(client); back != nil {
			_, _ = back.Write(buf[:n]) // a packet may be lost
		}
	}
}

func (f *udpForwarder) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.clients {
		_ = c.Close()
	}
}

// client returns the socket of a client, or nil if there are too many.
func (f *udpForwarder) client(addr netip.AddrPort) *net.UDPConn {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c, ok := f.clients[addr]; ok {
		return c
	}
	if len(f.clients) >= udpSessions {
		return nil
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(f.to))
	if err != nil {
		return nil
	}
	f.clients[addr] = c
	f.wg.Go(func() { f.answer(addr, c) })
	return c
}

// answer carries packets back to a client, until the container has sent none for
// a while.
func (f *udpForwarder) answer(addr netip.AddrPort, c *net.UDPConn) {
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
