package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/deploy"
)

// statusPause is how often a deployment is looked at that is waited for.
const statusPause = 300 * time.Millisecond

func newStatusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status [STACK]",
		Aliases: []string{"stacks"},
		Short:   "Show the stacks of this host, or one of them",
		Long: `Show the stacks of this host, or one of them: its services, how many of their replicas
are ready, under which ports and names they are served, and what is not as it should be.
With --wait it is shown when no deployment of the stack goes on any more; the exit code
is 1 if the last one was not taken.

A stack whose files the runner cannot read is left as it is: what runs of it runs on, and
is not deployed, repaired or scaled. It is shown with the reason and what to do, and with
what can be found of it.

With --json: a list, or with STACK an object, of {"Name", "Revision", "Deploying",
"Services", "Drift", "Error"}.`,
		Example: "  berth-runner status\n  berth-runner status shop --containers\n  berth-runner status shop --wait",
		Args:    cobra.MaximumNArgs(1),
	}
	f := addClientFlags(cmd)
	f.addJSON(cmd, "print JSON")
	containers := cmd.Flags().BoolP("containers", "c", false, "show the containers, too, with those kept of revisions before")
	wait := cmd.Flags().Bool("wait", false, "wait for the deployment that goes on")
	cmd.ValidArgsFunction = f.completeStack(false, "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.with(func(c *runnerClient) error {
			if len(args) == 0 {
				return c.explain(cmd.Context(), f.list(cmd.Context(), cmd.OutOrStdout(), c), "")
			}
			var last error
			if *wait {
				if last = c.await(cmd.Context(), args[0]); last != nil && !isNotTaken(last) {
					return c.explain(cmd.Context(), last, args[0])
				}
			}
			s, err := c.Status(cmd.Context(), args[0])
			if err != nil {
				return c.explain(cmd.Context(), err, args[0])
			}
			if f.json {
				err = printJSON(cmd.OutOrStdout(), s)
			} else {
				err = printStatus(cmd.OutOrStdout(), s, *containers)
			}
			if err == nil && !f.json {
				err = printFollowing(cmd.Context(), cmd.OutOrStdout(), c, args[0])
			}
			if err == nil && last != nil {
				return saidError{last}
			}
			return err
		})
	}
	return cmd
}

// list prints all stacks.
func (f *clientFlags) list(ctx context.Context, w io.Writer, c *runnerClient) error {
	all, err := c.Stacks(ctx)
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(w, all)
	}
	rows := [][]string{{"STACK", "REVISION", "SERVICES", "READY", "STATE"}}
	for _, s := range all {
		ready, wanted := 0, 0
		for _, service := range s.Services {
			ready, wanted = ready+service.Ready, wanted+service.Replicas
		}
		rows = append(rows, []string{s.Name, orDash(s.Revision), strconv.Itoa(len(s.Services)), fmt.Sprintf("%d/%d", ready, wanted), stateOf(s)})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	if err := printErrors(w, all); err != nil {
		return err
	}
	return printFollowing(ctx, w, c, "")
}

// printErrors prints which stacks cannot be used, and why.
func printErrors(w io.Writer, all []deploy.Status) error {
	for _, s := range all {
		if s.Error == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s\n", printable(s.Error)); err != nil {
			return err
		}
	}
	return nil
}

// stateOf is a stack's state in a few words.
func stateOf(s deploy.Status) string {
	switch {
	case s.Error != "":
		return "cannot be used"
	case s.Deploying != 0:
		return fmt.Sprintf("deploying revision %d", s.Deploying)
	case s.Revision == 0:
		return "not in service"
	case len(s.Drift) > 0:
		return "not as it should be"
	}
	return "ok"
}

// notTaken says that the last deployment of a stack that was waited for is not what
// serves.
type notTaken struct{ error }

func isNotTaken(err error) bool {
	_, ok := err.(notTaken) //nolint:errorlint // it is what await returns
	return ok
}

