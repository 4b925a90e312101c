package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/rollout"
)

func newRolloutStatusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [HOST[:PORT]/]REPOSITORY:TAG",
		Short: "Show how far the nodes have come",
		Long: `Show how far the nodes have come that follow a tag, and what is wrong with those that
failed; after they have returned too, until another version has come through.

With --watch it goes on until all nodes run what the tag names, and says what changes; if
they return to the version before, until they all have, or if the rollout is stopped, the
exit code is 1. It may be started right after 'berth-runner publish': if no node follows the
tag yet, it waits half a minute for one.

With --json: {"repository", "tag", "names", "digest", "previous", "bad", "state", "reason",
"policy", "started", "by", "paused_by", "updated", "attempt", "progress": {"nodes",
"chosen", "done", "deploying", "failed", "waiting", "silent"}, "nodes": [{"name",
"account", "labels", "running", "target", "state", "chosen", "silent", "failed", "error",
"log", "waits", "since", "heard", "slot_until"}, ...], "last_failure": {"digest", "attempt",
"reason", "at", "nodes": [{"name", "error", "at", "log"}, ...], "more"}}; with --watch, one
each time that something changes. names is what the tag names, digest what the nodes are to
run, bad what they return from; state is running, paused, done, failed or undone.
last_failure is the version that nodes have failed to run last, until another one has come
through; more is how many nodes there are beside those that it names.`,
		Example: "  berth rollout status stacks/shop:prod\n  berth rollout status -w registry.example.org/stacks/shop:prod",
		Args:    cobra.ExactArgs(1),
	}
	f := addClientFlags(cmd)
	watch := cmd.Flags().BoolP("watch", "w", false, "go on until it is done, or has failed")
	cmd.ValidArgsFunction = f.complete(true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := f.rolloutRef(args[0])
		if err != nil {
			return err
		}
		what := "cannot show the rollout of " + n.String()
		if *watch {
			return f.watchRollout(cmd.Context(), n, what, cmd.OutOrStdout())
		}
		s, err := f.rolloutStatus(cmd.Context(), n, what)
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), s)
		}
		return printRollout(cmd.OutOrStdout(), n, s)
	}
	return cmd
}

func (f *clientFlags) rolloutStatus(ctx context.Context, n name, what string) (s rollout.Status, err error) {
	err = f.rollouts(ctx, n, what, func(c *admin.Client, ref rollout.Ref) error {
		s, err = c.Rollout(ctx, ref)
		return err
	})
	return s, err
}

// lookPause is how long it is between two looks at a rollout.
const lookPause = time.Second

// maxMissed is how many looks may fail, one after the other, or find no node at first.
const maxMissed = 30

// watchRollout shows a rollout until it has come to an end, which is an error if it is
// not the good one.
func (f *clientFlags) watchRollout(ctx context.Context, n name, what string, w io.Writer) error {
	last, missed := rollout.Summary{}, 0
	for {
		s, err := f.rolloutStatus(ctx, n, what)
		switch {
		case err == nil:
			missed = 0
		case missed >= maxMissed || ctx.Err() != nil:
			return err
		case last.State == "" && !errors.Is(err, admin.ErrRolloutUnknown):
			return err
		default:
			missed++ // the registry may be away for a while; nodes hear of a new tag in a moment
		}
		if err == nil && !sameRollout(last, s.Summary) {
			last = s.Summary
			if err := f.printChange(w, s); err != nil {
				return err
			}
		}
		if err == nil {
			switch end, failed := ended(s.Summary); {
			case failed:
				if !f.json {
					if err := printFailures(w, s); err != nil {
						return err
					}
				}
				return fmt.Errorf("the rollout of %s %s", n, whyFailed(s.Summary))
			case end:
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookPause):
		}
	}
}

// sameRollout says whether there is nothing to tell.
func sameRollout(a, b rollout.Summary) bool {
	a.Updated, b.Updated = time.Time{}, time.Time{}
	return reflect.DeepEqual(a, b)
}

// ended says whether a rollout has come to an end, and whether it is not the good one.
func ended(s rollout.Summary) (end, failed bool) {
	if s.Names != "" && s.Names != s.Digest {
		return false, false // no node has asked since the tag was moved
	}
	p := s.Progress
	switch s.State {
	case rollout.Done:
		return true, false
	case rollout.Failed, rollout.Undone:
		end = p.Deploying == 0 && (s.Bad == "" || p.Waiting == 0)
		return end, end
	}
	return false, false
}

