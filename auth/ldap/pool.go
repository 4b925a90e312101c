package ldap

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"
)

const (
	// connections is how many a source has at most.
	connections = 8
	// idleTime is how long one is kept that is not used: servers and firewalls
	// close them too, without a word.
	idleTime = time.Minute
)

// pool is the connections of a source.
type pool struct {
	dial    *dialer
	places  chan struct{} // as many as there are connections in use
	prepare func(*ldap.Conn) error

	mu     sync.Mutex
	idle   []*conn
	closed bool
}

// conn is a connection and what is below it, by which it can be interrupted.
type conn struct {
	*ldap.Conn
	raw  net.Conn
	used time.Time
}

// use calls fn with a connection that was prepared. It is kept for others unless
// fn fails other than by an answer of the directory. It ends when ctx does.
func (p *pool) use(ctx context.Context, fn func(*ldap.Conn) error) error {
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	case <-ctx.Done():
		return fmt.Errorf("all %d connections are in use", connections)
	}
	c, err := p.get(ctx)
	if err != nil {
		return err
	}
	release := c.limit(ctx)
	err = fn(c.Conn)
	if release() && (err == nil || settled(err)) {
		p.put(c)
	} else {
		c.drop()
	}
	return err
}

// get returns a connection that was prepared, one that was kept if there is one
// that is still good.
func (p *pool) get(ctx context.Context) (*conn, error) {
	for {
		c, fresh, err := p.take(ctx)
		if err != nil {
			return nil, err
		}
		release := c.limit(ctx)
		err = p.prepare(c.Conn)
		if release() && err == nil {
			return c, nil
		}
		c.drop()
		if fresh || ctx.Err() != nil {
			return nil, err
		}
		p.drain() // the server was restarted, most likely
	}
}

func (p *pool) take(ctx context.Context) (c *conn, fresh bool, err error) {
	p.mu.Lock()
	for n := len(p.idle); n > 0 && c == nil; n = len(p.idle) {
		c, p.idle = p.idle[n-1], p.idle[:n-1]
		if c.IsClosing() || time.Since(c.used) > idleTime {
			go c.drop() // it may wait for the server
			c = nil
		}
	}
	p.mu.Unlock()
	if c != nil {
		return c, false, nil
	}
	c, err = p.dial.dial(ctx)
	return c, true, err
}

func (p *pool) put(c *conn) {
	c.used = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		go c.drop()
		return
	}
	p.idle = append(p.idle, c)
}

// drain drops the connections that are not in use.
func (p *pool) drain() {
	p.mu.Lock()
	idle := slices.Clone(p.idle)
	p.idle = nil
	p.mu.Unlock()
	for _, c := range idle {
		c.drop()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drain()
}

// drop closes a connection, without a word to the server, which may not listen.
func (c *conn) drop() {
	_ = c.raw.Close()
	_ = c.Close() // its reader has ended with what is below it
}

// limit makes what is done with the connection fail when ctx ends, until release
// is called; that says whether it did not come to that.
func (c *conn) limit(ctx context.Context) (release func() bool) {
	c.setTimeout(ctx)
	return context.AfterFunc(ctx, func() { _ = c.raw.Close() })
}

// setTimeout makes the connection's goroutines give up soon after ctx has ended, if
// nothing else does.
func (c *conn) setTimeout(ctx context.Context) {
	if deadline, ok := ctx.Deadline(); ok {
		c.SetTimeout(time.Until(deadline) + time.Second)
	}
}

// dialer connects to a server.
type dialer struct {
	network, addr string
	tls           *tls.Config // nil for none
	startTLS      bool
}

func (d *dialer) dial(ctx context.Context) (*conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, d.network, d.addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	c, err := d.start(ctx, raw)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("connect to %s: %w", d.addr, err)
	}
	return c, nil
}

// start speaks LDAP on a connection, and TLS before if it is to.
func (d *dialer) start(ctx context.Context, raw net.Conn) (*conn, error) {
	over := raw
	if d.tls != nil && !d.startTLS {
		t := tls.Client(raw, d.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		over = t
	}
	c := &conn{Conn: ldap.NewConn(over, d.tls != nil && !d.startTLS), raw: raw}
	c.Start()
	if d.startTLS {
		c.setTimeout(ctx)
		if err := c.StartTLS(d.tls); err != nil {
			c.drop()
			return nil, err
		}
	}
	return c, nil
}
