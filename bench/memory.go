package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// memoryUse measures the resident memory of servers, idle and while clients each
// push and pull a great blob at the same time. The load is run once: it is the
// peak that counts.
func memoryUse(ctx context.Context, b *bench) ([]*figure, error) {
	if err := b.fitMemory(); err != nil {
		return nil, err
	}
	idle := &figure{Name: "idle, resident", Unit: "MB"}
	idleAnon := &figure{Name: "idle, of that not backed by a file", Unit: "MB"}
	load := fmt.Sprintf("%d clients each push and pull %s", b.memoryLoad, megabytes(b.memory))
	busy := &figure{Name: load + ", resident above idle", Unit: "MB"}
	busyAnon := &figure{Name: load + ", of that not backed by a file", Unit: "MB"}
	for _, start := range []func(context.Context) (*server, error){
		func(ctx context.Context) (*server, error) { return b.startBerth(ctx, nameBerth) },
		b.startDockerRegistry,
	} {
		for run := range b.runs {
			s, err := start(ctx)
			if err != nil {
				return nil, err
			}
			m, err := s.idle(ctx, b.settle)
			if err != nil {
				return nil, err
			}
			idle.add(s.name, toMB(m.rss))
			idleAnon.add(s.name, toMB(m.anon))
			if run == b.runs-1 {
				peak, err := b.memoryUnderLoad(ctx, s)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", s.name, err)
				}
				busy.add(s.name, toMB(peak.rss-m.rss))
				busyAnon.add(s.name, toMB(peak.anon-m.anon))
			}
			if err := errors.Join(b.stop(s, syscall.SIGTERM), os.RemoveAll(s.dir)); err != nil {
				return nil, err
			}
		}
	}
	idle.value(nameBerth, atMost(25))
	busy.value(nameBerth, atMost(64))
	figures := []*figure{idle, idleAnon, busy, busyAnon}
	for _, f := range figures {
		if len(f.Verdicts) == 0 {
			f.value(nameBerth, bound{})
		}
		f.value(nameDockerRegistry, bound{})
		progress("  %s: %s %s, %s %s MB\n", f.Name, nameBerth, format(f.of(nameBerth).Median), nameDockerRegistry, format(f.of(nameDockerRegistry).Median))
	}
	return figures, nil
}

// fitMemory reduces the size to what the disk has room for, and says so: every
// upload is on disk by itself until it is committed.
func (b *bench) fitMemory() error {
	free, err := freeSpace(b.dir)
	if err != nil {
		return err
	}
	const reserve = 4096 * mb
	most := (free - reserve) / int64(b.memoryLoad+1)
	if most < mb {
		return fmt.Errorf("%s has %s free: too little", b.dir, megabytes(free))
	}
	if b.memory > most {
		b.memory = most / mb * mb
		progress("  %s has %s free: each client pushes and pulls %s only\n", b.dir, megabytes(free), megabytes(b.memory))
	}
	return nil
}

// idle returns the memory of a server that has just started and was then left
// alone for a while.
func (s *server) idle(ctx context.Context, settle time.Duration) (memory, error) {
	select {
	case <-ctx.Done():
		return memory{}, ctx.Err()
	case <-time.After(settle):
	}
	return s.proc.memory()
}

// memoryUnderLoad returns the greatest memory of s while clients push and pull.
// They push the same bytes, into repositories of their own.
func (b *bench) memoryUnderLoad(ctx context.Context, s *server) (memory, error) {
	const repo = "memory/pulled"
	pulled, pushed := repeated(b.memory, 1), repeated(b.memory, 2)
	if _, err := together(ctx, s.addr, 1, func(_ int, c *conn) error {
		return c.pushBlob(s.addr, repo, digestOf(pulled), pulled...)
	}); err != nil {
		return memory{}, err
	}
	get := request(http.MethodGet, s.addr, "/v2/"+repo+"/blobs/"+string(digestOf(pulled)))
	d := digestOf(pushed)
	if err := s.proc.resetPeak(); err != nil {
		return memory{}, err
	}
	anon := s.proc.watchAnon()
	_, err := together(ctx, s.addr, 2*b.memoryLoad, func(i int, c *conn) error {
		if i%2 == 0 {
			return c.pushBlob(s.addr, fmt.Sprintf("memory/pushed-%d", i), d, pushed...)
		}
		_, err := c.do(http.StatusOK, get)
		return err
	})
	peak := memory{anon: anon()}
	if err != nil {
		return peak, err
	}
	m, err := s.proc.memory()
	peak.rss = m.peak
	return peak, err
}

// watchAnon samples anonymous memory until the function that it returns is
// called, which returns the greatest: the kernel keeps no peak of it.
func (p *process) watchAnon() func() int64 {
	var most int64
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if m, err := p.memory(); err == nil {
				most = max(most, m.anon)
			}
			select {
			case <-quit:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int64 {
		close(quit)
		<-done
		return most
	}
}

// repeated returns n bytes, a random piece again and again, so that this
// process holds only one.
func repeated(n int64, seed uint64) [][]byte {
	p := random(piece, seed)
	var out [][]byte
	for ; n > 0; n -= piece {
		out = append(out, p[:min(n, piece)])
	}
	return out
}

func digestOf(body [][]byte) digest.Digest {
	d := digest.Canonical.Digester()
	for _, b := range body {
		d.Hash().Write(b) // never fails
	}
	return d.Digest()
}

func toMB(n int64) float64 { return float64(n) / mb }
