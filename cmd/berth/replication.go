package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/registry"
)

const replicationJSON = `

With --json: {"replications": [{"name", "url", "pending": N, "broken": N, "oldest": TIME,
"paused": TIME, "reason", "done": N, "bytes": N, "last": TIME, "failed": [{"repository",
"tag", "digest", "deleted": false, "since": TIME, "failed": TIME, "tries": N, "next":
TIME, "broken": true, "problem"}, ...]}, ...]}. "pending" waits, "broken" are those of it
that cannot be replicated, "paused" is until when the other registry is left alone.
What is not known is left out; "failed" lists the first 100.`

func newReplicationCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replication",
		Short: "See and run the replication to other registries",
		Long: `See and run the replication to other registries (replication in the server's
configuration). A server pushes there by itself what is pushed to it, and tries for as
long as it takes; what the other registry refuses is tried seldom, and shown here.

What a mirror has cached is replicated only if a pattern of repos starts with the
mirror's prefix: "hub/**" means it, "**" does not.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newReplicationLsCmd(), newReplicationStatusCmd(), newReplicationRunCmd(), newReplicationRetryCmd())
	return cmd
}

func newReplicationLsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the other registries, and how much waits for them",
		Long:    `List the other registries, and how much waits for them.` + replicationJSON,
		Example: "  berth replication ls",
		Args:    cobra.NoArgs,
	}
	f := addServerFlags(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		return f.replications(nil, "cannot list the replication", printReplications)
	}
	return cmd
}

func newReplicationStatusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status [NAME]",
		Short:   "Show how the replication goes, and what has failed",
		Long:    `Show how the replication to each other registry goes, or to one, and what has failed.` + replicationJSON,
		Example: "  berth replication status\n  berth replication status paris --json | jq '.replications[].failed'",
		Args:    cobra.MaximumNArgs(1),
	}
	f := addServerFlags(cmd)
	cmd.ValidArgsFunction = f.completeWith(1, replicationNames)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		return f.replications(args, "cannot show how the replication goes", printReplicationStatus)
	}
	return cmd
}

// replications prints the replication that args name, or all.
func (f *adminFlags) replications(args []string, failed string, show func(io.Writer, []admin.Replication) error) error {
	ctx := f.cmd.Context()
	return f.with(ctx, false, func(a *administration) error {
		list, err := a.Replications(ctx)
		if err == nil && len(args) > 0 {
			i := slices.IndexFunc(list, func(r admin.Replication) bool { return r.Name == args[0] })
			if i < 0 {
				err = admin.ErrReplicationUnknown.With("there is no replication %q", args[0])
			} else {
				list = list[i : i+1]
			}
		}
		switch {
		case err != nil:
			return explainReplication(a, err, failed)
		case f.json:
			return printJSON(f.cmd.OutOrStdout(), map[string][]admin.Replication{"replications": list})
		case len(list) == 0:
			_, err := fmt.Fprintln(f.cmd.OutOrStdout(), "There is none: the server's configuration has no other registry (replication).")
			return err
		}
		return show(f.cmd.OutOrStdout(), list)
	})
}

// replicationNames lists them for completion.
func replicationNames(ctx context.Context, a *administration) (names []string, err error) {
	list, err := a.Replications(ctx)
	for _, r := range list {
		names = append(names, r.Name)
	}
	return names, err
}

// explainReplication says what to do about an error.
func explainReplication(a *administration, err error, what string) error {
	switch {
	case err == nil:
		return nil
	case a.local && errors.Is(err, registry.ErrRouteUnknown):
		return fmt.Errorf("%s: no server runs that replicates: start it with 'berth serve', with this --data or --config", what)
	case errors.Is(err, admin.ErrReplicationUnknown):
		return fmt.Errorf("%s: %w ('berth replication ls' lists them)", what, err)
	}
	return a.explain(err, what)
}

func printReplications(w io.Writer, list []admin.Replication) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "NAME\tURL\tWAITING\tBROKEN\tSINCE\tLAST") // Flush says what goes wrong
	for _, r := range list {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s\n", printable(r.Name), printable(r.URL), r.Pending-r.Broken, r.Broken, ago(r.Oldest, "-"), ago(r.Last, "never"))
	}
	return t.Flush()
}

func printReplicationStatus(w io.Writer, list []admin.Replication) error {
	var b strings.Builder
	for n, r := range list {
		if n > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "name     %s\nurl      %s\n", printable(r.Name), printable(r.URL))
		fmt.Fprintf(&b, "waiting  %d", r.Pending-r.Broken)
		if r.Oldest != nil && r.Pending > r.Broken {
			fmt.Fprintf(&b, ", the first since %s", ago(r.Oldest, ""))
		}
		fmt.Fprintf(&b, "\nbroken   %d\n", r.Broken)
		if r.Paused != nil {
			fmt.Fprintf(&b, "paused   until %s: %s\n", ago(r.Paused, ""), printable(r.Reason))
		}
		fmt.Fprintf(&b, "done     %d, %s sent, last %s\n", r.Done, humanSize(r.Bytes), ago(r.Last, "never"))
		for _, i := range r.Failed {
			what := "failed "
			if i.Broken {
				what = "broken "
			}
			fmt.Fprintf(&b, "%s  %s: %s (tried %s, next %s)\n", what, replicatedName(i), printable(i.Problem), ago(i.Failed, "never"), ago(i.Next, "-"))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func replicatedName(i admin.ReplicatedItem) string {
	if i.Tag != "" {
		return printable(i.Repo + ":" + i.Tag)
	}
	return printable(i.Repo + "@" + i.Digest)
}

func newReplicationRetryCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retry NAME",
		Short: "Try again now what has failed",
		Long: `Try again now what has failed, also what is broken, when what was wrong is mended. It
