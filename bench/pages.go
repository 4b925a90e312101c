package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"time"

	"github.com/berth-registry/berth/registry"
)

// list is one that pages are read from.
type list struct {
	server  *server
	path    string
	entries int
	name    func(int) string // of an entry
}

// pages measures how long a page of tags takes in a repository that has just so
// many, and anywhere in one that has very many; and a page of the catalog
// likewise.
func pages(ctx context.Context, b *bench) ([]*figure, error) {
	// Names and pages of the short and the long list are of the same length.
	const few, many = "seed/few-tags", "seed/man-tags"
	fewRepos, manyRepos := filepath.Join(b.dir, "few", "data"), filepath.Join(b.dir, "many", "data")
	err := errors.Join(
		seeded(ctx, fewRepos, func(w registry.Registry) error { return seedManifests(ctx, w, b.page, 1) }),
		seeded(ctx, manyRepos, func(w registry.Registry) error { return seedManifests(ctx, w, b.entries, 1) }),
		seeded(ctx, filepath.Join(b.dir, "tags", "data"), func(w registry.Registry) error {
			return errors.Join(seedTags(ctx, w, few, b.page), seedTags(ctx, w, many, b.entries))
		}))
	if err != nil {
		return nil, err
	}
	servers := map[string]*server{}
	for _, dir := range []string{"few", "many", "tags"} {
		if servers[dir], err = b.startBerth(ctx, dir); err != nil {
			return nil, err
		}
	}
	tags, err := b.comparePages(ctx, "tags",
		list{servers["tags"], "/v2/" + few + "/tags/list", b.page, seedTag},
		list{servers["tags"], "/v2/" + many + "/tags/list", b.entries, seedTag})
	if err != nil {
		return nil, err
	}
	repos, err := b.comparePages(ctx, "repositories",
		list{servers["few"], "/v2/_catalog", b.page, seedRepo},
		list{servers["many"], "/v2/_catalog", b.entries, seedRepo})
	return []*figure{tags, repos}, err
}

func (b *bench) comparePages(ctx context.Context, what string, short, long list) (*figure, error) {
	f := &figure{Name: fmt.Sprintf("a page of %d %s", b.page, what), Unit: "µs"}
	var turns []turn
	for _, l := range []list{long, short} {
		measure := func() (float64, error) { return b.readPages(ctx, l) }
		if _, err := measure(); err != nil { // warms up
			return nil, err
		}
		turns = append(turns, turn{"of " + thousands(l.entries), l.server, measure})
	}
	if err := b.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(turns[0].of, turns[1].of, atMost(1.3))
	return f, nil
}

// readPages reads pages at random places of a list, one after the other, and
// returns the median of what they took, in µs.
func (b *bench) readPages(ctx context.Context, l list) (float64, error) {
	addr := l.server.addr
	return b.latency(ctx, l.server, b.pages, func(int) (func(*conn) error, error) {
		target := fmt.Sprintf("%s?n=%d", l.path, b.page)
		if from := rand.IntN(l.entries - b.page + 1); from > 0 {
			target += "&last=" + l.name(from-1)
		}
		req := request(http.MethodGet, addr, target)
		return func(c *conn) error {
			_, err := c.do(http.StatusOK, req)
			return err
		}, nil
	})
}

// latency returns the median of what n calls took, in µs, made by one client one
// after the other. prepare returns what is to be measured.
func (b *bench) latency(ctx context.Context, s *server, n int, prepare func(i int) (func(*conn) error, error)) (float64, error) {
	var took []time.Duration
	_, err := together(ctx, s.addr, 1, func(_ int, c *conn) error {
		for i := range n {
			call, err := prepare(i)
			if err != nil {
				return err
			}
			start := time.Now()
			if err := call(c); err != nil {
				return err
			}
			took = append(took, time.Since(start))
		}
		return nil
	})
	return microseconds(quantile(took, 0.5)), err
}
