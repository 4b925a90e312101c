package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
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
	p, err := openWith(o, l, usual())
	if err != nil {
		return errors.Join(err, l.close())
	}
	if unlock == nil {
		if unlock, err = succeed(ctx, o); err != nil {
			return errors.Join(err, p.Close())
		}
	}
	defer func() { _ = unlock() }() // the process ends
	ending, retired, stopped := make(chan struct{}), make(chan struct{}, 1), make(chan struct{}, 1)
	c := &control{proxy: p, ending: ending, retired: retired, stopped: stopped}
	c.status = edge.Status{PID: syscall.Getpid(), Version: version, Program: program, Options: o}
	hs, sockets, err := serveControl(c, o)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	patience := lastWords
	select {
	case <-ctx.Done():
	case <-stopped:
	case <-retired:
		patience = lastRequest
	}
	// Whoever comes after has the lock from now on, and the names of the sockets.
	close(ending)
	_ = sockets.Close()
	shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	_ = hs.Shutdown(shutdown)
	cancel()
	if patience == lastRequest {
		_ = unlock()
	}
	err = p.Retire()
	p.Drain(patience)
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
	handed, err := receive(ctx, o.Sockets())
	if err != nil {
		return nil, nil, fmt.Errorf("take over from the edge that serves: %w", err)
	}
	l, err = listen(ctx, o, handed)
	if errors.Is(err, syscall.EADDRINUSE) && handed.overlap(o) {
		// The predecessor has to let go first.
		if unlock, err = succeed(ctx, o); err != nil {
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

// serveControl listens for those who tell the proxy what to do, and for successors.
func serveControl(c *control, o edge.Options) (*http.Server, net.Listener, error) {
	sockets, err := listenControl(o.Sockets())
	if err != nil {
		return nil, nil, err
	}
	l, err := listenControl(o.Control())
	if err != nil {
		return nil, nil, errors.Join(err, sockets.Close())
	}
	go c.proxy.handOver(sockets)
	hs := &http.Server{
		Handler: c.handler(), ReadHeaderTimeout: usual().header,
		ErrorLog: slog.NewLogLogger(c.proxy.log.Handler(), slog.LevelDebug),
	}
	go func() { _ = hs.Serve(l) }() // until it is shut down
	return hs, sockets, nil
}
