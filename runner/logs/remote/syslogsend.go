package remote

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// syslogStream sends messages over a connection.
type syslogStream struct {
	set    syslogSettings
	stream stream
	buf    []byte
}

func newSyslogStream(set syslogSettings, lost Lost, dial func(context.Context) (net.Conn, error)) *syslogStream {
	return &syslogStream{set: set, stream: stream{dial: dial, watch: true, lost: lost}}
}

// Open implements Destination.
func (d *syslogStream) Open(ctx context.Context) error {
	_, err := d.stream.open(ctx)
	return err
}

// Send implements Destination.
func (d *syslogStream) Send(ctx context.Context, src Source, entries []Entry) error {
	conn, err := d.stream.toSend(ctx)
	if err != nil {
		return err
	}
	d.buf = d.buf[:0]
	for _, e := range entries {
		d.buf = d.set.format.framed(d.buf, d.set.priority, e, src.Tag)
	}
	return d.stream.write(ctx, conn, d.buf, 0)
}

// Close implements Destination.
func (d *syslogStream) Close() { d.stream.drop(d.stream.current()) }

// syslogDatagrams sends each message by itself: over UDP, or to a socket of the
// host.
type syslogDatagrams struct {
	set  syslogSettings
	lost Lost
	buf  []byte

	mu   sync.Mutex
	conn net.Conn
	// refused says that the other host has answered that nobody listens: before
	// more is sent, one message is tried.
	refused bool
}

// Open implements Destination.
func (d *syslogDatagrams) Open(ctx context.Context) error {
	_, err := d.open(ctx)
	return err
}

func (d *syslogDatagrams) open(ctx context.Context) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		return d.conn, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := d.dial(ctx)
	if err == nil {
		d.conn = conn
	}
	return conn, err
}

// dial connects; without an address, to the first socket of the host that there
// is.
func (d *syslogDatagrams) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	if d.set.network != "" {
		return dialer.DialContext(ctx, d.set.network, d.set.addr)
	}
	for _, path := range []string{"/dev/log", "/var/run/syslog", "/var/run/log"} {
		if conn, err := dialer.DialContext(ctx, "unixgram", path); err == nil {
			return conn, nil
		}
	}
	return nil, errors.New("Unix syslog delivery error") //nolint:staticcheck // Docker's text
}

// Send implements Destination.
func (d *syslogDatagrams) Send(ctx context.Context, src Source, entries []Entry) error {
	conn, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer interrupt(ctx, conn)()
	for i, e := range entries {
		d.buf = d.set.format.message(d.buf[:0], d.set.priority, e, src.Tag)
		if _, err = conn.Write(d.buf); err != nil {
			break
		}
		if i == 0 && d.refused {
			if err = listens(ctx, conn); err != nil {
				break
			}
		}
	}
	d.sent(err)
	return err
}

// sent notes how a delivery went.
func (d *syslogDatagrams) sent(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := err != nil && !d.refused
	d.refused = errors.Is(err, syscall.ECONNREFUSED)
	if err == nil {
		return
	}
	d.conn.Close()
	d.conn = nil
	if first && d.refused && d.lost != nil {
		go d.lost(time.Now(), false) // what was sent before was refused
	}
}

// answer is how long another host is given to say that nobody listens.
const answer = 100 * time.Millisecond

// listens asks whether the last datagram was refused.
func listens(ctx context.Context, conn net.Conn) error {
	select {
	case <-time.After(answer):
	case <-ctx.Done():
		return ctx.Err()
	}
	c, ok := conn.(*net.UDPConn)
	if !ok {
		return nil
	}
	return control(c, func(fd int) error {
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = syscall.Errno(code)
		}
		return err
	})
}

// Close implements Destination.
func (d *syslogDatagrams) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		d.conn.Close()
		d.conn = nil
	}
}
