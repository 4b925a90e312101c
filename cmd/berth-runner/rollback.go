package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/internal/cli"
)

func newRollbackCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback STACK [--to N]",
		Short: "Put a revision of a stack before into service again",
		Long: `Put a revision of a stack before into service again: the last one that had the traffic
and differs from the present one, or with --to any that 'berth-runner history' shows.
Where its containers are kept they only have to be started; else they are made anew, of
the same images. It is a deployment with its own revision, health checks and way back.

With --json: lines as those of 'berth-runner deploy --json'.`,
		Example: "  berth-runner rollback shop\n  berth-runner rollback shop --to 7",
		Args:    cobra.ExactArgs(1),
	}
	f := addClientFlags(cmd)
	f.addJSON(cmd, "print JSON, in lines")
	to := cmd.Flags().Int("to", 0, "the revision `N` (default: the last one that differs)")
	cmd.ValidArgsFunction = f.completeStack(false, "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *to < 0 || *to == 0 && cmd.Flags().Changed("to") {
			return cli.Usage(fmt.Errorf("--to: %d: want the number of a revision, which 'berth-runner history %s' shows", *to, args[0]))
		}
		return f.with(func(c *runnerClient) error {
			d := &deployment{cmd: cmd, client: c, stack: args[0], verb: "rolled back", json: f.json}
			return d.run(func(ctx context.Context, watch func(deploy.Event)) (deploy.Revision, error) {
				return c.Rollback(ctx, args[0], *to, caller(), watch)
			})
		})
	}
	return cmd
}

func newScaleCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scale STACK SERVICE=N...",
		Short: "Change how many replicas services of a stack have",
		Long: `Change how many replicas services of a stack have, until its Compose file is deployed
again. It is a deployment with its own revision; containers that serve go on serving.

With --json: lines as those of 'berth-runner deploy --json'.`,
		Example: "  berth-runner scale shop web=3 worker=2",
		Args:    cobra.MinimumNArgs(2),
	}
	f := addClientFlags(cmd)
	f.addJSON(cmd, "print JSON, in lines")
	cmd.ValidArgsFunction = f.completeStack(true, "=")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		replicas, err := parseReplicas(args[1:])
		if err != nil {
			return cli.Usage(err)
		}
		return f.with(func(c *runnerClient) error {
			d := &deployment{cmd: cmd, client: c, stack: args[0], verb: "scaled", json: f.json}
			return d.run(func(ctx context.Context, watch func(deploy.Event)) (deploy.Revision, error) {
				return c.Scale(ctx, args[0], replicas, caller(), watch)
			})
		})
	}
	return cmd
}

// parseReplicas reads SERVICE=N....
func parseReplicas(args []string) (map[string]int, error) {
	replicas := map[string]int{}
	for _, arg := range args {
		service, number, ok := strings.Cut(arg, "=")
		n, err := strconv.Atoi(number)
		if !ok || service == "" || err != nil || n < 0 {
			return nil, fmt.Errorf("%q: want SERVICE=N, such as web=3", arg)
		}
		if _, twice := replicas[service]; twice {
			return nil, fmt.Errorf("%q: the service %s is there twice", arg, service)
		}
		replicas[service] = n
	}
	return replicas, nil
}

func newCancelCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cancel STACK",
		Short: "Take the deployment of a stack back that goes on",
		Long: `Take the deployment of a stack back that goes on, and wait until all is as it was
before.`,
		Example: "  berth-runner cancel shop",
		Args:    cobra.ExactArgs(1),
	}
	f := addClientFlags(cmd)
	cmd.ValidArgsFunction = f.completeStack(false, "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.with(func(c *runnerClient) error {
			if err := c.Cancel(cmd.Context(), args[0]); err != nil {
				return c.explain(cmd.Context(), err, args[0])
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: the deployment was taken back\n", args[0])
			return err
		})
	}
	return cmd
}

func newRmCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm STACK",
		Short: "Take a stack out of service, and remove it",
		Long: `Take a stack out of service, and remove all that it has: containers, networks,
configs, secrets and its history; with --volumes its volumes, too, and what is in them.
What it has is found by its labels, also if its files cannot be read.`,
		Example: "  berth-runner rm shop\n  berth-runner rm shop --volumes --yes",
		Args:    cobra.ExactArgs(1),
	}
	f := addClientFlags(cmd)
	volumes := cmd.Flags().Bool("volumes", false, "remove its volumes, too")
	yes := cmd.Flags().BoolP("yes", "y", false, "do not ask")
	cmd.ValidArgsFunction = f.completeStack(false, "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.with(func(c *runnerClient) error {
			if err := confirm(cmd, c, args[0], *volumes, *yes); err != nil {
				return err
			}
			d := &deployment{cmd: cmd, client: c, stack: args[0], verb: "removed"}
			return d.run(func(ctx context.Context, watch func(deploy.Event)) (deploy.Revision, error) {
				return deploy.Revision{}, c.Remove(ctx, args[0], *volumes, watch)
			})
		})
	}
	return cmd
}

// confirm asks on a terminal whether a stack is to go, and without one wants --yes.
func confirm(cmd *cobra.Command, c *runnerClient, stack string, volumes, yes bool) error {
	s, err := c.Status(cmd.Context(), stack)
	if err != nil {
		return c.explain(cmd.Context(), err, stack)
	}
	if yes {
		return nil
	}
	if !isTerminal(cmd.InOrStdin()) {
		return cli.Usage(fmt.Errorf("%s would be removed: say --yes if that is meant", stack))
	}
	with := ""
	if volumes {
		with = " and its volumes"
	}
	if s.Error != "" {
		fmt.Fprintln(cmd.ErrOrStderr(), printable(s.Error))
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "Remove %s, its %d services%s? [y/N] ", stack, len(s.Services), with)
	var answer string
	if _, err := fmt.Fscanln(cmd.InOrStdin(), &answer); err != nil || !strings.EqualFold(answer, "y") && !strings.EqualFold(answer, "yes") {
		return errors.New("nothing was removed")
	}
	return nil
}
