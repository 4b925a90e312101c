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
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/registry"
)

// watchEvery is how often --watch looks again.
const watchEvery = time.Second

const mirrorJSON = `

With --json: {"jobs": [{"name", "mirror", "schedule", "running": true, "now": {"began":
TIME, "waits": TIME, "counts": {"repositories": N, "tags": N, "unchanged": N, "copied":
N, "failed": N, "removed": N, "bytes": N}, "failures": [{"repository", "tag",
"reason"}, ...]}, "last": {the same, and "ended": TIME, "outcome": "ok", "failed",
"postponed", "interrupted" or "cut off", "reason"}, "good": TIME, "next": TIME}, ...]}.
What is not known, or not yet, is left out.`

func newMirrorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mirror",
		Short: "See and run the jobs that copy from other registries",
		Long: `See and run the jobs that copy from other registries on a schedule, before anybody
asks for an image (mirrors in the server's configuration). What clients pull through a
mirror needs no job.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newMirrorLsCmd(), newMirrorStatusCmd(), newMirrorRunCmd())
	return cmd
}

func newMirrorLsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the jobs, when they ran last, and when they will",
		Long:    `List the jobs, when they ran last, and when they will.` + mirrorJSON,
		Example: "  berth mirror ls",
		Args:    cobra.NoArgs,
	}
	f := addAdminFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.with(cmd.Context(), false, func(a *administration) error {
			jobs, err := a.MirrorJobs(cmd.Context())
			if err != nil {
				return explainMirror(a, err, "cannot list the jobs")
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), map[string][]admin.MirrorJob{"jobs": jobs})
			}
			return printMirrors(cmd.OutOrStdout(), jobs)
		})
	}
	return cmd
}

func newMirrorStatusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show how far the jobs are, and what went wrong",
		Long: `Show how far the jobs are, or one of them, how their last run has ended, and what went
