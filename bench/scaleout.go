package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// replicas is how many servers share their data at most.
const replicas = 3

// The buckets of the S3 server.
const berthBucket, dockerBucket = "berth", "docker"

// scaled are servers that are measured together: clients are spread over them, each with
// a connection to one.
type scaled struct {
	name    string
	servers []*server
}

// scaleOut measures replicas on S3 and PostgreSQL beside docker-registry on the same S3
// server, which syncs nothing; PostgreSQL does. None of them redirects clients to it: what
// comes from there is the S3 server's speed. All of them share one machine, so that more
// replicas cannot be faster than its cores allow.
func scaleOut(ctx context.Context, b *bench) ([]*figure, error) {
	s3, err := b.startS3(ctx, berthBucket, dockerBucket)
	if err != nil {
		return nil, err
	}
	dsn, err := b.startPostgres(ctx)
	if err != nil {
		return nil, err
	}
	var berths []*server
	var all []scaled
	for i := range replicas {
		s, err := b.startReplica(ctx, fmt.Sprint(nameBerth, i), dsn, s3.addr, berthBucket)
		if err != nil {
			return nil, err
		}
		berths = append(berths, s)
		all = append(all, scaled{plural(i+1, "replica"), slices.Clip(berths)})
	}
	docker, err := b.startDockerRegistryS3(ctx, s3.addr, dockerBucket)
	if err != nil {
		return nil, err
	}
	all = append(all, scaled{nameDockerRegistry, []*server{docker}})

	var figures []*figure
	for _, measure := range []func(context.Context, []scaled) (*figure, error){b.scaledPushes, b.scaledPulls, b.scaledBlobPush, b.scaledBlobPull} {
		f, err := measure(ctx, all)
		if err != nil {
			return nil, err
		}
		figures = append(figures, f)
	}
	f, err := b.scaledPages(ctx, berths[0], dsn)
	return append(figures, f), err
}

// beside compares replicas with docker-registry, and with one alone.
func (f *figure) beside(all []scaled) {
	one, docker := all[0], all[len(all)-1]
	for _, s := range all[:len(all)-1] {
		f.ratio(s.name, docker.name, bound{})
	}
	for _, s := range all[1 : len(all)-1] {
		f.ratio(s.name, one.name, bound{})
	}
}

// eachScaled measures each of the servers in turn.
func (b *bench) eachScaled(ctx context.Context, f *figure, all []scaled, measure func(scaled) (float64, error)) (*figure, error) {
	var turns []turn
	for _, s := range all {
		if _, err := measure(s); err != nil { // warms up
			return nil, fmt.Errorf("%s, %s: %w", f.Name, s.name, err)
		}
		turns = append(turns, turn{s.name, s.servers[0], func() (float64, error) { return measure(s) }})
	}
	err := b.interleave(ctx, f, turns...)
	f.beside(all)
	return f, err
}

// spread has n clients, each with a connection to the next of the servers, run fn at
// once, and returns the time until the last has ended.
func spread(ctx context.Context, s scaled, n int, fn func(i int, addr string, c *conn) error) (time.Duration, error) {
	took, errs := make([]time.Duration, len(s.servers)), make([]error, len(s.servers))
	var done sync.WaitGroup
	for at, server := range s.servers {
		share := n / len(s.servers)
		if at < n%len(s.servers) {
			share++
		}
		done.Go(func() {
			took[at], errs[at] = together(ctx, server.addr, share, func(i int, c *conn) error {
				return fn(i*len(s.servers)+at, server.addr, c)
			})
		})
	}
	done.Wait()
	return slices.Max(took), errors.Join(errs...)
}

