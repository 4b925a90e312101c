package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// Stream says which of its streams a process wrote to.
type Stream byte

// The streams. With a terminal all output is Stdout.
const (
	Stdout Stream = 2 // as conmon numbers them
	Stderr Stream = 3
)

const (
	packetSize = 8192  // what conmon sends at most, without the stream
	writeSize  = 32768 // what conmon receives at most
)

// Conn is a connection to the streams of a process, from the moment of Attach on.
//
// conmon waits for each of its clients: one that does not read holds up the
// process, as soon as the socket and the pipe are full, as with Docker. So whoever
// holds a Conn reads it, or closes it. A Conn that has not been read for ten
// seconds when the container has ended is closed, for the exit to be known.
//
// Read and Write may be called concurrently with each other and with Close.
type Conn struct {
	conn   *net.UnixConn
	buf    []byte
	rest   []byte // of the last packet
	stream Stream

	progress atomic.Int64 // when it was last read, in Unix nanoseconds
	forget   func()
}

// Attach connects to the streams of a container, or of one of its execs if
// execID is not empty. Any number of connections get the same output.
func (s *Shim) Attach(ctx context.Context, id, execID string) (*Conn, error) {
	b, dir, err := s.processDir(id, execID)
	if err != nil {
		return nil, err
	}
	return b.dial(ctx, dir)
}

// processDir is where the sockets of a container or of an exec are.
func (s *Shim) processDir(id, execID string) (*bundle, string, error) {
	b, err := s.get(id)
	if err != nil {
		return nil, "", err
	}
	if execID == "" {
		return b, b.dir, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.execs[execID]
	if e == nil {
		return nil, "", runner.Errorf(runner.ErrNotFound, "No such exec instance: %s", execID)
	}
	return b, e.dir, nil
}

func (b *bundle) dial(ctx context.Context, dir string) (*Conn, error) {
	// The path of an exec's socket is longer than an address holds.
	d, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	fd, err := rawFD(d)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixpacket", fmt.Sprintf("/proc/self/fd/%d/attach", fd))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			return nil, runner.Errorf(runner.ErrConflict, "the process has ended: it cannot be attached to")
		}
		return nil, fmt.Errorf("attach: %w", err)
	}
	c := &Conn{conn: conn.(*net.UnixConn)}
	c.progress.Store(time.Now().UnixNano())
	c.forget = func() {
		b.mu.Lock()
		delete(b.conns, c)
		b.mu.Unlock()
	}
	b.mu.Lock()
	b.conns[c] = true
	b.mu.Unlock()
	return c, nil
}

// Read reads output of one stream. It returns io.EOF when the process has ended
// and all of its output has been read.
func (c *Conn) Read(p []byte) (stream Stream, n int, err error) {
	for len(c.rest) == 0 {
		if c.buf == nil {
			c.buf = make([]byte, writeSize+1) // later versions of conmon send more
		}
		n, err := c.conn.Read(c.buf)
		if errors.Is(err, unix.ECONNRESET) { // it ended with input unread
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		c.progress.Store(time.Now().UnixNano())
		c.stream, c.rest = Stream(c.buf[0]), c.buf[1:n]
	}
	n = copy(p, c.rest)
	c.rest = c.rest[n:]
	return c.stream, n, nil
}

// Write writes to standard input, and waits while it is full.
func (c *Conn) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		m, err := c.conn.Write(p[:min(len(p), writeSize)])
		n += m
		if err != nil {
			return n, err
		}
		p = p[m:]
	}
	return n, nil
}

// CloseWrite ends what this connection writes, and closes standard input unless
// it is to stay open (CreateRequest.StdinOnce). Output goes on.
func (c *Conn) CloseWrite() error { return c.conn.CloseWrite() }

// Close ends the connection; it closes standard input like CloseWrite.
func (c *Conn) Close() error {
	c.forget()
	return c.conn.Close()
}

// stallTime is how long a client may not read, when its container has ended,
// before its connection is closed.
const stallTime = 10 * time.Second

// unstick is called when a container's first process has ended, and again until
// the monitor has told: clients that do not read are in its way.
func (s *Shim) unstick(b *bundle) {
	time.AfterFunc(s.stall/2, func() {
		select {
		case <-b.ended:
			return
		case <-s.watch.stop:
			return
		default:
		}
		b.mu.Lock()
		var stuck []*Conn
		for c := range b.conns {
			if time.Since(time.Unix(0, c.progress.Load())) > s.stall {
				stuck = append(stuck, c)
			}
		}
		b.mu.Unlock()
		for _, c := range stuck {
			s.log.Warn("client does not read what its container wrote: its connection is closed", "container", b.id)
			_ = c.Close()
		}
		s.unstick(b)
	})
}

// Resize sets the size of a terminal, at most 1000 by 1000, which is conmon's
// bound: more is cut to that.
func (s *Shim) Resize(_ context.Context, id, execID string, height, width uint16) error {
	_, dir, err := s.processDir(id, execID)
	if err != nil {
		return err
	}
	return control(dir, fmt.Sprintf("1 %d %d\n", min(height, 1000), min(width, 1000)))
}

// control sends a line to a monitor.
func control(dir, line string) error {
	fd, err := unix.Open(filepath.Join(dir, "ctl"), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT) {
			return runner.Errorf(runner.ErrConflict, "the process has ended")
		}
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(line)); err != nil {
		return fmt.Errorf("control monitor: %w", err)
	}
	return nil
}

// reopenWait bounds the wait for a monitor that is held up by a client.
const reopenWait = 5 * time.Second

// ReopenLog makes the monitor begin a new log, and returns when it has. conmon
// closes its log, opens LogPath.tmp empty, and renames it to LogPath: whatever has
// the name LogPath then is lost, so the caller renames or links the old log first.
// No line is lost or written twice between: what conmon writes until then goes to
// the old file, whatever its name is.
func (s *Shim) ReopenLog(ctx context.Context, id string) error {
	b, err := s.lock(id)
	if err != nil {
		return err
	}
	defer b.op.Unlock()
	if b.record.LogPath == "" {
		return runner.Errorf(runner.ErrInvalid, "container %s keeps no log", id)
	}
	if _, err := b.running(); err != nil {
		return err
	}
	before, _ := os.Stat(b.record.LogPath)
	if err := control(b.dir, "2 0 0\n"); err != nil {
		return err
	}
	// There is no answer but the new file.
	deadline := time.Now().Add(reopenWait)
	for step := 100 * time.Microsecond; ; step = min(2*step, 20*time.Millisecond) {
		if after, err := os.Stat(b.record.LogPath); err == nil && (before == nil || !os.SameFile(before, after)) {
			return nil
		}
		if time.Now().After(deadline) {
			return runner.Errorf(runner.ErrUnavailable, "the monitor of container %s did not reopen its log in time", id)
		}
		if err := pause(ctx, step); err != nil {
			return err
		}
	}
}
