package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/internal/daemon"
	"github.com/berth-registry/berth/internal/runnerconfig"
)

// listenUnix listens on a socket that only the group's members may use. One that
// is left over is replaced; if somebody serves it, the error names the process.
//
// The socket gets its name when it has its mode and its owner, so that nobody
// else ever connects to it.
func listenUnix(ctx context.Context, s runnerconfig.Socket, log *slog.Logger) (net.Listener, error) {
	path, err := filepath.Abs(s.Path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // whoever may connect must get there
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// Against another runner that starts now; closing the directory unlocks it.
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	if err := unused(ctx, path); err != nil {
		return nil, err
	}
	name := fmt.Sprintf(".berth-%d", os.Getpid())
	hidden := filepath.Join(dir.Name(), name)
	if err := os.Remove(hidden); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var config net.ListenConfig
	// By this way to the directory, the name fits into the address of a socket.
	l, err := config.Listen(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := publish(ctx, hidden, path, s.Group, log); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(hidden))
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &unixListener{Listener: l, path: path, file: fi}, nil
}

// publish gives a socket its mode, its owner and then its name.
func publish(ctx context.Context, hidden, path, group string, log *slog.Logger) error {
	gid, mode := 0, fs.FileMode(0o600)
	if group != "" {
		g, err := findGroup(group)
		switch {
		case err == nil:
			gid, mode = g, 0o660
		case errors.Is(err, errNoGroup):
			log.WarnContext(ctx, "the group of the socket does not exist, so only root can use it", "group", group,
				"remedy", "groupadd --system "+group+"; usermod --append --groups "+group+" USER; start berth-runner again")
		default:
			return err
		}
	}
	return errors.Join(os.Chmod(hidden, mode), os.Chown(hidden, 0, gid), os.Rename(hidden, path))
}

var errNoGroup = errors.New("no such group")

// findGroup finds a group by its name or number.
func findGroup(name string) (int, error) {
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if _, ok := errors.AsType[user.UnknownGroupError](err); ok {
		return 0, errNoGroup
	}
	if err != nil {
		return 0, fmt.Errorf("group %s: %w", name, err)
	}
	return strconv.Atoi(g.Gid)
}

// unused says that nobody serves the socket at a path, and that nothing else is
// there.
func unused(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("cannot serve on %s: there is something that is no socket", path)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
			return nil // left over by a process that is gone
		}
		return fmt.Errorf("cannot serve on %s: %w", path, err)
	}
	defer c.Close()
	who := "another process"
	if pid := peer(c); pid > 0 {
		who = fmt.Sprintf("process %d", pid)
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
			who += " (" + string(name[:max(0, len(name)-1)]) + ")"
		}
	}
	return fmt.Errorf("cannot serve on %s: %s does already; stop it, or choose another socket with --socket", path, who)
}

// peer is the process that serves a unix connection; 0 if it cannot be told.
func peer(c net.Conn) (pid int) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	if err != nil {
		return 0
	}
	return pid
}

// unixListener removes its socket when it is closed, if it is still its own.
type unixListener struct {
	net.Listener

	path string
	file fs.FileInfo
}

func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *unixListener) Close() error {
	err := l.Listener.Close()
	if fi, serr := os.Lstat(l.path); serr == nil && os.SameFile(fi, l.file) && err == nil {
		err = os.Remove(l.path)
	}
	return err
}

// listenTLS listens for clients that show a certificate.
func listenTLS(ctx context.Context, c runnerconfig.TCP) ([]net.Listener, error) {
	cert, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
	if err != nil {
		return nil, fmt.Errorf("tcp.tls: %w", err)
	}
	pem, err := os.ReadFile(c.TLS.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("tcp.tls.client_ca: %w", err)
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tcp.tls.client_ca: there is no certificate in %s", c.TLS.ClientCA)
	}
	listeners, err := daemon.Listen(ctx, c.Addr, patience)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w; choose another tcp.addr", c.Addr, err)
	}
	for i, l := range listeners {
		listeners[i] = tls.NewListener(l, &tls.Config{
			MinVersion:   tls.VersionTLS12,
			Certificates: []tls.Certificate{cert},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    clients,
			NextProtos:   []string{"http/1.1"}, // streams take over their connections
		})
	}
	return listeners, nil
}
