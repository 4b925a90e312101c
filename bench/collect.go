package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// collect measures how long 'berth gc' takes, as a user runs it beside a server,
// for so much garbage in a registry that has little else, and in one that has very
// much: to find garbage must not cost what is stored.
func collect(ctx context.Context, b *bench) ([]*figure, error) {
	f := &figure{Name: fmt.Sprintf("%s blobs of garbage", thousands(b.garbage)), Unit: "s"}
	var turns []turn
	for _, stored := range []int{b.stored, b.garbage} {
		of := fmt.Sprintf("of %s blobs", thousands(stored))
		s, _, err := b.newBerth(thousands(stored))
		if err != nil {
			return nil, err
		}
		kept := max(stored-b.garbage, 1)
		if err := seeded(ctx, s.data(), func(w registry.Registry) error { return b.seedMany(ctx, w, kept) }); err != nil {
			return nil, err
		}
		if s, err = b.startBerth(ctx, thousands(stored)); err != nil {
			return nil, err
		}
		measure := func() (float64, error) { return b.timeCollection(ctx, s) }
		if _, err := measure(); err != nil { // warms up
			return nil, err
		}
		turns = append(turns, turn{of, s, measure})
	}
	if err := b.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(turns[0].of, turns[1].of, atMost(2))
	return []*figure{f}, nil
}

// timeCollection pushes blobs and deletes them, and returns how many seconds it
// takes to collect them.
func (b *bench) timeCollection(ctx context.Context, s *server) (float64, error) {
	const repo = "collect/garbage"
	b.serial++
	_, err := together(ctx, s.addr, b.small, func(i int, c *conn) error {
		for n := i; n < b.garbage; n += b.small {
			blob := fmt.Appendf(nil, "garbage %d of run %d", n, b.serial)
			d := digest.FromBytes(blob)
			if err := c.pushBlob(s.addr, repo, d, blob); err != nil {
				return err
			}
			if _, err := c.do(http.StatusAccepted, request(http.MethodDelete, s.addr, "/v2/"+repo+"/blobs/"+string(d))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	took, err := b.collectAll(ctx, s, b.garbage)
	return took.Seconds(), err
}

// collectAll has a berth collect its garbage, of which there must be so many
// stored blobs, and returns how long that took.
func (b *bench) collectAll(ctx context.Context, s *server, blobs int) (time.Duration, error) {
	cmd := b.collection(ctx, s)
	began := time.Now()
	out, err := cmd.Output()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("berth gc: %w: %s", err, cmd.Stderr)
	}
	var sum struct{ Blobs, Failed int }
	if err := json.Unmarshal(out, &sum); err != nil {
		return 0, fmt.Errorf("berth gc: %w", err)
	}
	if sum.Blobs != blobs || sum.Failed != 0 {
		return 0, fmt.Errorf("berth gc removed %d blobs and failed to remove %d, of %d", sum.Blobs, sum.Failed, blobs)
	}
	return took, nil
}

// collection is the command that collects the garbage of a berth. Its Stderr is a
// buffer.
func (b *bench) collection(ctx context.Context, s *server) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.binary, "gc", "--json", "--data", s.data())
	cmd.Stderr = new(strings.Builder)
	return cmd
}

// seedGarbage stores n blobs and deletes them again, so that their bytes are
// garbage.
func seedGarbage(ctx context.Context, r registry.Registry, n int) error {
	const repo = "seed/garbage"
	return parallel(n, func(i int) error {
		blob := fmt.Appendf(nil, "seeded garbage %d", i)
		d := digest.FromBytes(blob)
		if _, err := r.PushBlob(ctx, repo, d, bytes.NewReader(blob)); err != nil {
			return err
		}
		return r.DeleteBlob(ctx, repo, d)
	})
}
