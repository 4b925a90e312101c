package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
)

func newNodesCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes that report what they run",
		Long: `List the nodes that report what they run. What a node runs is kept until its
report ends, whatever becomes of tags. A node reports all that it runs, again and
again, with

  POST /api/v1/nodes/NAME
  {"ttl": "1h", "running": [{"repository": "team/app", "digest": "sha256:..."}]}

and the credentials of any account that may pull it; the answer says in "unknown" of
what there is nothing to keep. A report holds for at most 168h, names at most 10000
manifests, and replaces the one before.`,
		Args: cobra.NoArgs,
	}
	ls := newNodesLsCmd()
	cmd.Flags().AddFlagSet(ls.Flags())
	cmd.RunE = func(_ *cobra.Command, args []string) error { return ls.RunE(cmd, args) }
	cmd.AddCommand(ls, newNodesRmCmd())
	return cmd
}

func newNodesLsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the nodes that report what they run",
		Long: `List the nodes that report what they run.

With --json: {"nodes": [{"name", "account", "reported", "until", "running"}, ...]};
running is a number of manifests.`,
		Example: "  berth nodes ls",
		Args:    cobra.NoArgs,
	}
	f := addAdminFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.with(cmd.Context(), false, func(a *administration) error {
			nodes, err := a.Nodes(cmd.Context())
			if err != nil {
				return a.explain(err, "cannot list the nodes")
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), map[string][]admin.Node{"nodes": nodes})
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "NAME\tRUNS\tREPORTED\tUNTIL\tACCOUNT") // Flush returns what fails
			for _, n := range nodes {
				_, _ = fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", printable(n.Name), n.Running, ago(&n.Reported, "-"), ago(&n.Until, "-"), dash(n.Account))
			}
			return w.Flush()
		})
	}
	return cmd
}

func newNodesRmCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm NAME...",
		Short: "Forget nodes, and what they have reported",
		Long: `Forget nodes, and what they have reported: it is not kept for them any more. A node
that reports again is there again.

With --json: {"results": [{"name": NAME, "action": "removed" or "failed", "error":
MESSAGE}, ...]}.`,
		Example: "  berth nodes rm old-node-7",
		Args:    cobra.MinimumNArgs(1),
	}
	f := addAdminFlags(cmd)
	cmd.ValidArgsFunction = f.completeWith(0, func(ctx context.Context, a *administration) (names []string, err error) {
		nodes, err := a.Nodes(ctx)
		for _, n := range nodes {
			names = append(names, n.Name)
		}
		return names, err
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.with(cmd.Context(), false, func(a *administration) error {
			return f.each(cmd.OutOrStdout(), args, "removed", "removed %s", func(name string) error {
				return a.explain(a.RemoveNode(cmd.Context(), name), "cannot remove "+name)
			})
		})
	}
	return cmd
}
