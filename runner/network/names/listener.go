package names

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	nspkg "github.com/berth-registry/berth/internal/netns"
)

const (
	perContainer = 1024 // queries of a container at upstreams at a time
	connections  = 64   // TCP connections of a container at a time
	longestQuery = 4096 // bytes
)

// listener answers the queries of one container.
type listener struct {
	server *Server
	id     string
	ns     nsID
	udp    *net.UDPConn
	tcp    *net.TCPListener

	forwards chan struct{} // has an element for each query at an upstream
	conns    chan struct{} // has an element for each connection, and for the one awaited
	overload sync.Once     // logs it

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// listen opens the sockets of a container, and leads its queries to them.
func listen(s *Server, containerID string, netns *os.File) (*listener, error) {
	l := &listener{
		server: s, id: containerID,
		forwards: make(chan struct{}, perContainer),
		conns:    make(chan struct{}, connections),
		cancel:   func() {},
	}
	err := nspkg.Do(netns, func() (err error) {
		at := netip.AddrPortFrom(Address(), 0)
		if l.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at)); err != nil {
			return err
		}
		if l.tcp, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at)); err != nil {
			return err
		}
		return redirect(portOf(l.udp.LocalAddr()), portOf(l.tcp.Addr()), l.wg.Go)
	})
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func portOf(a net.Addr) uint16 {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Port()
	case *net.TCPAddr:
		return a.AddrPort().Port()
	}
	return 0
}

func (l *listener) start(ctx context.Context) {
	ctx, l.cancel = context.WithCancel(ctx)
	l.wg.Go(func() { l.serveUDP(ctx) })
	l.wg.Go(func() { l.serveTCP(ctx) })
}

// close ends all that goes on, and returns when it has ended.
func (l *listener) close() {
	l.cancel()
	if l.udp != nil {
		_ = l.udp.Close()
	}
	if l.tcp != nil {
		_ = l.tcp.Close()
	}
	l.wg.Wait()
}

// buffers are for messages of any size. None is held while there is nothing to
// read.
var buffers = sync.Pool{New: func() any { return new([1 << 16]byte) }}

// serveUDP answers what can be answered at once, and passes on the rest.
func (l *listener) serveUDP(ctx context.Context) {
	raw, err := l.udp.SyscallConn()
	if err != nil {
		return // it is closed
	}
	for ctx.Err() == nil {
		query, client, err := receive(raw)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			pause(ctx)
			continue
		}
		msg, rest := l.reply(query, false)
		if rest == nil {
			l.send(msg, client)
			continue
		}
		if !l.acquire() {
			continue // it will be sent again
		}
		l.wg.Go(func() {
			defer l.release()
			l.send(l.forward(ctx, rest, false), client)
		})
	}
}

// receive waits for a packet and returns a copy of it.
func receive(raw syscall.RawConn) (packet []byte, from unix.Sockaddr, err error) {
	rerr := raw.Read(func(fd uintptr) bool {
		buf := buffers.Get().(*[1 << 16]byte) //nolint:forcetypeassert // as New makes it
		defer buffers.Put(buf)
		var n int
		n, from, err = unix.Recvfrom(int(fd), buf[:], unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if err == nil {
			packet = append([]byte(nil), buf[:n]...)
		}
		return true
	})
	if rerr != nil {
		return nil, nil, rerr
	}
	return packet, from, err
}

// send sends an answer, if there is one. It may be lost.
func (l *listener) send(msg []byte, client unix.Sockaddr) {
	to, ok := client.(*unix.SockaddrInet4)
	if msg == nil || !ok {
		return
	}
	_, _ = l.udp.WriteToUDPAddrPort(msg, netip.AddrPortFrom(netip.AddrFrom4(to.Addr), uint16(to.Port)))
}

// acquire gets a query the right to go to an upstream, or returns false.
func (l *listener) acquire() bool {
	select {
	case l.forwards <- struct{}{}:
	default:
		l.overload.Do(func() {
			l.server.Log.Warn("a container asks so much of upstream servers of names that queries are dropped", "container", l.id)
		})
		return false
	}
	select {
	case l.server.forwards <- struct{}{}:
		return true
	default:
		<-l.forwards
		return false
	}
}

func (l *listener) release() {
	<-l.server.forwards
	<-l.forwards
}

// pause waits a moment before something that failed is tried again.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Millisecond):
	}
}
