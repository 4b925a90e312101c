// Command bench measures berth and berth-runner beside their peers and beside what
// the machine can do at best, in one run on one machine, so that what it prints are
// ratios.
//
//	go run ./bench [-quick|-full] [-only registry|runner|deploy|pull,push] [-runs 5] [-peer zot=http://localhost:5050] [-readme README.md]
//
// It builds them from the tree and takes the peers, docker-registry and nginx,
// Docker and podman, from Debian. The engines run on a host of their own, see
// runnerhost.go, and need root; -only registry does not. For the registry, each
// server starts on a free port of the loopback interface with
// a directory of its own below the work directory, which is removed at the end,
// so all of them write to the same filesystem. The same client measures all of
// them, one after the other and then again from the first. A figure is the median
// of several such runs, its spread their least and greatest; a ratio is the
// median of the ratios within each run. Berth runs with its default
// configuration but for addresses and data; in the work access also with a policy.
//
// It does not measure over a network or under TLS, and figures of two machines, or
// of two runs, cannot be compared: their ratios can.
// One MB is 2²⁰ bytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("wrong usage")

// options are what the command line says.
type options struct {
	runs       int
	quick      bool
	full       bool
	only       []string
	dir        string
	binary     string // path of berth
	runner     string // path of berth-runner
	json       string
	readme     string
	profiles   string
	memorySize int64 // MB, 0 for the scale's own
	peers      []peer
}

// peer is a registry that runs already.
type peer struct{ name, addr string }

// run is the program: one of its helpers, or the benchmark.
func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		if helper, ok := helpers[args[0]]; ok {
			return helper(ctx, args[1:])
		}
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	works, err := choose(o.only)
	if err != nil {
		return err
	}
	if err := install(ctx, works); err != nil {
		return err
	}
	dir, err := workDir(o.dir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.binary, err = program(ctx, o.binary, nameBerth, dir); err != nil {
		return err
	}
	if needsRunner(works) {
		if o.runner, err = program(ctx, o.runner, nameRunner, dir); err != nil {
			return err
		}
	}
	for _, part := range parts {
		works := partOf(works, part)
		if len(works) == 0 {
			continue
		}
		report, err := measure(ctx, o, part, works, dir)
		if err != nil {
			return err
		}
		if err := report.publish(o); err != nil {
			return err
		}
	}
	return nil
}

// publish shows the report and writes it where it is wanted. What was found of
// other parts, and of works that were not done, stays as it is.
func (r *report) publish(o options) error {
	if err := r.writeJSON(o.json); err != nil {
		return err
	}
	fmt.Println(r.Markdown())
	if o.readme == "" {
		return nil
	}
	return replaceSection(o.readme, r.part, r.Markdown())
}

// measure does one work of a part after the other.
func measure(ctx context.Context, o options, part string, works []work, dir string) (*report, error) {
	rep := newReport(ctx, o, part, dir)
	for _, w := range works {
		progress("%s: %s\n", w.name, w.does)
		b, err := newBench(o, w.name, dir)
		if err != nil {
			return nil, err
		}
		do := w.run
		if part != partRegistry {
			do = onHost
		}
		figures, err := do(ctx, b)
		if err := errors.Join(err, b.close()); err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		for _, f := range figures {
			f.Work = w.name
		}
		rep.Figures = append(rep.Figures, figures...)
	}
	return rep, ctx.Err()
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.runs, "runs", 0, "how often to measure each figure (default 5, with -quick 1)")
	f.BoolVar(&o.quick, "quick", false, "tiny sizes and one run: a smoke test, no measurement")
	f.BoolVar(&o.full, "full", false, "the sizes of the goals: 1 GB for each of 64 clients, 1,000,000 manifests; needs 100 GB of disk and an hour")
	f.StringVar(&o.dir, "dir", "", "directory of the servers' data (default: a new one in $TMPDIR or /var/tmp)")
	f.StringVar(&o.binary, "berth", "", "berth to measure (default: built from the tree)")
	f.StringVar(&o.runner, "runner", "", "berth-runner to measure (default: built from the tree)")
	f.StringVar(&o.json, "json", filepath.Join("bench", "results.json"), "file for the results")
	f.StringVar(&o.readme, "readme", "", "file whose sections, such as from "+sectionStart(partRegistry)+" to "+sectionEnd(partRegistry)+", get the tables")
	f.StringVar(&o.profiles, "profiles", "", "directory for CPU profiles of berth, one of each figure")
	f.Int64Var(&o.memorySize, "memory-size", 0, "MB that each client of the work memory pushes and pulls (default 256, with -full 1024)")
	f.Func("only", "works to do, separated by commas (default all): "+strings.Join(workNames(), ", ")+"; or all of "+strings.Join(parts, " or "), func(s string) error {
		o.only = append(o.only, strings.Split(s, ",")...)
		return nil
	})
	f.Func("peer", "a further registry, as name=http://host:port; may be repeated", func(s string) error {
		name, url, ok := strings.Cut(s, "=")
		addr, isHTTP := strings.CutPrefix(url, "http://")
		if !ok || name == "" || !isHTTP || addr == "" {
			return errors.New("want name=http://host:port")
		}
		o.peers = append(o.peers, peer{name, strings.TrimSuffix(addr, "/")})
		return nil
	})
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, fmt.Errorf("%w: %w", errUsage, err)
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%w: unexpected argument %q", errUsage, f.Arg(0))
	case o.quick && o.full:
		return o, fmt.Errorf("%w: -quick and -full exclude each other", errUsage)
	case o.runs < 0 || o.memorySize < 0:
		return o, fmt.Errorf("%w: -runs and -memory-size cannot be negative", errUsage)
	}
	if o.runs == 0 {
		o.runs = 5
		if o.quick {
			o.runs = 1
		}
	}
	return o, nil
}