func whyFailed(s rollout.Summary) string {
	why := "was undone"
	if s.State == rollout.Failed {
		why = "has failed: " + printable(cmp.Or(s.Reason, "stopped"))
	}
	if s.Bad != "" {
		why += "; the nodes have returned to " + printable(s.Digest)
	}
	return why
}

func (f *clientFlags) printChange(w io.Writer, s rollout.Status) error {
	if f.json {
		return printJSON(w, s)
	}
	moved := ""
	if s.Names != "" && s.Names != s.Digest {
		moved = "; the tag was moved to " + shortDigest(s.Names)
	}
	_, err := fmt.Fprintf(w, "%s  %s  %s: %s%s\n", time.Now().Format(time.TimeOnly), stateText(s.Summary), shortDigest(s.Digest), progressText(s.Progress), moved)
	return err
}

func stateText(s rollout.Summary) string {
	text := printable(s.State)
	if s.PausedBy != "" && s.PausedBy != "-" {
		text += " by " + printable(s.PausedBy)
	}
	if s.Reason != "" {
		text += " (" + printable(s.Reason) + ")"
	}
	return text
}

func progressText(p rollout.Progress) string {
	parts := []string{fmt.Sprintf("%d of %s run it", p.Done, countOf(p.Chosen, "node"))}
	for _, more := range []struct {
		n    int
		what string
	}{{p.Deploying, "deploying"}, {p.Waiting, "waiting"}, {p.Failed, "failed"}, {p.Silent, "silent"}} {
		if more.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", more.n, more.what))
		}
	}
	return strings.Join(parts, ", ")
}

// shortDigest is enough of a digest for people.
func shortDigest(d string) string {
	algorithm, hash, ok := strings.Cut(printable(d), ":")
	if !ok {
		return dash(d)
	}
	return algorithm + ":" + hash[:min(len(hash), 12)]
}

func printRollout(out io.Writer, n name, s rollout.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, value string) { _, _ = fmt.Fprintf(w, "%s\t%s\n", name, value) } // Flush returns what fails
	line("Tag:", n.String())
	line("State:", stateText(s.Summary))
	line("Version:", fmt.Sprintf("%s, since %s, by %s", printable(s.Digest), ago(&s.Started, "-"), dash(s.By)))
	switch {
	case s.Names == "":
		line("", "the tag was deleted: the nodes keep what they have")
	case s.Names != s.Digest:
		line("", "no node has asked yet since the tag was moved to "+printable(s.Names))
	}
	if s.Bad != "" {
		line("Returns from:", printable(s.Bad))
	} else {
		line("Before:", dash(s.Previous))
	}
	if len(s.Policy) > 0 {
		line("Policy:", printable(string(s.Policy)))
	}
	line("Progress:", progressText(s.Progress))
	_, _ = fmt.Fprintln(w)
	_ = w.Flush() // the next one says it
	_, _ = fmt.Fprintln(w, "NODE\tSTATE\tRUNS\tHEARD\tWHY")
	for _, node := range s.Nodes {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", printable(node.Name), nodeState(s.Summary, node), shortDigest(node.Running), elapsed(node.Heard), dash(nodeReason(node)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return printFailures(out, s)
}

// nodeState is the state of a node in a word.
func nodeState(s rollout.Summary, n rollout.NodeStatus) string {
	switch {
	case n.Silent:
		return "silent"
	case n.Running == s.Digest && (n.State == rollout.NodeRunning || n.State == rollout.NodeFailed && n.Target != s.Digest):
		return "done"
	case n.State == rollout.NodeDeploying, n.Until != nil:
		return "deploying"
	case n.Failed:
		return "failed"
	case !n.Chosen:
		return "not chosen"
	}
	return "waiting"
}

func nodeReason(n rollout.NodeStatus) string {
	if n.Failed || n.State == rollout.NodeFailed {
		return cmp.Or(n.Error, n.Waits)
	}
	return n.Waits
}

func elapsed(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return max(0, time.Since(t)).Round(time.Second).String() + " ago"
}
