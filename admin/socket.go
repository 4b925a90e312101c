package admin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
)

// SocketName is the name of the socket in the directory of the server's data.
const SocketName = "admin.sock"

// Who comes by the socket, as audit names it.
const (
	LocalAccount = "local administrator" // no account can have a name with a space
	LocalSource  = "socket"
)

// ErrLive says that a server listens on a socket.
var ErrLive = errors.New("a server listens on that socket")

const (
	// maxSocketPath is how long the path of a socket can be: sun_path has 108
	// bytes, one of them the end (unix(7)).
	maxSocketPath = 107
	// liveTime is how long a server may take to accept.
	liveTime = 2 * time.Second
)

// ListenSocket listens on a new socket at path, in a directory that is there, for
// nobody but the user of this process. A socket that a dead server has left is
// replaced; with ErrLive it fails if the server lives. Of two that listen at the
// same time, the later takes it over: a server holds the lock of its directory.
//
// The address of each connection's other end names user and process.
func ListenSocket(path string) (net.Listener, error) {
	dir, err := openDir(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := claim(dir, path); err != nil {
		return nil, err
	}
	// It gets its name when its mode is right.
	fresh := filepath.Base(path) + ".new"
	if err := os.Remove(dir.path(fresh)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir.path(fresh), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	s := &socket{UnixListener: l, path: path}
	if err := s.publish(dir, fresh); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(dir.path(fresh)))
	}
	return s, nil
}

// claim says whether the path is free, or has a socket of a dead server.
func claim(dir directory, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way: it is no socket", path)
	}
	dialer := net.Dialer{Timeout: liveTime}
	c, err := dialer.DialContext(context.Background(), "unix", dir.path(filepath.Base(path)))
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("%s: %w", path, ErrLive)
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%s: is there a server? %w", path, err)
}

// socket is a listener that removes its file, unless that is another's by then.
type socket struct {
	*net.UnixListener
	path  string
	file  fs.FileInfo
	close sync.Once
}

func (s *socket) publish(dir directory, fresh string) (err error) {
	if err := os.Chmod(dir.path(fresh), 0o600); err != nil {
		return err
	}
	if s.file, err = os.Lstat(dir.path(fresh)); err != nil {
		return err
	}
	return os.Rename(dir.path(fresh), dir.path(filepath.Base(s.path)))
}

// Close stops to listen, and removes the socket.
func (s *socket) Close() error {
	s.close.Do(func() {
		if fi, err := os.Lstat(s.path); err == nil && os.SameFile(fi, s.file) {
			_ = os.Remove(s.path) // the next server replaces it
		}
	})
	return s.UnixListener.Close()
}

// Addr is the address by its final name.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// Accept waits for the next connection.
func (s *socket) Accept() (net.Conn, error) {
	c, err := s.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return &peerConn{UnixConn: c, peer: peer(c)}, nil
}

// peerConn is a connection that knows who is at its other end.
type peerConn struct {
	*net.UnixConn
	peer net.Addr
}

func (c *peerConn) RemoteAddr() net.Addr { return c.peer }

func peer(c *net.UnixConn) net.Addr {
	name := "local"
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if u, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
				name = fmt.Sprintf("uid=%d,pid=%d", u.Uid, u.Pid)
			}
		})
	}
	return &net.UnixAddr{Name: name, Net: "unix"}
}

// directory is where a socket is. Through /proc its path is short, however long it
// is.
type directory struct {
	*os.File
	name string
	long bool // for a socket's path
}

func openDir(path string) (directory, error) {
	f, err := os.Open(filepath.Dir(path))
	if err != nil {
		return directory{}, err
	}
	const suffix = ".new"
	return directory{f, filepath.Dir(path), len(path)+len(suffix) > maxSocketPath}, nil
}

func (d directory) path(name string) string {
	if d.long {
		return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name)
	}
	return filepath.Join(d.name, name)
}

// DialSocket connects to a socket.
func DialSocket(ctx context.Context, path string) (net.Conn, error) {
	dir, err := openDir(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", dir.path(filepath.Base(path)))
}

type localKey struct{}

func isLocal(ctx context.Context) bool { return ctx.Value(localKey{}) != nil }

// Local makes each request one of the local administrator: for a listener that
// only the operator can reach.
func Local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := rand.Text()
		r.Header.Set("X-Request-Id", id)
		w.Header().Set("X-Request-Id", id)
		ctx := context.WithValue(r.Context(), localKey{}, true)
		ctx = auth.NewContext(ctx, &auth.Session{Identity: &auth.Identity{Account: LocalAccount, Source: LocalSource}})
		ctx = audit.NewContext(ctx, &audit.Actor{Account: LocalAccount, Source: LocalSource, Client: r.RemoteAddr, Request: id})
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
