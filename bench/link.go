package main

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link is a way to a server: what comes from there by it is counted, and may be
// limited to a rate, for all connections together.
type link struct {
	addr  string       // where it begins
	bytes atomic.Int64 // that came from the server

	listener net.Listener
	to       string
	rate     int64 // bytes a second; 0 for any number
	open     sync.WaitGroup
	stop     context.CancelFunc

	mu   sync.Mutex
	free time.Time // when it has carried what it was given
}

// linkPiece is how many bytes a limited link carries at a time.
const linkPiece = 64 << 10

func newLink(ctx context.Context, to string, rate int64) (*link, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{addr: listener.Addr().String(), listener: listener, to: to, rate: rate}
	ctx, l.stop = context.WithCancel(ctx)
	l.open.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			l.open.Go(func() { l.carry(ctx, c) })
		}
	})
	return l, nil
}

// close ends its connections.
func (l *link) close() {
	l.stop()
	l.listener.Close()
	l.open.Wait()
}

// carry joins a connection with one to the server, until either ends.
func (l *link) carry(ctx context.Context, c net.Conn) {
	defer c.Close()
	var d net.Dialer
	s, err := d.DialContext(ctx, "tcp", l.to)
	if err != nil {
		return // the client sees that
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { c.Close(); s.Close() })()
	go func() {
		_, _ = io.Copy(s, c) // its end is that of the other direction
		s.Close()
	}()
	for {
		n, err := io.CopyN(c, s, linkPiece)
		l.bytes.Add(n)
		if err != nil || !l.pace(ctx, n) {
			return
		}
	}
}

// pace waits until the link has carried n more bytes.
func (l *link) pace(ctx context.Context, n int64) bool {
	if l.rate == 0 {
		return true
	}
	l.mu.Lock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
	wait := time.Until(l.free)
	l.mu.Unlock()
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}
