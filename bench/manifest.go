package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// nameBare is a handler of net/http that knows one answer.
const nameBare = "bare net/http"

// manifest measures how often a second a manifest is read by its tag, and how
// long single requests take, beside a handler that returns the same bytes with
// the same headers from memory.
func manifest(ctx context.Context, b *bench) ([]*figure, error) {
	const repo, tag, target = "manifest/image", "latest", "/v2/manifest/image/manifests/latest"
	servers, err := b.startRegistries(ctx)
	if err != nil {
		return nil, err
	}
	img, err := newImage(source(0, 0))
	if err != nil {
		return nil, err
	}
	for _, s := range servers {
		if _, err := together(ctx, s.addr, 1, func(_ int, c *conn) error { return c.pushImage(s.addr, repo, tag, img) }); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	bare, err := b.startBare(ctx, http.DefaultClient, "http://"+servers[0].addr+target)
	if err != nil {
		return nil, err
	}
	servers = append([]*server{servers[0], bare}, servers[1:]...)
	var figures []*figure
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		rate := &figure{Name: fmt.Sprintf("%s, %s", method, plural(b.readers, "client")), Unit: "requests/s"}
		latency := &figure{Name: method + " latency", Unit: "µs"}
		var turns []turn
		for _, s := range servers {
			req := request(method, s.addr, target, "Accept: "+ocispec.MediaTypeImageManifest)
			measure := func() (float64, error) { return b.readLoad(ctx, s, req, latency) }
			turns = append(turns, turn{s.name, s, measure})
			if _, err := b.readLoad(ctx, s, req, &figure{}); err != nil { // warms up
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
		if err := b.interleave(ctx, rate, turns...); err != nil {
			return nil, err
		}
		rate.ratio(nameBerth, nameBare, atLeast(0.8))
		rate.ratio(nameBerth, nameDockerRegistry, atLeast(12))
		compare(rate, servers[3:])
		latency.ratio(p99(servers[0]), p50(servers[0]), atMost(5))
		latency.ratio(p99(bare), p50(bare), bound{})
		figures = append(figures, rate, latency)
	}
	return figures, nil
}

func p50(s *server) string { return s.name + " p50" }
func p99(s *server) string { return s.name + " p99" }

// readLoad sends a request again and again for b.window and returns how often a
// second it was answered. It adds what single requests took to latency.
func (b *bench) readLoad(ctx context.Context, s *server, req []byte, latency *figure) (float64, error) {
	took, elapsed, err := readFor(ctx, s, req, b.readers, b.window)
	latency.add(p50(s), microseconds(quantile(took, 0.50)))
	latency.add(p99(s), microseconds(quantile(took, 0.99)))
	return float64(len(took)) / elapsed.Seconds(), err
}

// readFor has clients send a request again and again for as long as the window. It
// returns what each request took, and all of them together.
func readFor(ctx context.Context, s *server, req []byte, clients int, window time.Duration) ([]time.Duration, time.Duration, error) {
	took := make([][]time.Duration, clients)
	end := time.Now().Add(window)
	elapsed, err := together(ctx, s.addr, clients, func(i int, c *conn) error {
		mine := make([]time.Duration, 0, 64<<10)
		for start := time.Now(); start.Before(end) || len(mine) == 0; {
			if _, err := c.do(http.StatusOK, req); err != nil {
				return err
			}
			now := time.Now()
			mine = append(mine, now.Sub(start))
			start = now
		}
		took[i] = mine
		return nil
	})
	return slices.Concat(took...), elapsed, err
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
