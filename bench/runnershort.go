package main

import (
	"context"
	"fmt"
	"time"
)

// engineNames are the engines that are compared; berth-runner is the first.
var engineNames = []string{nameRunner, nameDocker, namePodman}

// runCommand measures the docker command that runs a short container, and
// podman's own.
func runCommand(ctx context.Context, b *bench) ([]*figure, error) {
	engines, err := b.startWhole(ctx, engineNames...)
	if err != nil {
		return nil, err
	}
	f := &figure{Name: "docker run --rm busybox true, default network", Unit: "ms"}
	image := b.smallImage()
	turns, err := b.engineTurns(engines, func(e *engine) error { return runQuietly(e.command(ctx, "run", "--rm", image, "true")) })
	if err != nil {
		return nil, err
	}
	if err := b.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(nameRunner, nameDocker, atMost(0.3))
	f.ratio(nameRunner, namePodman, bound{})
	whole := &figure{Name: "docker run --rm busybox true, " + withAll, Unit: "ms"}
	turns, err = b.engineTurns(engines[:2], func(e *engine) error { return runQuietly(e.command(ctx, b.wholeArgs("true")...)) })
	if err != nil {
		return nil, err
	}
	if err := b.interleave(ctx, whole, turns...); err != nil {
		return nil, err
	}
	whole.ratio(nameRunner, nameDocker, atMost(0.3))
	return []*figure{f, whole}, nil
}

// cycle measures the life of a short container over the API, beside the OCI
// runtime alone.
func cycle(ctx context.Context, b *bench) ([]*figure, error) {
	engines, err := b.startWhole(ctx, engineNames...)
	if err != nil {
		return nil, err
	}
	var bare []turn
	for _, name := range []string{nameBareRun, nameBareFilter} {
		r, err := b.newBareRun(ctx, engines[0], name)
		if err != nil {
			return nil, err
		}
		bare = append(bare, turn{name, nil, func() (float64, error) { return b.short(func() error { return r.run(ctx) }) }})
	}
	f := &figure{Name: "create, start, wait, remove, default network", Unit: "ms"}
	if err := b.cycles(ctx, f, engines, newContainer(b.smallImage(), "true"), bare...); err != nil {
		return nil, err
	}
	f.ratio(nameRunner, nameBareRun, atMost(2.5))
	f.ratio(nameRunner, nameBareFilter, bound{})
	f.ratio(nameRunner, nameDocker, bound{})
	f.ratio(nameRunner, namePodman, bound{})
	whole := &figure{Name: "the same " + withAll, Unit: "ms"}
	if err := b.cycles(ctx, whole, engines[:2], b.wholeContainer("true"), bare...); err != nil {
		return nil, err
	}
	whole.ratio(nameRunner, nameBareRun, atMost(2.5))
	whole.ratio(nameRunner, nameDocker, bound{})
	return []*figure{f, whole}, nil
}

// cycles measures the life of a container with engines, beside others.
func (b *bench) cycles(ctx context.Context, f *figure, engines []*engine, c container, others ...turn) error {
	turns, err := b.engineTurns(engines, func(e *engine) error {
		id, err := e.running(ctx, c)
		if err != nil {
			return err
		}
		if err := e.wait(ctx, id); err != nil {
			return err
		}
		return e.remove(ctx, id)
	})
	if err != nil {
		return err
	}
	return b.interleave(ctx, f, append(turns, others...)...)
}

// execTrue measures a command in a running container over the API.
func execTrue(ctx context.Context, b *bench) ([]*figure, error) {
	engines, err := b.startEngines(ctx, engineNames...)
	if err != nil {
		return nil, err
	}
	ids := map[*engine]string{}
	for _, e := range engines {
		if ids[e], err = e.running(ctx, newContainer(b.smallImage(), forever...)); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	f := &figure{Name: "true: create, start, all output, exit code", Unit: "ms"}
	turns, err := b.engineTurns(engines, func(e *engine) error { return e.exec(ctx, ids[e], "true") })
	if err != nil {
		return nil, err
	}
	if err := b.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(nameRunner, nameDocker, atMost(0.4))
	f.ratio(nameRunner, namePodman, bound{})
	return []*figure{f}, nil
}

// engineTurns returns a turn of each engine, which does something short several
// times, and has done it once to warm up.
func (b *bench) engineTurns(engines []*engine, do func(*engine) error) ([]turn, error) {
	var turns []turn
	for _, e := range engines {
		if err := do(e); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		turns = append(turns, turn{e.name, e.server, func() (float64, error) {
			return b.short(func() error { return do(e) })
		}})
	}
	return turns, nil
}

// short returns the median time, in ms, of something short that is done several
// times, one after the other.
func (b *bench) short(do func() error) (float64, error) {
	var took []float64
	for range b.repeats {
		one, err := timed(do)
		if err != nil {
			return 0, err
		}
		took = append(took, one)
	}
	return summarize(took).Median, nil
}

// timed returns the time of one, in ms.
func timed(do func() error) (float64, error) {
	began := time.Now()
	err := do()
	return milliseconds(time.Since(began)), err
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
