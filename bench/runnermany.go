package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// many measures how long several clients take to start containers over the API,
// which are then running.
func many(ctx context.Context, b *bench) ([]*figure, error) {
	engines, err := b.startEngines(ctx, engineNames...)
	if err != nil {
		return nil, err
	}
	f := &figure{Name: fmt.Sprintf("%s started with %s", plural(b.containers, "container"), plural(b.starters, "client")), Unit: "s"}
	var turns []turn
	for _, e := range engines {
		measure := func() (float64, error) {
			began := time.Now()
			ids, err := b.startMany(ctx, e, b.containers, newContainer(b.smallImage(), forever...))
			took := time.Since(began)
			if err := errors.Join(err, e.list(ctx, runningPath, len(ids))); err != nil {
				return 0, err
			}
			return took.Seconds(), e.removeAll(ctx, ids)
		}
		turns = append(turns, turn{e.name, e.server, measure})
	}
	if err := b.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(nameRunner, nameDocker, atMost(0.3))
	f.ratio(nameRunner, namePodman, bound{})
	return []*figure{f}, nil
}

// startMany starts n containers and returns their IDs.
func (b *bench) startMany(ctx context.Context, e *engine, n int, c container) ([]string, error) {
	ids := make([]string, n)
	return ids, manyOf(n, b.starters, func(i int) error {
		var err error
		ids[i], err = e.running(ctx, c)
		return err
	})
}

// listMany measures docker ps, and what of it the API takes, with many
// containers that have everything. They were created and never started, which the
// command lists with -a. What the command itself takes shows a server that has the answer ready.
func listMany(ctx context.Context, b *bench) ([]*figure, error) {
	engines, err := b.startWhole(ctx, nameRunner, nameDocker)
	if err != nil {
		return nil, err
	}
	for _, e := range engines {
		if err := b.createMany(ctx, e); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	bare, err := b.startBare(ctx, engines[0].http, "http://"+nameRunner+apiVersion+listPath)
	if err != nil {
		return nil, err
	}
	with := fmt.Sprintf(" with %s created containers %s", thousands(b.listed), withAll)
	command := &figure{Name: "docker ps -a" + with, Unit: "ms"}
	turns, err := b.engineTurns(engines, func(e *engine) error { return runQuietly(e.command(ctx, "ps", "-a")) })
	if err != nil {
		return nil, err
	}
	turns = append(turns, turn{nameBare, nil, func() (float64, error) {
		return b.short(func() error { return runQuietly(dockerCommand(ctx, "tcp://"+bare.addr, "ps", "-a")) })
	}})
	if err := b.interleave(ctx, command, turns...); err != nil {
		return nil, err
	}
	command.value(nameRunner, atMost(50))
	command.ratio(nameRunner, nameDocker, bound{})
	command.ratio(nameRunner, nameBare, bound{})

	api := &figure{Name: "of that the API" + with, Unit: "ms"}
	if turns, err = b.engineTurns(engines, func(e *engine) error { return e.list(ctx, listPath, b.listed) }); err != nil {
		return nil, err
	}
	if err := b.interleave(ctx, api, turns...); err != nil {
		return nil, err
	}
	api.ratio(nameRunner, nameDocker, bound{})

	// Other work on the machine does not disturb this one.
	spent := &figure{Name: "the daemon's processor time for that" + with, Unit: "ms"}
	turns = nil
	for _, e := range engines {
		turns = append(turns, turn{e.name, e.server, func() (float64, error) { return b.spentListing(ctx, e) }})
	}
	if err := b.interleave(ctx, spent, turns...); err != nil {
		return nil, err
	}
	spent.ratio(nameRunner, nameDocker, bound{})
	return []*figure{command, api, spent}, nil
}

// spentListing returns the processor time, in ms, that a daemon takes to list its
// containers once.
func (b *bench) spentListing(ctx context.Context, e *engine) (float64, error) {
	before, err := e.proc.cpu()
	if err != nil {
		return 0, err
	}
	for range b.repeats {
		if err := e.list(ctx, listPath, b.listed); err != nil {
			return 0, err
		}
	}
	after, err := e.proc.cpu()
	return milliseconds(after-before) / float64(b.repeats), err
}

// createMany creates containers that are not started.
func (b *bench) createMany(ctx context.Context, e *engine) error {
	progress("  %s creates %s containers\n", e.name, thousands(b.listed))
	c := b.wholeContainer("true")
	return manyOf(b.listed, b.starters, func(int) error {
		_, err := e.create(ctx, c)
		return err
	})
}

// Where the API lists containers: all there are, and those that run.
const (
	listPath    = "/containers/json?all=1"
	runningPath = "/containers/json"
)

// list lists containers over the API, which must be at least n.
func (e *engine) list(ctx context.Context, path string, n int) error {
	var list []struct{ ID string }
	if err := e.call(ctx, http.MethodGet, path, nil, &list); err != nil {
		return err
	}
	if len(list) < n {
		return fmt.Errorf("a list of %d containers, want %d", len(list), n)
	}
	return nil
}
