package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// small measures how many small images a second several clients push, each on
// one connection: four times POST and PUT, then the manifest by tag. No two
// images share content. docker-registry does not sync what it acknowledges.
func small(ctx context.Context, b *bench) ([]*figure, error) {
	servers, err := b.startRegistries(ctx)
	if err != nil {
		return nil, err
	}
	f := &figure{Name: fmt.Sprintf("config, %d layers of 8 KiB, manifest; %s", imageLayers, plural(b.small, "client")), Unit: "images/s"}
	var turns []turn
	for _, s := range servers {
		measure := func() (float64, error) { return b.pushImages(ctx, s.addr, b.window) }
		if _, err := measure(); err != nil { // warms up
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		turns = append(turns, turn{s.name, s, measure})
	}
	if err := b.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(nameBerth, nameDockerRegistry, atLeast(10))
	compare(f, servers[2:])
	return []*figure{f}, nil
}

// pushImages pushes images for so long and returns how many a second.
func (b *bench) pushImages(ctx context.Context, addr string, window time.Duration) (float64, error) {
	b.serial++
	var images atomic.Int64
	end := time.Now().Add(window)
	elapsed, err := together(ctx, addr, b.small, func(i int, c *conn) error {
		src := source(b.serial, i)
		repo := fmt.Sprintf("small/client-%d", i)
		for n := 0; time.Now().Before(end) || n == 0; n++ {
			if err := c.pushNewImage(addr, repo, fmt.Sprintf("v%d.%d", b.serial, n), src); err != nil {
				return err
			}
			images.Add(1)
		}
		return nil
	})
	return float64(images.Load()) / elapsed.Seconds(), err
}

// source returns random content for a client in one run.
func source(serial uint64, client int) *rand.ChaCha8 {
	return rand.NewChaCha8([32]byte{1, byte(serial), byte(serial >> 8), byte(client), byte(client >> 8)})
}
