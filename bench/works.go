package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
)

// The parts of Berth that works measure: each has its section of the README and
// of the results.
const (
	partRegistry = "registry"
	partRunner   = "runner"
	partDeploy   = "deploy"
)

var parts = []string{partRegistry, partRunner, partDeploy}

// work is one line of what berth promises, measured.
type work struct {
	part  string
	name  string
	does  string
	needs []string // programs of peers and tools, see packages
	run   func(context.Context, *bench) ([]*figure, error)
}

// works are all there are, in the order in which they are done: those that write
// most come last, as what they leave to the disk may slow it down for a while.
var works = []work{
	{partRegistry, "pull", "a great blob by few and many clients", []string{nameNginx, nameDockerRegistry}, pull},
	{partRegistry, "manifest", "a manifest read by tag", []string{nameDockerRegistry}, manifest},
	{partRegistry, "access", "a manifest read by somebody, beside one read by anybody", nil, access},
	{partRegistry, "policy", "who may do what, by many rules", nil, decisions},
	{partRegistry, "small", "many small images", []string{nameDockerRegistry}, small},
	{partRegistry, "push", "a great blob by one client", []string{nameDockerRegistry}, push},
	{partRegistry, "mirror", "an image of another registry, cold and warm", []string{nameDockerRegistry}, mirrors},
	{partRegistry, "pages", "a page of a short and of a long list", nil, pages},
	{partRegistry, "start", "from start to the first answer", nil, start},
	{partRegistry, "growth", "cost by what is stored", nil, growth},
	{partRegistry, "collect", "garbage found among much that is none", nil, collect},
	{partRegistry, "collect-push", "pushes during a collection", nil, collectPush},
	{partRegistry, "delete", "deletes, until the bytes are gone", []string{nameDockerRegistry}, deletes},
	{partRegistry, "scale", "replicas on S3 and PostgreSQL", []string{nameDockerRegistry, nameS3, postgresProgram, "setpriv"}, scaleOut},
	{partRegistry, "memory", "resident memory, idle and under load", []string{nameDockerRegistry}, memoryUse},
	{partRunner, "run", "a short container by the docker command", engineTools, runCommand},
	{partRunner, "cycle", "the life of a container over the API", engineTools, cycle},
	{partRunner, "exec", "a command in a running container", engineTools, execTrue},
	{partRunner, "many", "containers started by several clients", engineTools, many},
	{partRunner, "ps", "a list of many containers", engineTools, listMany},
	{partRunner, "idle", "memory of idle containers", engineTools, idleMemory},
	{partRunner, "stats", "the statistics of many containers", append([]string{"curl"}, engineTools...), statistics},
	{partRunner, "names", "a container found by name", engineTools, lookupNames},
	{partRunner, "build", "an image built, cold and cached", append([]string{nameBuildx, "runc"}, engineTools...), buildImage},
	{partRunner, "host", "a container beside its host", append([]string{"iperf3", "sysbench"}, engineTools...), hostRatios},
	{partRunner, "unpack", "an image pulled and unpacked", append([]string{"curl", "igzip"}, engineTools...), unpack},
	{partDeploy, "switch", "what the switch costs the data path", append([]string{"nsenter"}, engineTools...), switched},
	{partDeploy, "follow", "from a tag's move to traffic on the new version", engineTools, follow},
	{partDeploy, "rollback", "back to the version before", engineTools, rollback},
	{partDeploy, "update", "requests that fail during an update", append([]string{nameComposeTool}, engineTools...), updates},
	{partDeploy, "watch", "nodes that follow a tag", nil, watching},
}

func workNames() []string {
	var names []string
	for _, w := range works {
		names = append(names, w.name)
	}
	return names
}

// choose returns the works with the names given, a part's for its name, or all.
func choose(names []string) ([]work, error) {
	if len(names) == 0 {
		return works, nil
	}
	var chosen []work
	for _, n := range names {
		before := len(chosen)
		for _, w := range works {
			if w.name == n || w.part == n {
				chosen = append(chosen, w)
			}
		}
		if len(chosen) == before {
			return nil, fmt.Errorf("%w: no work %q; there are %v, and %v for all of a part", errUsage, n, workNames(), parts)
		}
	}
	return chosen, nil
}

// partOf returns those of the works that measure a part.
func partOf(works []work, part string) []work {
	return slices.DeleteFunc(slices.Clone(works), func(w work) bool { return w.part != part })
}

// needsRunner says whether works take berth-runner, and so root.
func needsRunner(works []work) bool {
	return len(partOf(works, partRegistry)) < len(works)
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

// turnsOfRun is how many turns each server has in a run of shortTurns.
const turnsOfRun = 10

// shortTurns is interleave for figures that differ by some percent only: in each run
// there are many short turns, of whose values the median counts, and each begins as
// often as the others.
func (b *bench) shortTurns(ctx context.Context, f *figure, turns ...turn) error {
	for run := range b.runs {
		progress("  %s, run %d of %d:", f.Name, run+1, b.runs)
		syscall.Sync()
		values := make([][]float64, len(turns))
		for n := range turnsOfRun {
			for i := range turns {
				i = (i + n) % len(turns)
				t := turns[i]
				value, err := t.measure()
				if err := errors.Join(err, ctx.Err()); err != nil {
					return fmt.Errorf("%s, %s: %w", f.Name, t.of, err)
				}
				values[i] = append(values[i], value)
			}
		}
		for i, t := range turns {
			value := summarize(values[i]).Median
			progress(" %s %s", t.of, format(value))
			f.add(t.of, value)
		}
		progress(" %s\n", f.Unit)
	}
	return nil
}

// progress tells who waits how far the benchmark is.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format, args...) }
