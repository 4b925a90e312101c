package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// namePipe is a shell that does what a pull has to do at least: each layer is
// downloaded, decompressed by the fastest program there is, and unpacked, two at a
// time.
const namePipe = "shell pipe"

// unpack measures a pull of an image of several layers from a berth on the same
// host, to the end of the request: all of it is then unpacked.
func unpack(ctx context.Context, b *bench) ([]*figure, error) {
	r, err := b.startImages(ctx, b.putGreat)
	if err != nil {
		return nil, err
	}
	var engines []*engine
	for _, name := range engineNames {
		e, err := b.startEngine(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		engines = append(engines, e)
	}
	f := &figure{Name: fmt.Sprintf("%s gzip, %s unpacked, %s", megabytes(r.packed), megabytes(b.image), plural(len(layerShares), "layer")), Unit: "s"}
	var turns []turn
	for _, e := range engines {
		turns = append(turns, turn{e.name, e.server, func() (float64, error) {
			began := time.Now()
			if err := e.pull(ctx, r.great()); err != nil {
				return 0, err
			}
			took := time.Since(began)
			return took.Seconds(), e.removeImage(ctx, r.great())
		}})
	}
	turns = append(turns, turn{namePipe, nil, func() (float64, error) { return b.pipe(ctx, r) }})
	if err := b.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(nameRunner, nameDocker, atMost(0.6))
	f.ratio(nameRunner, namePipe, atMost(1.3))
	f.ratio(nameRunner, namePodman, bound{})
	return []*figure{f}, nil
}

const pipeScript = `url=$1 dir=$2; shift 2
printf '%s\n' "$@" | xargs -P 2 -I LAYER bash -o pipefail -c "curl --silent --show-error --fail $url/LAYER | igzip -d -c | tar -x -C $dir"`

// pipe returns the seconds that the shell takes.
func (b *bench) pipe(ctx context.Context, r *images) (float64, error) {
	dir := filepath.Join(b.dir, "pipe")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	args := []string{"-c", pipeScript, "bash", "http://" + r.addr + "/v2/" + repoGreat + "/blobs", dir}
	for _, d := range r.layers {
		args = append(args, d.String())
	}
	began := time.Now()
	err := runQuietly(exec.CommandContext(ctx, "bash", args...))
	took := time.Since(began)
	return took.Seconds(), errors.Join(err, os.RemoveAll(dir))
}
