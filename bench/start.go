package main

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"github.com/berth-registry/berth/registry"
)

// seedPerRepo is how many manifests a repository of a large registry has.
const seedPerRepo = 1000

// start measures the time from the start of berth's process to its first answer
// that carries a manifest, with many manifests on disk; after berth was told to
// stop, and after it was killed.
func start(ctx context.Context, b *bench) ([]*figure, error) {
	s, _, err := b.newBerth(nameBerth)
	if err != nil {
		return nil, err
	}
	if err := seeded(ctx, s.data(), func(w registry.Registry) error { return b.seedMany(ctx, w, b.manifests) }); err != nil {
		return nil, err
	}
	if _, err := b.timeStart(ctx, syscall.SIGTERM); err != nil { // warms up
		return nil, err
	}
	var figures []*figure
	for _, end := range []struct {
		name   string
		signal syscall.Signal
	}{{"after a stop", syscall.SIGTERM}, {"after kill -9", syscall.SIGKILL}} {
		f := &figure{Name: fmt.Sprintf("to the first answer, %s manifests, %s", thousands(b.manifests), end.name), Unit: "s"}
		measure := func() (float64, error) { return b.timeStart(ctx, end.signal) }
		if _, err := b.timeStart(ctx, end.signal); err != nil { // so that the first run starts after such an end
			return nil, err
		}
		if err := b.interleave(ctx, f, turn{of: nameBerth, measure: measure}); err != nil {
			return nil, err
		}
		f.value(nameBerth, atMost(1))
		figures = append(figures, f)
	}
	return figures, nil
}

// seedMany stores n manifests, spread over repositories.
func (b *bench) seedMany(ctx context.Context, w registry.Writer, n int) error {
	each := min(n, seedPerRepo)
	began := time.Now()
	if err := seedManifests(ctx, w, n/each, each); err != nil {
		return err
	}
	progress("  stored %s manifests in %s\n", thousands(n), time.Since(began).Round(time.Second))
	return nil
}

// timeStart starts berth, returns the seconds to its first answer with a
// manifest, and ends it with a signal.
func (b *bench) timeStart(ctx context.Context, end syscall.Signal) (float64, error) {
	s, args, err := b.newBerth(nameBerth)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if s.proc, err = startProcess(s.dir, b.binary, args...); err != nil {
		return 0, err
	}
	b.servers = append(b.servers, s)
	if err := s.firstManifest(ctx); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took.Seconds(), b.stop(s, end)
}

// firstManifest asks for a manifest again and again until it comes.
func (s *server) firstManifest(ctx context.Context) error {
	get := request(http.MethodGet, s.addr, "/v2/"+seedRepo(0)+"/manifests/"+seedTag(0))
	for limit := time.Now().Add(2 * time.Minute); ; {
		_, err := together(ctx, s.addr, 1, func(_ int, c *conn) error {
			_, err := c.do(http.StatusOK, get)
			return err
		})
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-s.proc.done:
			return fmt.Errorf("berth ended: %s", s.proc.lastLog())
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(limit) {
			return fmt.Errorf("no manifest: %w: %s", err, s.proc.lastLog())
		}
	}
}
