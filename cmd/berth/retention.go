package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/berth-registry/berth/admin"
)

const retentionJSON = `

With --json: {"tags": [{"repository", "tag", "digest", "pushed", "pulled", "remove",
"rule", "kept"}, ...], "removed": COUNT, "kept": COUNT, "spared": COUNT}. rule is the
number of the rule that decides, kept is what keeps a tag: a key of the rule, "no
rule", "immutable" or "running"; pulled is left out where no rule asks for it.`

func newRetentionCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retention",
		Short: "See and remove the tags that the rules of retention do not keep",
		Long: `See and remove the tags that the rules of retention do not keep. A server with rules
(retention in its configuration) removes them by itself, every hour and soon after the
rules have changed.

The first rule whose repos and tags match a tag decides on it: it is kept if any of
the rule's other fields says so. A tag that no rule is about is kept; so are immutable
tags, and those whose image a node reports to run ('berth nodes').

A tag counts as pulled, too, when it is pushed, and when its image is read by digest;
nothing counts as not pulled for longer than the server has recorded pulls. Versions
are those of semver.org, three numbers at least: v1.2.3 is one, 1.2 is none. A
pre-release is in a range only if the range names one, as ">=1.0.0-0" does.

What only the removed tags lead to goes by collection ('berth gc'); until then
'berth rollback' takes a removal back.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRetentionPlanCmd(), newRetentionRunCmd())
	return cmd
}

func newRetentionPlanCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "List the tags that would be removed, and which rule says so",
		Long: `List the tags that would be removed now, and which rule says so. Nothing is
removed.` + retentionJSON,
		Example: "  berth retention plan\n  berth retention plan --repo 'ci/**' --all",
		Args:    cobra.NoArgs,
	}
	f := addAdminFlags(cmd)
	repos := cmd.Flags().String("repo", "", "only repositories that this `PATTERN` matches, such as 'team/**'")
	all := cmd.Flags().Bool("all", false, "list those that are kept, too, and why")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list := retainedList{w: cmd.OutOrStdout(), json: f.json, would: true}
		return f.retention("cannot find out which tags are to be removed", &list, func(ctx context.Context, a *administration) error {
			return a.PlanRetention(ctx, *repos, *all, list.add)
		})
	}
	return cmd
}

func newRetentionRunCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Remove now the tags that the rules do not keep",
		Long: `Remove now the tags that 'berth retention plan' lists, and list them. A tag that is
pushed or pulled just then is spared. To interrupt it leaves the rest for the next
time.` + retentionJSON,
		Example: "  berth retention run\n  berth retention run --repo 'ci/**'",
		Args:    cobra.NoArgs,
	}
	f := addAdminFlags(cmd)
	repos := cmd.Flags().String("repo", "", "only in repositories that this `PATTERN` matches, such as 'team/**'")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list := retainedList{w: cmd.OutOrStdout(), json: f.json}
		bar := newRetentionBar(cmd.ErrOrStderr(), cmd.OutOrStdout(), f.json)
		defer bar.end()
		return f.retention("cannot remove all tags that are to be removed", &list, func(ctx context.Context, a *administration) error {
			return a.Retain(ctx, *repos, func(s admin.RetentionStep) error {
				bar.tell(s)
				return list.add(s)
			})
		})
	}
	return cmd
}

// retention has do fill a list, and ends it.
func (f *adminFlags) retention(failed string, list *retainedList, do func(context.Context, *administration) error) error {
	ctx, stop := signal.NotifyContext(f.cmd.Context(), os.Interrupt)
	defer stop()
	return f.with(ctx, false, func(a *administration) error {
		if err := do(ctx, a); err != nil {
			if list.removed > 0 && !list.would {
				_, _ = fmt.Fprintln(f.cmd.ErrOrStderr(), list.text())
			}
			return a.explain(err, failed)
		}
		if list.rules == 0 {
			_, _ = fmt.Fprintln(f.cmd.ErrOrStderr(), "the configuration has no rules of retention: all tags are kept")
		}
		return list.end()
	})
}

// retainedList prints what becomes of tags, as it comes: there may be many.
type retainedList struct {
	w     io.Writer
	json  bool
	would bool // it is a plan

	rules, rows           int
	removed, kept, spared int64
}

func (l *retainedList) add(s admin.RetentionStep) error {
	if s.Rules != nil {
		l.rules = *s.Rules
	}
	l.spared = max(l.spared, s.Spared)
	for _, t := range s.Tags {
		if t.Remove {
			l.removed++
		} else {
			l.kept++
		}
		if err := l.row(t); err != nil {
			return err
		}
	}
	return nil
}

func (l *retainedList) row(t admin.RetainedTag) error {
	l.rows++
	if l.json {
		return printItem(l.w, "tags", l.rows, t)
	}
	const row = "%-7s  %-16s  %-16s  %-8s  %-19s  %s\n"
	if l.rows == 1 {
		if _, err := fmt.Fprintf(l.w, row, "WHAT", "PUSHED", "PULLED", "RULE", "DIGEST", "TAG"); err != nil {
			return err
		}
	}
	what, rule := "keep", "-"
	if t.Remove {
		what = "remove"
	}
	if t.Rule > 0 {
		rule = strconv.Itoa(t.Rule)
	}
	name := printable(t.Repo + ":" + t.Tag)
	if t.Kept != "" {
		name += "  (" + printable(t.Kept) + ")"
	}
	_, err := fmt.Fprintf(l.w, row, what, ago(&t.Pushed, "-"), ago(t.Pulled, "-"), rule, printable(fmt.Sprintf("%.19s", t.Digest)), name)
	return err
}

// text is the sum.
func (l *retainedList) text() string {
	verb := "removed"
	if l.would {
		verb = "would remove"
	}
	s := verb + " " + countOf(int(l.removed), "tag")
	if l.kept > 0 {
		s += fmt.Sprintf(", keep %d", l.kept)
	}
	if l.spared > 0 {
		s += fmt.Sprintf("; spared %d that changed just then", l.spared)
	}
	return s
}

func (l *retainedList) end() error {
	if !l.json {
		_, err := fmt.Fprintln(l.w, l.text())
		return err
	}
	head := "{\n  \"tags\": ["
	if l.rows > 0 {
		head = "\n  "
	}
	_, err := fmt.Fprintf(l.w, "%s],\n  \"removed\": %d,\n  \"kept\": %d,\n  \"spared\": %d\n}\n", head, l.removed, l.kept, l.spared)
	return err
}

// retentionBar shows how far it is, on a terminal that does not show the list.
type retentionBar struct {
	bars *mpb.Progress // nil if there is no terminal
	bar  *mpb.Bar
	step atomic.Pointer[admin.RetentionStep]
}

func newRetentionBar(w, list io.Writer, quiet bool) *retentionBar {
	b := &retentionBar{}
	if b.bars = newBars(w, quiet || isTerminal(list)); b.bars == nil {
		return b
	}
	b.step.Store(&admin.RetentionStep{})
	b.bar = b.bars.New(0, mpb.SpinnerStyle(), mpb.BarRemoveOnComplete(),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			step := b.step.Load()
			return fmt.Sprintf("looked at %d tags, removed %d", step.Checked, step.Removed)
		})))
	return b
}

func (b *retentionBar) tell(s admin.RetentionStep) {
	if b.bars != nil {
		b.step.Store(&s)
		b.bar.Increment()
	}
}

// end takes the bar away.
func (b *retentionBar) end() {
	if b.bars != nil {
		b.bar.Abort(true)
		b.bars.Wait()
	}
}
