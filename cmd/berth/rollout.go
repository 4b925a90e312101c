package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/rollout"
)

func newRolloutCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "See and steer what the nodes run that follow a tag",
		Long: `See and steer what the nodes run that follow a tag: 'berth-runner publish' moves it, and
the registry says which of the nodes may deploy when, as the policy in the published
stack says. To move the tag back, with 'undo', 'berth rollback' or a push, has all nodes
return at once.

Who may pull the repository sees its rollouts; who may push to it steers them.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newRolloutLsCmd(), newRolloutStatusCmd(),
		newSteerCmd("pause", "Have no other node deploy", `Have no other node deploy, whatever the tag comes to name, until 'berth rollout resume'.
What has begun to deploy ends it. To move the tag back still has the nodes return.`, "paused", (*admin.Client).PauseRollout),
		newSteerCmd("resume", "Have a rollout go on", `Have a rollout go on that was paused, or that failures have stopped: these are forgiven
then, and the nodes that failed try again.`, "goes on", (*admin.Client).ResumeRollout),
		newSteerCmd("undo", "Have the nodes return to the version before", `Have all nodes return to the version that they ran before, all at once: the tag is moved
back to it. That is a push, with its rules of which tags are immutable.`, "undone", (*admin.Client).UndoRollout))
	return cmd
}

// newSteerCmd is a command that changes a rollout.
func newSteerCmd(verb, short, long, said string, do func(*admin.Client, context.Context, rollout.Ref) (rollout.Status, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   verb + " [HOST[:PORT]/]REPOSITORY:TAG",
		Short: short,
		Long: long + `

With --json: what 'berth rollout status --json' prints, as it is then.`,
		Example: "  berth rollout " + verb + " registry.example.org/stacks/shop:prod",
		Args:    cobra.ExactArgs(1),
	}
	f := addClientFlags(cmd)
	cmd.ValidArgsFunction = f.complete(true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := f.rolloutRef(args[0])
		if err != nil {
			return err
		}
		var s rollout.Status
		err = f.rollouts(cmd.Context(), n, fmt.Sprintf("cannot %s the rollout of %s", verb, n), func(c *admin.Client, ref rollout.Ref) (err error) {
			s, err = do(c, cmd.Context(), ref)
			return err
		})
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), s)
		}
		if _, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s; the nodes are to run %s\n", n, said, s.Digest); err != nil {
			return err
		}
		if last := s.LastFailure; last != nil && s.State != rollout.Running && (last.Digest == s.Digest || last.Digest == s.Bad) {
			return printLastFailure(cmd.OutOrStdout(), last)
		}
		return nil
	}
	return cmd
}

// rolloutRef reads the name of a tag.
func (f *clientFlags) rolloutRef(s string) (name, error) {
	n, err := f.parse(s)
	if err == nil && (n.Tag == "" || n.Digest != "") {
		err = cli.Usage(fmt.Errorf("%q: want a tag", s))
	}
	return n, err
}

// rollouts has do ask the registry, which must be a berth. what is what could not be done.
func (f *clientFlags) rollouts(ctx context.Context, n name, what string, do func(*admin.Client, rollout.Ref) error) (err error) {
	a, err := (&adminFlags{registry: n.Host, plainHTTP: f.plainHTTP, cmd: f.cmd}).openRemote(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	err = do(a.Client, rollout.Ref{Repo: n.Repo, Tag: n.Tag})
	switch {
	case errors.Is(err, registry.ErrRouteUnknown):
		return fmt.Errorf("%s: %w (%s knows of no rollouts there: it is no berth of this version, or the repository is a mirror's)", what, err, n.Host)
	case errors.Is(err, admin.ErrRolloutUnknown), errors.Is(err, admin.ErrRolloutState):
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(err, registry.ErrUnauthorized), errors.Is(err, registry.ErrNameUnknown), errors.Is(err, registry.ErrDenied):
		return fmt.Errorf("%s: %w (log in with 'docker login %s', if you have not)", what, err, n.Host)
	}
	return explain(err, n.Host, what)
}

func newRolloutLsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the tags that nodes follow",
		Long: `List the tags that nodes follow, of the repositories that you may pull.

With --json: {"rollouts": [{"repository", "tag", "digest", "state", "progress", ...}, ...],
"more": BOOL}; each is as in 'berth rollout status --json', without its nodes.`,
		Example: "  berth rollout ls --registry registry.example.org",
		Args:    cobra.NoArgs,
	}
	f := addClientFlags(cmd)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var list admin.RolloutList
		n := name{Host: f.registry}
		if err := f.rollouts(cmd.Context(), n, "cannot list the rollouts of "+n.Host, func(c *admin.Client, _ rollout.Ref) (err error) {
			list, err = c.Rollouts(cmd.Context())
			return err
		}); err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), list)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(w, "TAG\tSTATE\tNODES\tFAILED\tSTARTED\tBY\tDIGEST") // Flush returns what fails
		for _, s := range list.Rollouts {
			_, _ = fmt.Fprintf(w, "%s:%s\t%s\t%d of %d\t%d\t%s\t%s\t%s\n", printable(s.Repo), printable(s.Tag), printable(s.State),
				s.Progress.Done, s.Progress.Chosen, s.Progress.Failed, ago(&s.Started, "-"), dash(s.By), printable(s.Digest))
		}
		if list.More {
			_, _ = fmt.Fprintln(w, "...")
		}
		return w.Flush()
	}
	return cmd
}
