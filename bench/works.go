package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"
)

// work is one line of what berth promises, measured.
type work struct {
	name  string
	does  string
	needs []string // Debian packages of peers
	run   func(context.Context, *bench) ([]*figure, error)
}

// works are all there are, in the order in which they are done: those that write
// most come last, as what they leave to the disk may slow it down for a while.
var works = []work{
	{"pull", "a great blob by few and many clients", []string{"nginx-light", "docker-registry"}, pull},
	{"manifest", "a manifest read by tag", []string{"docker-registry"}, manifest},
	{"small", "many small images", []string{"docker-registry"}, small},
	{"push", "a great blob by one client", []string{"docker-registry"}, push},
	{"pages", "a page of a short and of a long list", nil, pages},
	{"start", "from start to the first answer", nil, start},
	{"growth", "cost by what is stored", nil, growth},
	{"memory", "resident memory, idle and under load", []string{"docker-registry"}, memoryUse},
}

func workNames() []string {
	var names []string
	for _, w := range works {
		names = append(names, w.name)
	}
	return names
}

// choose returns the works with the names given, or all.
func choose(names []string) ([]work, error) {
	if len(names) == 0 {
		return works, nil
	}
	var chosen []work
	for _, n := range names {
		i := slices.IndexFunc(works, func(w work) bool { return w.name == n })
		if i < 0 {
			return nil, fmt.Errorf("%w: no work %q; there are %v", errUsage, n, workNames())
		}
		chosen = append(chosen, works[i])
	}
	return chosen, nil
}

// turn is one server's part of a figure: it measures once.
type turn struct {
	of      string
	server  *server
	measure func() (float64, error)
}

// interleave lets each of the turns measure once, b.runs times over, and adds
// what they return to f. What is not yet on disk is written before each turn, so
// that none pays for the one before.
func (b *bench) interleave(ctx context.Context, f *figure, turns ...turn) error {
	for run := range b.runs {
		progress("  %s, run %d of %d:", f.Name, run+1, b.runs)
		for _, t := range turns {
			if err := ctx.Err(); err != nil {
				return err
			}
			syscall.Sync()
			value, err := b.profiled(ctx, run, f, t)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", f.Name, t.of, err)
			}
			progress(" %s %s", t.of, format(value))
			f.add(t.of, value)
		}
		progress(" %s\n", f.Unit)
	}
	return nil
}

// progress tells who waits how far the benchmark is.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format, args...) }
