package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/daemon"
)

// run serves until a signal says to stop, or a listener fails.
func (d *server) run(ctx context.Context, signals <-chan os.Signal) error {
	background, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, run := range slices.Concat(d.access.runs, d.health.runs, d.others.runs(), d.fleets.runs(), []func(context.Context){d.outbox.Run}) {
		running.Go(func() { run(background) })
	}
	failed := make(chan error, 8)
	servers, err := d.listen(ctx, failed)
	if err != nil {
		return err
	}
	if !d.cfg.Restricted() && !isLoopback(d.cfg.HTTP.Addr) {
		d.log.WarnContext(ctx, "no policy: anyone who reaches the address may push, pull and delete", "addr", d.cfg.HTTP.Addr)
	}
	logPlaces(ctx, d.cfg, d.log)
	d.log.InfoContext(ctx, "ready", "version", version, "data", d.cfg.Storage.Data, "push", "docker push "+d.cfg.HTTP.Addr+"/NAME")
	for {
		select {
		case err := <-failed:
			return fmt.Errorf("serve: %w", err)
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				d.reload(ctx)
				continue
			}
			d.log.InfoContext(ctx, "stopping", "signal", sig.String(), "limit", d.cfg.HTTP.ShutdownTimeout.String())
			return d.stop(servers, signals)
		}
	}
}

// listen opens every listener and serves it.
func (d *server) listen(ctx context.Context, failed chan<- error) (servers []*http.Server, err error) {
	main := d.httpServer(d.cfg.HTTP.Addr, d.api)
	d.edge.Configure(main)
	main.RegisterOnShutdown(d.fleets.hub.Close) // who waits is no request in flight
	listeners, err := d.edge.Listen(ctx)
	if err != nil {
		hint := "--addr"
		if d.cfg.HTTP.RedirectAddr != "" {
			hint += " or http.redirect_addr"
		}
		return nil, fmt.Errorf("%w; choose another address with %s", err, hint)
	}
	for _, l := range listeners {
		d.log.InfoContext(ctx, "listening", "addr", l.Addr().String(), "for", "registry", "tls", d.edge.TLS())
		go func() { failed <- d.edge.Serve(main, l) }()
	}
	servers = append(servers, main)
	serve := func(s *http.Server, what string, listeners ...net.Listener) {
		for _, l := range listeners {
			d.log.InfoContext(ctx, "listening", "addr", l.Addr().String(), "for", what)
			go func() { failed <- s.Serve(l) }()
		}
		servers = append(servers, s)
	}
	if redirect := d.edge.RedirectServer(); redirect != nil {
		serve(redirect, "redirect to https", d.edge.RedirectListeners()...)
	}
	if addr := d.cfg.Metrics.Addr; addr != "" {
		listeners, err := daemon.Listen(ctx, addr, d.cfg.HTTP.BodyTimeout)
		if err != nil {
			return servers, fmt.Errorf("cannot listen on %s: %w; choose another address with --metrics-addr", addr, err)
		}
		serve(d.httpServer(addr, d.ops), "metrics", listeners...)
	}
	socket, err := admin.ListenSocket(filepath.Join(d.cfg.Storage.Data, admin.SocketName))
	if err != nil {
		d.log.WarnContext(ctx, "no administration on this machine: 'berth user' and the like need --registry", "error", err)
		return servers, nil
	}
	serve(d.httpServer("", d.admin), "administration", socket)
	return servers, nil
}

func (d *server) httpServer(addr string, h http.Handler) *http.Server {
	return &http.Server{
		Addr: addr, Handler: daemon.Recovering(daemon.Bodies(h, d.cfg.HTTP.BodyTimeout), d.log),
		ReadHeaderTimeout: d.cfg.HTTP.HeaderTimeout,
		IdleTimeout:       d.cfg.HTTP.IdleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
}

// maxHeader is the greatest size of a request's header in bytes.
const maxHeader = 64 << 10

// withHealth serves /healthz and /readyz by health and all else by api, which
// gets the path as the client sent it.
func withHealth(health, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
			health.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// reload reads the configuration again, and the files that it names. If it is
// wrong, all stays as it is.
func (d *server) reload(ctx context.Context) {
	cfg, err := d.load()
	if err == nil && cfg.Restricted() != d.cfg.Restricted() {
		err = errors.New("a policy can be changed, but not taken away or given for the first time, without a restart")
	}
	if err == nil {
		err = d.apply(cfg)
	}
	if err != nil {
		d.log.ErrorContext(ctx, "configuration not reloaded: the old one stays in force", "error", err)
		return
	}
	changed, needRestart := config.Reloadable(d.cfg, cfg)
	d.log.InfoContext(ctx, "configuration reloaded", "changed", changed)
	if len(needRestart) > 0 {
		d.log.WarnContext(ctx, "changed keys that need a restart", "keys", needRestart)
	}
	for what, again := range map[string]func() error{
		"certificates": d.edge.Reload, "audit log": d.auditLog.Reopen, "htpasswd": d.access.reload,
	} {
		if err := again(); err != nil {
			d.log.ErrorContext(ctx, "not read again: the last good one stays in force", "what", what, "error", err)
		}
	}
}

// stop lets the requests in flight finish, for as long as the configuration
// says or until another signal.
func (d *server) stop(servers []*http.Server, signals <-chan os.Signal) error {
	d.stopping.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), d.cfg.HTTP.ShutdownTimeout)
	defer cancel()
	go func() {
		for sig := range signals {
			if sig != syscall.SIGHUP {
				cancel()
			}
		}
	}()
	for _, s := range servers {
		if err := s.Shutdown(ctx); err != nil {
			d.log.Warn("requests were cut off", "addr", s.Addr, "reason", err)
			_ = s.Close() // Shutdown has said what is wrong
		}
	}
	d.log.Info("stopped")
	return nil
}