// scaledPushes measures how many small images a second clients push.
func (b *bench) scaledPushes(ctx context.Context, all []scaled) (*figure, error) {
	f := &figure{Name: fmt.Sprintf("pushes of small images, %s", plural(b.small, "client")), Unit: "images/s"}
	return b.eachScaled(ctx, f, all, func(s scaled) (float64, error) {
		b.serial++
		serial, end := b.serial, time.Now().Add(b.window)
		var images atomic.Int64
		took, err := spread(ctx, s, b.small, func(i int, addr string, c *conn) error {
			src := source(serial, i)
			for n := 0; time.Now().Before(end) || n == 0; n++ {
				if err := c.pushNewImage(addr, fmt.Sprintf("scale/client-%d", i), fmt.Sprintf("v%d.%d", serial, n), src); err != nil {
					return err
				}
				images.Add(1)
			}
			return nil
		})
		return float64(images.Load()) / took.Seconds(), err
	})
}

// scaledImages is how many images are pulled.
const scaledImages = 64

// scaledPulls measures how many small images a second clients pull: the manifest by its
// tag, and all blobs.
func (b *bench) scaledPulls(ctx context.Context, all []scaled) (*figure, error) {
	const repo = "scale/pulled"
	src := source(1<<15, 0)
	var images []image
	for range scaledImages {
		img, err := newImage(src)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	for _, s := range []scaled{all[0], all[len(all)-1]} {
		_, err := spread(ctx, s, 1, func(_ int, addr string, c *conn) error {
			for i, img := range images {
				if err := c.pushImage(addr, repo, fmt.Sprint("v", i), img); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	f := &figure{Name: fmt.Sprintf("pulls of small images, %s", plural(b.small, "client")), Unit: "images/s"}
	return b.eachScaled(ctx, f, all, func(s scaled) (float64, error) {
		end := time.Now().Add(b.window)
		var pulled atomic.Int64
		took, err := spread(ctx, s, b.small, func(_ int, addr string, c *conn) error {
			for n := 0; time.Now().Before(end) || n == 0; n++ {
				i := rand.IntN(len(images))
				if err := c.pullImage(addr, repo, fmt.Sprint("v", i), images[i]); err != nil {
					return err
				}
				pulled.Add(1)
			}
			return nil
		})
		return float64(pulled.Load()) / took.Seconds(), err
	})
}

// pullImage reads a manifest and the blobs that it names.
func (c *conn) pullImage(addr, repo, tag string, img image) error {
	if _, err := c.do(http.StatusOK, request(http.MethodGet, addr, "/v2/"+repo+"/manifests/"+tag, acceptManifest)); err != nil {
		return err
	}
	for _, d := range img.digests {
		if _, err := c.do(http.StatusOK, request(http.MethodGet, addr, "/v2/"+repo+"/blobs/"+d.String())); err != nil {
			return err
		}
	}
	return nil
}

const acceptManifest = "Accept: application/vnd.oci.image.manifest.v1+json"

// one are those of the servers of which one client uses one.
func one(all []scaled) []scaled { return []scaled{all[0], all[len(all)-1]} }

// scaledBlobPush measures how fast one client pushes a great blob.
func (b *bench) scaledBlobPush(ctx context.Context, all []scaled) (*figure, error) {
	f := &figure{Name: fmt.Sprintf("push of %s, POST and PUT, 1 client", megabytes(b.blob)), Unit: "MB/s"}
	p := &pusher{bench: b, blob: random(b.blob, 3)}
	return b.eachScaled(ctx, f, one(all), func(s scaled) (float64, error) {
		return p.rate(ctx, (*conn).pushBlob, s.servers[0].addr)
	})
}

// scaledBlobPull measures how fast one client pulls a great blob.
func (b *bench) scaledBlobPull(ctx context.Context, all []scaled) (*figure, error) {
	const repo = "scale/blob"
	blob := random(b.blob, 4)
	d := digest.FromBytes(blob)
	f := &figure{Name: fmt.Sprintf("pull of %s, 1 client", megabytes(b.blob)), Unit: "MB/s"}
	for _, s := range one(all) {
		_, err := spread(ctx, s, 1, func(_ int, addr string, c *conn) error { return c.pushBlob(addr, repo, d, pieces(blob)...) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return b.eachScaled(ctx, f, one(all), func(s scaled) (float64, error) {
		return b.pullLoad(ctx, s.servers[0].addr, "/v2/"+repo+"/blobs/"+d.String(), pullLoad{1, 1})
	})
}
