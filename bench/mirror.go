package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/berth-registry/berth/registry"
)

const (
	// mirrorRepo and mirrorMany are the repositories in the upstream of the image that
	// one client pulls, and of a smaller one that many do.
	mirrorRepo = "bench/image"
	mirrorMany = "bench/small"
	mirrorTag  = "v1"
	// mirrorPrefix is that of the mirror in berth.
	mirrorPrefix = "hub"
	// mirrorLayers is how many blobs the image has, and mirrorAtOnce how many of them
	// a client pulls at once: as many as docker does.
	mirrorLayers = 4
	mirrorAtOnce = 3
	// mirrorCrowd is how many clients pull what is not there yet.
	mirrorCrowd = 64
	// mirrorLink is how many MB a second come from an upstream that is not on the same
	// machine: 1 Gb/s.
	mirrorLink = 119
)

const (
	nameDirect = "direct"
	nameLocalB = "berth, pushed"
)

// mirrors measures the pull of an image through a mirror that does not have it, beside
// the pull of the same image from the upstream itself, a berth, and beside
// docker-registry as a cache of it; once over a link of 1 Gb/s, and once over the
// loopback interface alone: there the direct pull is a copy of memory on the same
// processors, while a mirror also hashes and writes each byte. Then it measures the
// pull of what a mirror has, beside the pull of what was pushed; and what many clients
// that pull at once cost the upstream. Each cold pull has a server of its own, new and
// empty. The clients read and do nothing with it.
func mirrors(ctx context.Context, b *bench) ([]*figure, error) {
	m := &mirrorBench{bench: b}
	if err := m.prepare(ctx); err != nil {
		return nil, err
	}
	defer m.near.close()
	defer m.far.close()
	var figures []*figure
	for _, measure := range []func(context.Context) (*figure, error){m.coldFar, m.coldNear, m.warm, m.crowd} {
		f, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		figures = append(figures, f)
	}
	return figures, nil
}

// mirrorBench is an upstream with an image.
type mirrorBench struct {
	*bench
	upstream  *server
	near, far *link       // ways to it: as fast as it goes, and 1 Gb/s
	image     mirrorImage // that one client pulls
	small     mirrorImage // that many do
}

// prepare starts the upstream.
func (m *mirrorBench) prepare(ctx context.Context) error {
	s, args, err := m.newBerth("upstream")
	if err != nil {
		return err
	}
	err = seeded(ctx, s.data(), func(r registry.Registry) (err error) {
		if m.image, err = pushMirrored(ctx, r, mirrorRepo, m.mirrored); err == nil {
			m.small, err = pushMirrored(ctx, r, mirrorMany, m.mirroredByMany)
		}
		return err
	})
	if err != nil {
		return err
	}
	if m.upstream, err = m.start(ctx, s, "/readyz", m.binary, args...); err != nil {
		return err
	}
	if m.near, err = newLink(ctx, m.upstream.addr, 0); err != nil {
		return err
	}
	m.far, err = newLink(ctx, m.upstream.addr, mirrorLink*mb)
	return err
}

// coldFar is a pull over a link that is slower than the mirror.
func (m *mirrorBench) coldFar(ctx context.Context) (*figure, error) {
	return m.cold(ctx, fmt.Sprintf("cold, %s over 1 Gb/s", megabytes(m.image.size)), m.far, atMost(1.1))
}

// coldNear is one from an upstream on the same machine: what it costs to verify and
// keep an image then shows beside nothing but a copy.
func (m *mirrorBench) coldNear(ctx context.Context) (*figure, error) {
	return m.cold(ctx, fmt.Sprintf("cold, %s over loopback", megabytes(m.image.size)), m.near, atMost(1.1))
}

func (m *mirrorBench) cold(ctx context.Context, name string, l *link, goal bound) (*figure, error) {
	f := &figure{Name: name, Unit: "s"}
	turns := []turn{{of: nameDirect, measure: func() (float64, error) {
		elapsed, err := m.image.pull(ctx, l.addr, "", 1)
		return elapsed.Seconds(), err
	}}}
	for _, c := range m.caches() {
		turns = append(turns, turn{of: c.name, measure: func() (float64, error) {
			return m.fresh(ctx, f, c, l, func(addr string) (float64, error) {
				elapsed, err := m.image.pull(ctx, addr, c.prefix, 1)
				return elapsed.Seconds(), err
			})
		}})
	}
	if err := m.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(nameBerth, nameDirect, goal)
	f.ratio(nameBerth, nameDockerRegistry, bound{})
	return f, nil
}

