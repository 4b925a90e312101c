package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"

	"github.com/berth-registry/berth/registry"
)

// growth measures single requests of one client to registries of more and more
// manifests: a small image pushed, a manifest read by tag, a page of tags.
func growth(ctx context.Context, b *bench) ([]*figure, error) {
	push := &figure{Name: "push a small image", Unit: "µs", Growth: true}
	get := &figure{Name: "GET a manifest by tag", Unit: "µs", Growth: true}
	page := &figure{Name: fmt.Sprintf("a page of %d tags", b.page), Unit: "µs", Growth: true}
	var pushes, gets, pages []turn
	for _, n := range b.growth {
		of := thousands(n)
		s, err := b.startSeeded(ctx, of, n)
		if err != nil {
			return nil, err
		}
		pushes = append(pushes, turn{of, s, func() (float64, error) { return b.timePushes(ctx, s) }})
		gets = append(gets, turn{of, s, func() (float64, error) { return b.timeGets(ctx, s, n) }})
		tags := list{s, "/v2/" + seedRepo(0) + "/tags/list", min(n, seedPerRepo), seedTag}
		pages = append(pages, turn{of, s, func() (float64, error) { return b.readPages(ctx, tags) }})
	}
	figures := []*figure{push, get, page}
	for i, turns := range [][]turn{pushes, gets, pages} {
		for _, t := range turns {
			if _, err := t.measure(); err != nil { // warms up
				return nil, err
			}
		}
		if err := b.interleave(ctx, figures[i], turns...); err != nil {
			return nil, err
		}
		figures[i].ratio(turns[len(turns)-1].of, turns[0].of, bound{})
	}
	return figures, nil
}

// startSeeded starts a berth that has n manifests.
func (b *bench) startSeeded(ctx context.Context, dir string, n int) (*server, error) {
	s, _, err := b.newBerth(dir)
	if err != nil {
		return nil, err
	}
	if err := seeded(ctx, s.data(), func(w registry.Registry) error { return b.seedMany(ctx, w, n) }); err != nil {
		return nil, err
	}
	return b.startBerth(ctx, dir)
}

// timePushes returns the median time of a push of a small image, in µs.
func (b *bench) timePushes(ctx context.Context, s *server) (float64, error) {
	b.serial++
	src := source(b.serial, 0)
	return b.latency(ctx, s, b.samples, func(i int) (func(*conn) error, error) {
		img, err := newImage(src)
		return func(c *conn) error {
			return c.pushImage(s.addr, "growth/pushed", fmt.Sprintf("v%d.%d", b.serial, i), img)
		}, err
	})
}

// timeGets returns the median time in which one of n manifests, at random, is
// read by its tag, in µs.
func (b *bench) timeGets(ctx context.Context, s *server, n int) (float64, error) {
	each := min(n, seedPerRepo)
	return b.latency(ctx, s, b.samples, func(int) (func(*conn) error, error) {
		i := rand.IntN(n)
		get := request(http.MethodGet, s.addr, "/v2/"+seedRepo(i/each)+"/manifests/"+seedTag(i%each))
		return func(c *conn) error {
			_, err := c.do(http.StatusOK, get)
			return err
		}, nil
	})
}
