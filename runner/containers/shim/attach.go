package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
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
// process, as soon as the socket and the pipe are full, and the report of its
// exit. So whoever holds a Conn reads it, or closes it.
//
// Read and Write may be called concurrently with each other and with Close.
type Conn struct {
	conn   *net.UnixConn
	buf    []byte
	rest   []byte // of the last packet
	stream Stream
}

// Attach connects to the streams of a container, or of one of its execs if
// execID is not empty. Any number of connections get the same output.
func (s *Shim) Attach(ctx context.Context, id, execID string) (*Conn, error) {
	dir, err := s.processDir(id, execID)
	if err != nil {
		return nil, err
	}
	return dial(ctx, dir)
}

// processDir is where the sockets of a container or of an exec are.
func (s *Shim) processDir(id, execID string) (string, error) {
	b, err := s.get(id)
	if err != nil {
		return "", err
	}
	if execID == "" {
		return b.dir, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.execs[execID]
	if e == nil {
		return "", runner.Errorf(runner.ErrNotFound, "No such exec instance: %s", execID)
	}
	return e.dir, nil
}

func dial(ctx context.Context, dir string) (*Conn, error) {
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
	return &Conn{conn: conn.(*net.UnixConn)}, nil
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
func (c *Conn) Close() error { return c.conn.Close() }

// Resize sets the size of a terminal, at most 1000 by 1000, which is conmon's
// bound: more is cut to that.
func (s *Shim) Resize(_ context.Context, id, execID string, height, width uint16) error {
	dir, err := s.processDir(id, execID)
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