// warm is the pull of what the mirror has.
func (m *mirrorBench) warm(ctx context.Context) (*figure, error) {
	f := &figure{Name: fmt.Sprintf("warm, %s", megabytes(m.image.size)), Unit: "MB/s"}
	turns := []turn{}
	add := func(name string, s *server, prefix string) error {
		measure := func() (float64, error) {
			elapsed, err := m.image.pull(ctx, s.addr, prefix, 1)
			return float64(m.image.size) / mb / elapsed.Seconds(), err
		}
		turns = append(turns, turn{name, s, measure})
		_, err := measure() // fills the cache
		return err
	}
	for _, c := range m.caches() {
		s, err := c.start(ctx, m.near)
		if err != nil {
			return nil, err
		}
		if err := add(c.name, s, c.prefix); err != nil {
			return nil, err
		}
	}
	if err := add(nameLocalB, m.upstream, ""); err != nil {
		return nil, err
	}
	if err := m.shortTurns(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(nameBerth, nameLocalB, atLeast(0.95))
	f.ratio(nameBerth, nameDockerRegistry, bound{})
	for _, s := range m.servers[1:] {
		if err := errors.Join(m.stop(s, syscall.SIGTERM), os.RemoveAll(s.dir)); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// crowd is how much of the image many clients that pull it at once have the upstream
// send.
func (m *mirrorBench) crowd(ctx context.Context) (*figure, error) {
	f := &figure{Name: fmt.Sprintf("cold, %s by %d clients, sent by the upstream", megabytes(m.small.size), mirrorCrowd), Unit: "images"}
	var turns []turn
	for _, c := range m.caches() {
		turns = append(turns, turn{of: c.name, measure: func() (float64, error) {
			return m.fresh(ctx, f, c, m.near, func(addr string) (float64, error) {
				before := m.near.bytes.Load()
				_, err := m.small.pull(ctx, addr, c.prefix, mirrorCrowd)
				return float64(m.near.bytes.Load()-before) / float64(m.small.size), err
			})
		}})
	}
	if err := m.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.value(nameBerth, atMost(1.01)) // heads of answers are counted, too
	f.value(nameDockerRegistry, bound{})
	return f, nil
}

// mirrorCache is a registry that can be a cache of another.
type mirrorCache struct {
	name   string
	prefix string // of the upstream's repositories
	start  func(context.Context, *link) (*server, error)
}

func (m *mirrorBench) caches() []mirrorCache {
	return []mirrorCache{
		{nameBerth, mirrorPrefix + "/", m.startMirror},
		{nameDockerRegistry, "", func(ctx context.Context, l *link) (*server, error) {
			return m.startDockerRegistryWith(ctx, fmt.Sprintf("proxy: {remoteurl: %q}\n", "http://"+l.addr))
		}},
	}
}

func (m *mirrorBench) startMirror(ctx context.Context, l *link) (*server, error) {
	s, args, err := m.newBerth("mirror")
	if err != nil {
		return nil, err
	}
	config, err := s.configure(fmt.Sprintf("mirrors: [{name: %s, upstream: %q}]\n", mirrorPrefix, "http://"+l.addr))
	if err != nil {
		return nil, err
	}
	return m.start(ctx, s, "/readyz", m.binary, append(args, "--config", config)...)
}

// fresh measures with a cache that is empty, and removes it.
func (m *mirrorBench) fresh(ctx context.Context, f *figure, c mirrorCache, l *link, measure func(addr string) (float64, error)) (float64, error) {
	once := func(profiled bool) (float64, error) {
		s, err := c.start(ctx, l)
		if err != nil {
			return 0, err
		}
		var value float64
		if profiled {
			err = m.whileProfiled(ctx, f, turn{c.name, s, func() (float64, error) { return measure(s.addr) }})
		} else {
			value, err = measure(s.addr)
		}
		return value, errors.Join(err, m.stop(s, syscall.SIGTERM), os.RemoveAll(s.dir))
	}
	if m.profiles != "" && c.name == nameBerth && len(f.of(c.name).Values) == 0 {
		if _, err := once(true); err != nil {
			return 0, err
		}
	}
	return once(false)
}
