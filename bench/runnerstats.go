package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// statistics measures the share of a processor that the daemon takes, in the
// kernel too, while the statistics of many containers are read, each by a process
// of its own: one sample a second. Beside Docker, which with many does not keep up
// with the second, it is the time for a sample; of Docker that is dockerd's alone,
// without containerd and its shims.
func statistics(ctx context.Context, b *bench) ([]*figure, error) {
	engines, err := b.startEngines(ctx, nameRunner, nameDocker)
	if err != nil {
		return nil, err
	}
	few := &figure{Name: fmt.Sprintf("the daemon's time for a sample of one of %s", plural(b.containers, "container")), Unit: "ms"}
	var turns []turn
	for _, e := range engines {
		w, err := b.startWatch(ctx, e, b.containers)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		defer func() { _ = w.end() }() //nolint:gocritic // they are to go on until the end
		turns = append(turns, turn{e.name, e.server, func() (float64, error) {
			u, err := w.use(ctx)
			return milliseconds(u.cpu) / float64(u.samples), err
		}})
	}
	if err := b.interleave(ctx, few, turns...); err != nil {
		return nil, err
	}
	few.ratio(nameRunner, nameDocker, bound{})

	all := &figure{Name: fmt.Sprintf("%s at 1 Hz, the daemon's share of a core", plural(b.watched, "container")), Unit: "%"}
	more, err := b.startWatch(ctx, engines[0], b.watched-b.containers)
	if err != nil {
		return nil, err
	}
	defer func() { _ = more.end() }()
	// Those of the first figure go on.
	if err := b.interleave(ctx, all, turn{nameRunner, engines[0].server, func() (float64, error) {
		u, err := more.use(ctx)
		// A sample may lie just beside the window, and some are late on a busy machine.
		if want := int(0.9 * float64(more.n) * (u.took.Seconds() - 1)); err == nil && u.samples < want {
			err = fmt.Errorf("%d samples of %d containers in %s: want %d", u.samples, more.n, u.took, want)
		}
		return 100 * u.cpu.Seconds() / u.took.Seconds(), err
	}}); err != nil {
		return nil, err
	}
	all.value(nameRunner, atMost(10))
	return []*figure{few, all}, nil
}

// watch are processes that each read the statistics of a container, and write
// them to a file of their own.
type watch struct {
	engine *engine
	dir    string
	n      int
	during time.Duration
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// startWatch starts containers and processes that read their statistics, and waits
// until each has some.
func (b *bench) startWatch(ctx context.Context, e *engine, n int) (*watch, error) {
	progress("  %s starts %s\n", e.name, plural(n, "container"))
	ids, err := b.startMany(ctx, e, n, newContainer(b.smallImage(), forever...))
	if err != nil {
		return nil, err
	}
	w := &watch{engine: e, n: n, during: b.watch}
	if w.dir, err = os.MkdirTemp(runDir, "stats-"); err != nil {
		return nil, err
	}
	ctx, w.stop = context.WithCancel(ctx)
	for _, id := range ids {
		cmd := exec.CommandContext(ctx, "curl", "--silent", "--show-error", "--fail", "--no-buffer", "--unix-socket", e.socket,
			"--output", filepath.Join(w.dir, id), "http://"+e.name+apiVersion+"/containers/"+id+"/stats")
		if err := cmd.Start(); err != nil {
			return nil, errors.Join(err, w.end())
		}
		w.done.Go(func() { _ = cmd.Wait() }) // that it ended too soon shows what it did not read
	}
	for limit := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		least, _, err := w.samples()
		if err != nil || ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err(), w.end())
		}
		if least > 1 {
			return w, nil
		}
		if time.Now().After(limit) {
			return nil, errors.Join(errors.New("there are containers without statistics"), w.end())
		}
	}
}

// use is what a daemon took in a while, and what was read meanwhile.
type use struct {
	took, cpu time.Duration
	samples   int
}

// use lets the processes read for a while.
func (w *watch) use(ctx context.Context) (use, error) {
	_, before, err1 := w.samples()
	cpu, err2 := w.engine.proc.cpu()
	if err := errors.Join(err1, err2); err != nil {
		return use{}, err
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return use{}, ctx.Err()
	case <-time.After(w.during):
	}
	took := time.Since(began)
	later, err1 := w.engine.proc.cpu()
	_, after, err2 := w.samples()
	return use{took, later - cpu, after - before}, errors.Join(err1, err2)
}

// samples counts those that were read: of the container with the fewest, and of
// all.
func (w *watch) samples() (least, sum int, err error) {
	files, err := os.ReadDir(w.dir)
	if err != nil || len(files) < w.n {
		return 0, 0, err
	}
	for i, f := range files {
		text, err := os.ReadFile(filepath.Join(w.dir, f.Name()))
		if err != nil {
			return 0, 0, err
		}
		n := bytes.Count(text, []byte(`"read":`)) // Docker ends them with a line, or not
		if i == 0 || n < least {
			least = n
		}
		sum += n
	}
	return least, sum, nil
}

// end ends the processes. The containers end with their host.
func (w *watch) end() error {
	w.stop()
	w.done.Wait()
	return os.RemoveAll(w.dir)
}
