package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// idleMemory measures what engines need while many containers do nothing: what a
// container adds to the memory of all processes but its own, each page shared
// out among those who have it (PSS), and what the daemons have resident. Each
// engine is alone on the host when it is measured.
func idleMemory(ctx context.Context, b *bench) ([]*figure, error) {
	plain, err := b.idleMemoryOf(ctx, "", engineNames, newContainer("", forever...))
	if err != nil {
		return nil, err
	}
	whole, err := b.idleMemoryOf(ctx, " "+withAll, []string{nameRunner, nameDocker}, b.wholeContainer(forever...))
	return append(plain, whole...), err
}

// idleMemoryOf measures it with containers of one kind.
func (b *bench) idleMemoryOf(ctx context.Context, kind string, names []string, c container) ([]*figure, error) {
	with := fmt.Sprintf(" with %s idle%s", plural(b.containers, "container"), kind)
	each := &figure{Name: "the engine's memory for each container," + with, Unit: "MB"}
	daemons := &figure{Name: "the daemons, resident," + with, Unit: "MB"}
	for run := range min(b.runs, 3) {
		for _, name := range names {
			engines, err := b.startWhole(ctx, name)
			if err != nil {
				return nil, err
			}
			e := engines[0]
			c.Image = b.smallImage() // of a registry that is new
			added, resident, err := b.measureIdle(ctx, e, c)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			progress("  run %d: %s adds %s MB for each container%s, %s MB are resident\n", run+1, name, format(added), kind, format(resident))
			each.add(name, added)
			daemons.add(name, resident)
			for len(b.servers) > 0 {
				if err := b.stop(b.servers[0], syscall.SIGTERM); err != nil {
					return nil, err
				}
			}
			if err := e.forget(); err != nil {
				return nil, err
			}
		}
	}
	each.value(nameRunner, atMost(0.5))
	daemons.value(nameRunner, atMost(60))
	for _, f := range []*figure{each, daemons} {
		for _, name := range names[1:] {
			f.value(name, bound{})
		}
	}
	return []*figure{each, daemons}, nil
}

// measureIdle returns, in MB, what each of many containers adds to the memory of
// the engine's processes, and what the daemons, which were there without any, then
// have resident.
func (b *bench) measureIdle(ctx context.Context, e *engine, c container) (added, resident float64, err error) {
	if err := b.stop(b.servers[0], syscall.SIGTERM); err != nil { // the registry
		return 0, 0, err
	}
	// What the first container brings about is not what the next ones add.
	id, err := e.running(ctx, c)
	if err != nil {
		return 0, 0, err
	}
	if err := errors.Join(e.exec(ctx, id, "true"), e.remove(ctx, id), b.rest(ctx)); err != nil {
		return 0, 0, err
	}
	before, err := engineProcesses()
	if err != nil {
		return 0, 0, err
	}
	ids, err := b.startMany(ctx, e, b.containers, c)
	if err == nil && c.Healthcheck != nil {
		err = e.healthy(ctx, len(ids))
	}
	if err := errors.Join(err, b.rest(ctx)); err != nil {
		return 0, 0, err
	}
	after, err := engineProcesses()
	if err != nil {
		return 0, 0, err
	}
	var first, last, daemons int64
	for pid, m := range before {
		first += m.pss
		daemons += after[pid].rss
	}
	for _, m := range after {
		last += m.pss
	}
	return toMB(last-first) / float64(b.containers), toMB(daemons), e.removeAll(ctx, ids)
}

// rest leaves the engine alone for a while.
func (b *bench) rest(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.settle):
		return nil
	}
}

// forget removes an engine's data, and what it keeps in /run, so that it can be
// started anew.
func (e *engine) forget() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if dir := strings.Fields(line)[1]; strings.HasPrefix(dir, e.dir+"/") || strings.HasPrefix(dir, "/run/") {
			_ = syscall.Unmount(dir, syscall.MNT_DETACH) // one below another may be gone with it
		}
	}
	return errors.Join(os.RemoveAll(e.dir), os.RemoveAll(runnerRun), os.RemoveAll(e.socket))
}

// processMemory is the memory of a process, in bytes.
type processMemory struct {
	pss int64 // pages that several have are shared out among them
	rss int64 // all pages
}

// engineProcesses returns the memory of all processes of this host by their IDs,
// but for those of containers, which have a namespace of their own, this one, and
// the host's first.
func engineProcesses() (map[int]processMemory, error) {
	mine, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	found := map[int]processMemory{}
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir)) // it is one
		theirs, err := os.Readlink(filepath.Join(dir, "ns", "pid"))
		if pid == 1 || pid == os.Getpid() || err != nil || theirs != mine {
			continue // of err: it has ended
		}
		pss, err1 := kilobytes(filepath.Join(dir, "smaps_rollup"), "Pss")
		rss, err2 := kilobytes(filepath.Join(dir, "smaps_rollup"), "Rss")
		switch err := errors.Join(err1, err2); {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH): // it has ended
		case err != nil:
			return nil, err
		default:
			found[pid] = processMemory{pss, rss}
		}
	}
	return found, nil
}

// kilobytes returns a field of a file as bytes.
func kilobytes(path, name string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}