does not wait for the end.

With --json: {"retried": N}.`,
		Example: "  berth replication retry paris",
		Args:    cobra.ExactArgs(1),
	}
	f := addServerFlags(cmd)
	cmd.ValidArgsFunction = f.completeWith(1, replicationNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.with(cmd.Context(), false, func(a *administration) error {
			r, err := a.RetryReplication(cmd.Context(), args[0])
			switch {
			case err != nil:
				return explainReplication(a, err, "cannot try again what has failed for "+args[0])
			case f.json:
				return printJSON(cmd.OutOrStdout(), r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "trying again %d: 'berth replication status %s' shows how it goes\n", r.Retried, args[0])
			return err
		})
	}
	return cmd
}

func newReplicationRunCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "Replicate all that differs at another registry",
		Long: `Compare all that is to be replicated with what another registry has, replicate what
differs, and wait until that is done: for what was there before the replication was set
up, or after the other registry has lost something. To interrupt it loses nothing: what
was found to differ is replicated all the same.

Where deletions are replicated, tags are removed there that are not here.

--dry-run lists what differs, and changes nothing.

With --json: {"items": [{"repository", "tag", "digest", "deleted": false, "since": TIME},
...], "checked": N, "differ": N, "broken": N}; what is "deleted" is to be removed there,
"broken" is how many of those that differ cannot be replicated.`,
		Example: "  berth replication run paris --dry-run\n  berth replication run paris",
		Args:    cobra.ExactArgs(1),
	}
	f := addServerFlags(cmd)
	dry := cmd.Flags().Bool("dry-run", false, "list what differs, and change nothing")
	cmd.ValidArgsFunction = f.completeWith(1, replicationNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		return f.with(ctx, false, func(a *administration) error {
			return f.replicate(ctx, a, args[0], *dry)
		})
	}
	return cmd
}

// replicate replicates what differs, or lists it.
func (f *adminFlags) replicate(ctx context.Context, a *administration, name string, dry bool) error {
	run := a.Replicate
	if dry {
		run = a.PlanReplication
	}
	list := &replicatedList{w: f.cmd.OutOrStdout(), json: f.json}
	bar := newReplicationBar(f.cmd.ErrOrStderr(), f.json || dry)
	err := run(ctx, name, func(s admin.ReplicationStep) error {
		bar.tell(s)
		return list.add(s)
	})
	bar.end()
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted: what was found to differ is replicated all the same")
	}
	if err != nil {
		return explainReplication(a, err, "cannot compare all with "+name)
	}
	if err := list.end(dry); err != nil {
		return err
	}
	if n := list.last.Broken; n > 0 {
		return fmt.Errorf("%d of them cannot be replicated: 'berth replication status %s' says why", n, name)
	}
	return nil
}

// replicatedList prints what differs, as it comes: there may be much.
type replicatedList struct {
	w    io.Writer
	json bool
	rows int
	last admin.ReplicationStep
}

func (l *replicatedList) add(s admin.ReplicationStep) error {
	l.last = s
	if s.Item == nil {
		return nil
	}
	l.rows++
	if l.json {
		return printItem(l.w, "items", l.rows, s.Item)
	}
	what := "push"
	if s.Item.Deleted {
		what = "delete"
	}
	_, err := fmt.Fprintf(l.w, "%-6s  %s\n", what, replicatedName(*s.Item))
	return err
}

func (l *replicatedList) end(dry bool) error {
	if l.json {
		head := "{\n  \"items\": ["
		if l.rows > 0 {
			head = "\n  "
		}
		_, err := fmt.Fprintf(l.w, "%s],\n  \"checked\": %d,\n  \"differ\": %d,\n  \"broken\": %d\n}\n", head, l.last.Checked, l.last.Differ, l.last.Broken)
		return err
	}
	text := fmt.Sprintf("compared %d, replicated %d", l.last.Checked, l.last.Differ-l.last.Broken)
	if dry {
		text = fmt.Sprintf("compared %d, would replicate %d", l.last.Checked, l.last.Differ)
	}
	_, err := fmt.Fprintln(l.w, text)
	return err
}

// replicationBar shows how far it is, on a terminal.
type replicationBar struct {
	bars *mpb.Progress // nil if there is no terminal
	bar  *mpb.Bar
}

func newReplicationBar(w io.Writer, quiet bool) *replicationBar {
	b := &replicationBar{}
	if b.bars = newBars(w, quiet); b.bars == nil {
		return b
	}
	b.bar = b.bars.AddBar(0, mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.CountersNoUnit("%d of %d that differ ")))
	return b
}

// tell shows a part. What differs is found on the way, so that the end moves on.
func (b *replicationBar) tell(s admin.ReplicationStep) {
	if b.bars == nil {
		return
	}
	b.bar.SetTotal(int64(s.Differ)+1, false)
	if s.Waiting > 0 {
		b.bar.SetCurrent(int64(s.Differ - s.Waiting))
	}
}

// end takes the bar away.
func (b *replicationBar) end() {
	if b.bars != nil {
		b.bar.Abort(true)
		b.bars.Wait()
	}
}