// await waits until no deployment of a stack goes on. If the last one was not taken,
// the error is a notTaken.
func (c *runnerClient) await(ctx context.Context, stack string) error {
	tick := time.NewTicker(statusPause)
	defer tick.Stop()
	for {
		s, err := c.Status(ctx, stack)
		if err != nil {
			return err
		}
		if s.Error != "" {
			return errors.New(printable(s.Error))
		}
		if s.Deploying == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	h, err := c.History(ctx, stack)
	if err != nil || len(h) == 0 || h[0].Outcome == deploy.Deployed {
		return err
	}
	return notTaken{fmt.Errorf("%s: revision %d: %s", stack, h[0].Number, printable(outcomeOf(h[0])))}
}

// outcomeOf is what became of a revision, and why.
func outcomeOf(r deploy.Revision) string {
	if r.Reason == "" {
		return string(r.Outcome)
	}
	return string(r.Outcome) + ": " + r.Reason
}

func printStatus(w io.Writer, s deploy.Status, containers bool) error {
	text := "no revision is in service"
	switch {
	case s.Error != "":
		text = stateOf(s)
	case s.Revision != 0:
		text = fmt.Sprintf("revision %d", s.Revision)
	}
	if s.Deploying != 0 {
		text += fmt.Sprintf("; revision %d is being deployed", s.Deploying)
	}
	if _, err := fmt.Fprintf(w, "%s: %s\n\n", printable(s.Name), text); err != nil {
		return err
	}
	rows := [][]string{{"SERVICE", "IMAGE", "STRATEGY", "READY", "PORTS", "REVISION"}}
	for _, service := range s.Services {
		reached := append(portsOf(service.Ports), service.Hosts...)
		rows = append(rows, []string{
			service.Name, dash(pinned(service.Image, service.Digest)), dash(string(service.Strategy)),
			readyOf(service), dash(strings.Join(reached, ", ")), revisionsOf(service),
		})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	if containers {
		if err := printContainers(w, s); err != nil {
			return err
		}
	}
	for i, drift := range s.Drift {
		if i == 0 {
			fmt.Fprintln(w)
		}
		if _, err := fmt.Fprintf(w, "not as it should be: %s\n", printable(drift)); err != nil {
			return err
		}
	}
	return printErrors(w, []deploy.Status{s})
}

// readyOf is how many replicas of a service are ready, or how a job is.
func readyOf(s deploy.ServiceStatus) string {
	switch {
	case !s.Job:
		return fmt.Sprintf("%d/%d", s.Ready, s.Replicas)
	case s.Ready > 0:
		return "done"
	case slices.ContainsFunc(s.Containers, func(c deploy.ContainerStatus) bool { return c.State == "running" }):
		return "running"
	}
	return "not done"
}

func printContainers(w io.Writer, s deploy.Status) error {
	rows := [][]string{{"\nCONTAINER", "SERVICE", "REVISION", "STATE", "HEALTH", "TRAFFIC", "EXIT"}}
	for _, service := range s.Services {
		total := 0
		for _, c := range service.Containers {
			total += c.Weight
		}
		slices.SortFunc(service.Containers, func(a, b deploy.ContainerStatus) int {
			return cmp.Or(cmp.Compare(b.Revision, a.Revision), strings.Compare(a.Name, b.Name))
		})
		for _, c := range service.Containers {
			traffic, exit := "-", "-"
			if c.Weight > 0 {
				traffic = fmt.Sprintf("%.0f%%", 100*float64(c.Weight)/float64(total))
			}
			if c.State == "exited" {
				exit = strconv.Itoa(c.Exit)
			}
			rows = append(rows, []string{c.Name, service.Name, orDash(c.Revision), c.State, dash(c.Health), traffic, exit})
		}
	}
	return table(w, rows)
}

// pinned is an image as it is shown: with the first digits of its digest.
func pinned(image string, d digest.Digest) string {
	image, _, _ = strings.Cut(image, "@")
	if d == "" {
		return printable(image)
	}
	return printable(image) + "@" + short(d)
}

// short is a digest that a human can compare.
func short(d digest.Digest) string {
	const digits = 12
	_, hex, ok := strings.Cut(string(d), ":")
	if !ok || len(hex) < digits {
		return printable(string(d))
	}
	return hex[:digits]
}

// portsOf are published ports as docker ps has them.
func portsOf(ports network.PortMap) []string {
	var all []string
	for p, bindings := range ports {
		for _, b := range bindings {
			host := b.HostPort
			if b.HostIP.IsValid() && !b.HostIP.IsUnspecified() {
				host = b.HostIP.String() + ":" + host
			}
			all = append(all, fmt.Sprintf("%s->%s", host, p))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// revisionsOf are the revisions whose containers serve.
func revisionsOf(s deploy.ServiceStatus) string {
	serving := map[int]bool{}
	for _, c := range s.Containers {
		if c.Weight > 0 {
			serving[c.Revision] = true
		}
	}
	var all []string
	for _, n := range slices.Sorted(maps.Keys(serving)) {
		all = append(all, strconv.Itoa(n))
	}
	return dash(strings.Join(all, ", "))
}

func orDash(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}
