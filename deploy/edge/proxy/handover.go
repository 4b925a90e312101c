package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// handed is a socket in what is handed over.
type handed struct{ Name, Address string }

const (
	maxHanded       = 8
	maxMessage      = 4096
	handoverTimeout = 5 * time.Second
)

// handOver gives whoever connects the sockets that are listened on (unix(7),
// SCM_RIGHTS), until the listener is closed.
func (p *Proxy) handOver(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if err := p.send(c.(*net.UnixConn)); err != nil {
			p.log.Error("listening sockets are not handed over", "error", err)
		}
		_ = c.Close()
	}
}

func (p *Proxy) send(c *net.UnixConn) error {
	if err := c.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return err
	}
	var what []handed
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	var fds []int
	for name, l := range p.listeners {
		f, err := l.File()
		if err != nil {
			return err
		}
		files = append(files, f)
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		// Not by Fd, which would make the socket block, here too.
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return err
		}
		what = append(what, handed{name, l.address})
	}
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	_, _, err = c.WriteMsgUnix(text, unix.UnixRights(fds...), nil)
	return err
}

// receive gets the sockets of the process behind a unix socket.
func receive(ctx context.Context, path string) (got listeners, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return nil, err
	}
	text, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxHanded))
	n, rn, _, _, err := c.(*net.UnixConn).ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "listener"))
		}
	}
	defer func() {
		for _, f := range files {
			_ = f.Close() // the listener has its own
		}
	}()
	var what []handed
	if err := json.Unmarshal(text[:n], &what); err != nil {
		return nil, err
	}
	if len(what) != len(files) {
		return nil, fmt.Errorf("%d sockets are named, and %d handed over", len(what), len(files))
	}
	got = listeners{}
	for i, w := range what {
		l, err := net.FileListener(files[i])
		if err != nil {
			return nil, errors.Join(err, got.close())
		}
		tcp, ok := l.(*net.TCPListener)
		if !ok {
			return nil, errors.Join(fmt.Errorf("a socket of %T is handed over", l), l.Close(), got.close())
		}
		got[w.Name] = &listener{TCPListener: tcp, address: w.Address}
	}
	return got, nil
}
