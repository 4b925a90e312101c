package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/runner"
)

// The labels of a stack's containers.
const (
	stackLabel   = "dev.berth.stack"
	serviceLabel = "com.docker.compose.service"
)

func newLogsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logs STACK [SERVICE...]",
		Short: "Show what the containers of a stack have written",
		Long: `Show what the containers of a stack have written, or those of some of its services:
merged by time, each line behind the name of its container. Containers that do not serve
any more are left out without --all. With --follow it goes on, with the
containers of later revisions, too.`,
		Example: "  berth-runner logs shop\n  berth-runner logs shop web --follow --tail 10\n  berth-runner logs shop --since 10m --timestamps",
		Args:    cobra.MinimumNArgs(1),
	}
	f := addClientFlags(cmd)
	o := &logOptions{}
	cmd.Flags().BoolVar(&o.follow, "follow", false, "go on with what they write")
	cmd.Flags().StringVarP(&o.tail, "tail", "n", "all", "only the last `N` lines of each container")
	cmd.Flags().StringVar(&o.since, "since", "", "only what was written after this `TIME`: 2026-01-02T15:04:05, or 10m for ten minutes ago")
	cmd.Flags().BoolVarP(&o.timestamps, "timestamps", "t", false, "say when each line was written")
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "show containers that do not serve any more, too")
	cmd.ValidArgsFunction = f.completeStack(true, "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if n, err := strconv.Atoi(o.tail); o.tail != "all" && (err != nil || n < 0) {
			return cli.Usage(fmt.Errorf("--tail: %q: want a number of lines, or all", o.tail))
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		return f.with(func(c *runnerClient) error {
			l := &logReader{client: c, o: *o, stack: args[0], services: args[1:], out: newLogWriter(cmd.OutOrStdout(), o.timestamps), errors: cmd.ErrOrStderr()}
			err := l.run(ctx)
			if ctx.Err() != nil {
				err = nil // an interrupt is how to end it
			}
			return c.explain(cmd.Context(), err, args[0])
		})
	}
	return cmd
}

type logOptions struct {
	follow, timestamps, all bool
	tail, since             string
}

// logReader reads the logs of a stack.
type logReader struct {
	client   *runnerClient
	o        logOptions
	stack    string
	services []string // none: all
	out      *logWriter
	errors   io.Writer
}

// source is a container whose log is read.
type source struct {
	id, name string
	tty      bool // what it writes comes as it is, without frames
}

func (l *logReader) run(ctx context.Context) error {
	s, err := l.client.Status(ctx, l.stack)
	if err != nil {
		return err
	}
	var known []string
	for _, service := range s.Services {
		known = append(known, service.Name)
	}
	for _, service := range l.services {
		if !slices.Contains(known, service) {
			return fmt.Errorf("%s has no service %q: it has %s", l.stack, service, strings.Join(known, ", "))
		}
	}
	if l.o.follow {
		return l.follow(ctx, s)
	}
	sources, err := l.containers(ctx, s)
	if err != nil {
		return err
	}
	return l.merge(ctx, sources)
}

// containers finds those whose logs are shown.
func (l *logReader) containers(ctx context.Context, s deploy.Status) ([]source, error) {
	var sources []source
	for _, service := range s.Services {
		if !l.wants(service.Name) {
			continue
		}
		for _, c := range l.shown(s, service) {
			found, err := l.source(ctx, c.ID)
			if errors.Is(err, runner.ErrNotFound) {
				continue // it has just been removed
			}
			if err != nil {
				return nil, err
			}
			sources = append(sources, found)
		}
	}
	return sources, nil
}

// shown are the containers of a service whose logs are shown: with --all all of them,
// or else those that serve or are deployed, or those that run, or the last ones.
func (l *logReader) shown(s deploy.Status, service deploy.ServiceStatus) []deploy.ContainerStatus {
	if l.o.all {
		return service.Containers
	}
	last := 0
	for _, c := range service.Containers {
		last = max(last, c.Revision)
	}
	for _, is := range []func(deploy.ContainerStatus) bool{
		func(c deploy.ContainerStatus) bool {
			return c.Weight > 0 || s.Deploying != 0 && c.Revision == s.Deploying
		},
		func(c deploy.ContainerStatus) bool { return c.State == string(container.StateRunning) },
		func(c deploy.ContainerStatus) bool { return c.Revision == last },
	} {
		if found := slices.DeleteFunc(slices.Clone(service.Containers), func(c deploy.ContainerStatus) bool { return !is(c) }); len(found) > 0 {
			return found
		}
	}
	return nil
}

// warn tells of a log that cannot be read, which is no reason to show no other.
func (l *logReader) warn(s source, err error) {
	fmt.Fprintf(l.errors, "%s: its log cannot be read: %s\n", s.name, printable(err.Error()))
}

func (l *logReader) wants(service string) bool {
	return len(l.services) == 0 || slices.Contains(l.services, service)
}

func (l *logReader) source(ctx context.Context, id string) (source, error) {
	res, err := l.client.docker.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return source{}, err
	}
	c := res.Container
	if c.Config == nil {
		return source{}, errors.New("the daemon's answer has no configuration of a container")
	}
	return source{id: c.ID, name: printable(strings.TrimPrefix(c.Name, "/")), tty: c.Config.Tty}, nil
}
