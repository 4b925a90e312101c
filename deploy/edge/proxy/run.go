package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/berth-registry/berth/deploy/edge"
	"github.com/berth-registry/berth/internal/durable"
)

const (
	// lastWords is how long requests go on when the program is stopped.
	lastWords = 10 * time.Second
	// yield is how long a predecessor may take to let go.
	yield = 20 * time.Second
	// lookForSockets is how long sockets that somebody has removed may be missed.
	lookForSockets = time.Second
)

// Run serves until the context ends, or it is told to end. If a predecessor serves with
// the same directories, it takes over from that.
func Run(ctx context.Context, o edge.Options, version string) error {
	program, err := edge.ProgramOf("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := errors.Join(durable.MkdirAll(o.Data), durable.MkdirAll(o.Run)); err != nil {
		return err
	}
	unlock, l, err := take(ctx, o)
	if err != nil {
		return err
	}
	if unlock != nil {
		if err := removeHalf(o); err != nil {
			return errors.Join(err, l.close())
		}
	}
	p, err := openWith(o, l, usual())
	if err != nil {
		return errors.Join(err, l.close())
	}
	if unlock == nil {
		if unlock, err = succeed(ctx, o); err == nil {
			err = p.reload() // the predecessor may have been told something meanwhile
		}
		if err != nil {
			return errors.Join(err, p.Close())
		}
	}
	defer func() { _ = unlock() }() // the process ends
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	retired := make(chan struct{}, 1)
	c := &control{proxy: p, ending: make(chan struct{}), retired: retired, stop: stop}
	c.status = edge.Status{PID: syscall.Getpid(), Version: version, Program: program, Options: o}
	hide, err := c.serve(o)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	hide, goesOn := c.stay(ctx, o, hide, retired)
	if goesOn {
		defer c.showRetired(ctx)()
	}
	close(c.ending)
	hide()
	if goesOn {
		_ = unlock() // whoever comes after has it from now on, and the names of the sockets
		p.Drain(ctx, lastRequest)
	}
	err = p.Retire()
	p.Drain(context.WithoutCancel(ctx), lastWords)
	return errors.Join(err, p.Close())
}

// take takes the lock and opens the sockets. Without a lock, they are those of a
// predecessor.
func take(ctx context.Context, o edge.Options) (unlock func() error, l listeners, err error) {
	unlock, err = durable.Lock(o.Lock())
	if err == nil {
		if l, err = listen(ctx, o, nil); err != nil {
			return nil, nil, errors.Join(err, unlock())
		}
		return unlock, l, nil
	}
	if !errors.Is(err, durable.ErrLocked) {
		return nil, nil, err
	}
	handed, herr := receive(ctx, o.Sockets())
	if herr != nil {
		return nil, nil, fmt.Errorf("take over from the edge that serves: %w: %w", err, herr)
	}
	l, err = listen(ctx, o, handed)
	if errors.Is(err, syscall.EADDRINUSE) && handed.overlap(o) {
		// The predecessor has to let go first, and so has this one of what it was handed.
		if unlock, err = succeed(ctx, o); err != nil {
			return nil, nil, err
		}
		if err := handed.close(); err != nil {
			return nil, nil, err
		}
		l, err = listen(ctx, o, nil)
	}
	return unlock, l, err
}

// succeed has the predecessor retire, and takes its lock.
func succeed(ctx context.Context, o edge.Options) (unlock func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, yield)
	defer cancel()
	retired := edge.NewClient(o.Control()).Retire(ctx)
	for {
		unlock, err = durable.Lock(o.Lock())
		if !errors.Is(err, durable.ErrLocked) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, retired)
		case <-time.After(goodbye / 50):
		}
	}
}

// serve answers those who tell the proxy what to do, and successors, until it is to be
// found no longer.
func (c *control) serve(o edge.Options) (hide func(), err error) {
	sockets, err := listenControl(o.Sockets())
	if err != nil {
		return nil, err
	}
	l, err := listenControl(o.Control())
	if err != nil {
		return nil, errors.Join(err, sockets.Close())
	}
	go c.proxy.handOver(sockets)
	hs := c.serveOn(l)
	return func() {
		_ = sockets.Close()
		shutdown, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = hs.Shutdown(shutdown)
	}, nil
}

// stay returns when the proxy is told to end, or has retired and its requests go on. Until
// then it is to be found.
func (c *control) stay(ctx context.Context, o edge.Options, hide func(), retired <-chan struct{}) (nowHide func(), goesOn bool) {
	look := time.NewTicker(lookForSockets)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return hide, false
		case <-retired:
			return hide, true
		case <-look.C:
			hide = c.serveAgain(ctx, o, hide)
		}
	}
}

// serveAgain makes the sockets anew, if somebody has removed them: nobody would find the
// proxy.
func (c *control) serveAgain(ctx context.Context, o edge.Options, hide func()) func() {
	missing := false
	for _, path := range []string{o.Control(), o.Sockets()} {
		_, err := os.Lstat(path) //nolint:gosec // the path is the daemon's
		missing = missing || errors.Is(err, fs.ErrNotExist)
	}
	if !missing {
		return hide
	}
	next, err := func() (func(), error) {
		if err := durable.MkdirAll(o.Run); err != nil {
			return nil, err
		}
		return c.serve(o)
	}()
	if err != nil {
		c.proxy.log.ErrorContext(ctx, "the sockets are gone, and cannot be made anew", "error", err)
		return hide
	}
	c.proxy.log.WarnContext(ctx, "the sockets were gone, and are there again", "dir", o.Run)
	hide()
	return next
}

// showRetired answers those who ask for requests that go on in a proxy that has retired,
// or tell it to end, on a socket of its own, until it is removed.
func (c *control) showRetired(ctx context.Context) (remove func()) {
	path := c.status.Options.Retired(c.status.PID)
	l, err := listenControl(path)
	if err != nil {
		c.proxy.log.ErrorContext(ctx, "nobody can ask for the requests that go on", "error", err)
		return func() {}
	}
	c.serveOn(l)
	return func() { _ = os.Remove(path) } // the process ends; what is left over nobody answers on
}

func (c *control) serveOn(l net.Listener) *http.Server {
	hs := &http.Server{
		Handler: c.handler(), ReadHeaderTimeout: usual().header,
		ErrorLog: slog.NewLogLogger(c.proxy.log.Handler(), slog.LevelDebug),
	}
	go func() { _ = hs.Serve(l) }() // until it is closed, or the process ends
	return hs
}

// removeHalf removes files that one that was killed had only begun to write.
func removeHalf(o edge.Options) error {
	half, err := filepath.Glob(filepath.Join(o.Data, ".new-*"))
	for _, path := range half {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