wrong. --watch shows it again whenever it changes, until it is interrupted.` + mirrorJSON + `
With --watch, each is on one line.`,
		Example: "  berth mirror status\n  berth mirror status nightly --watch",
		Args:    cobra.MaximumNArgs(1),
	}
	f := addAdminFlags(cmd)
	watch := cmd.Flags().Bool("watch", false, "show it again whenever it changes")
	cmd.ValidArgsFunction = f.completeWith(1, mirrorNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		return f.with(ctx, false, func(a *administration) error {
			s := &mirrorScreen{w: cmd.OutOrStdout(), json: f.json, again: *watch}
			err := s.run(ctx, func() ([]admin.MirrorJob, error) { return oneMirror(ctx, a, args) })
			return explainMirror(a, err, "cannot show how the jobs are")
		})
	}
	return cmd
}

// mirrorNames lists jobs for completion.
func mirrorNames(ctx context.Context, a *administration) (names []string, err error) {
	jobs, err := a.MirrorJobs(ctx)
	for _, j := range jobs {
		names = append(names, j.Name)
	}
	return names, err
}

// oneMirror returns the job that args name, or all.
func oneMirror(ctx context.Context, a *administration, args []string) ([]admin.MirrorJob, error) {
	jobs, err := a.MirrorJobs(ctx)
	if err != nil || len(args) == 0 {
		return jobs, err
	}
	i := slices.IndexFunc(jobs, func(j admin.MirrorJob) bool { return j.Name == args[0] })
	if i < 0 {
		return nil, admin.ErrMirrorUnknown.With("there is no job %q", args[0])
	}
	return jobs[i : i+1], nil
}

// explainMirror says what to do about an error.
func explainMirror(a *administration, err error, what string) error {
	switch {
	case err == nil:
		return nil
	case a.local && errors.Is(err, registry.ErrRouteUnknown):
		return fmt.Errorf("%s: no server runs that has jobs: start it with 'berth serve', with this --data or --config", what)
	case errors.Is(err, admin.ErrMirrorUnknown):
		return fmt.Errorf("%s: %w ('berth mirror ls' lists them)", what, err)
	case errors.Is(err, admin.ErrMirrorRuns):
		return fmt.Errorf("%s: %w ('berth mirror status --watch' shows how far it is)", what, err)
	}
	return a.explain(err, what)
}

func printMirrors(w io.Writer, jobs []admin.MirrorJob) error {
	if len(jobs) == 0 {
		_, err := fmt.Fprintln(w, "There are no jobs: the server's configuration has none (mirrors).")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "NAME\tMIRROR\tSCHEDULE\tLAST\tOUTCOME\tNEXT") // Flush says what goes wrong
	for _, j := range jobs {
		last, outcome, next := "never", "-", ago(j.Next, "-")
		if j.Last != nil {
			last, outcome = ago(j.Last.Ended, "-"), j.Last.Outcome
		}
		if j.Running {
			next = "running"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(j.Name), printable(j.Mirror), printable(j.Schedule), last, dash(outcome), next)
	}
	return t.Flush()
}

// mirrorScreen shows how jobs are, and again if that has changed.
type mirrorScreen struct {
	w     io.Writer
	json  bool
	again bool
	last  string
}

// run shows them once, or again and again until ctx ends.
func (s *mirrorScreen) run(ctx context.Context, look func() ([]admin.MirrorJob, error)) error {
	for {
		jobs, err := look()
		if err == nil {
			err = s.show(jobs)
		}
		if err != nil && ctx.Err() == nil || !s.again {
			return err
		}
		select {
		case <-ctx.Done():
			return nil // it was interrupted, as it should be
		case <-time.After(watchEvery):
		}
	}
}

func (s *mirrorScreen) show(jobs []admin.MirrorJob) error {
	var b strings.Builder
	var err error
	switch {
	case s.json && s.again:
		err = printLine(&b, map[string][]admin.MirrorJob{"jobs": jobs})
	case s.json:
		err = printJSON(&b, map[string][]admin.MirrorJob{"jobs": jobs})
	default:
		err = printMirrorStatus(&b, jobs)
	}
	text := b.String()
	if err != nil || text == s.last {
		return err
	}
	if file, ok := s.w.(*os.File); s.last != "" && !s.json {
		before := "\n"
		if ok && term.IsTerminal(int(file.Fd())) { // over what was there before
			before = fmt.Sprintf("\x1b[%dA\x1b[J", strings.Count(s.last, "\n"))
		}
		text = before + text
	}
	s.last = b.String()
	_, err = io.WriteString(s.w, text)
	return err
}

// printMirrorStatus prints how jobs are.
func printMirrorStatus(w io.Writer, jobs []admin.MirrorJob) error {
	if len(jobs) == 0 {
		return printMirrors(w, jobs)
	}
	for i, j := range jobs {
		if i > 0 {
			_, _ = fmt.Fprintln(w)
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		row := func(what, format string, args ...any) { _, _ = fmt.Fprintf(t, what+"\t"+format+"\n", args...) }
		row("name", "%s", printable(j.Name))
		row("mirror", "%s, %s", printable(j.Mirror), printable(j.Schedule))
		shown := j.Last
		if j.Running && j.Now != nil {
			shown = j.Now
			row("running", "since %s: %s", ago(&j.Now.Began, "-"), mirrorCounts(j.Now.Counts))
			if j.Now.Waits != nil {
				row("waits", "until %s: the upstream is not to be asked before", j.Now.Waits.Local().Format(time.TimeOnly))
			}
		}
		if l := j.Last; l == nil {
			row("last", "never")
		} else {
			row("last", "%s, %s: %s", ago(l.Ended, "-"), printable(l.Outcome), mirrorCounts(l.Counts))
			if l.Reason != "" {
				row("reason", "%s", printable(l.Reason))
			}
		}
		if j.Last == nil || j.Last.Outcome != "ok" {
			row("good", "%s", ago(j.Good, "never"))
		}
		if !j.Running {
			row("next", "%s", ago(j.Next, "when 'berth mirror run' says so"))
		}
		if err := t.Flush(); err != nil {
			return err
		}
		if err := printMirrorFailures(w, shown); err != nil {
			return err
		}
	}
	return nil
}

func printMirrorFailures(w io.Writer, run *admin.MirrorRun) error {
	if run == nil || len(run.Failures) == 0 {
		return nil
	}
	for _, f := range run.Failures {
		if _, err := fmt.Fprintf(w, "failed  %s: %s\n", mirrorTag(f.Repo, f.Tag), printable(f.Reason)); err != nil {
			return err
		}
	}
	if more := run.Counts.Failed - int64(len(run.Failures)); more > 0 {
		if _, err := fmt.Fprintf(w, "and %d more\n", more); err != nil {
			return err
		}
	}
	return nil
}

func mirrorTag(repo, tag string) string {
	if tag == "" {
		return printable(repo)
	}
	return printable(repo + ":" + tag)
}

// mirrorCounts says to a user what a run has done.
func mirrorCounts(c admin.MirrorCounts) string {
	text := fmt.Sprintf("%s, %d unchanged, %d copied (%s)", countOf(int(c.Tags), "tag"), c.Unchanged, c.Copied, humanSize(c.Bytes))
	if c.Removed > 0 {
		text += fmt.Sprintf(", %d removed", c.Removed)
	}
	if c.Failed > 0 {
		text += fmt.Sprintf(", %d failed", c.Failed)
	}
	return text
}
