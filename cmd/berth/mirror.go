package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/registry"
)

const mirrorJSON = `"jobs": [{"name", "mirror", "schedule", "running": true,
"now": {"began": TIME, "waits": TIME, "counts": {"repositories": N, "tags": N,
"unchanged": N, "copied": N, "failed": N, "removed": N, "bytes": N}, "failures":
[{"repository", "tag", "reason"}, ...]}, "last": {the same, and "ended": TIME, "outcome":
"ok", "failed", "postponed", "interrupted" or "cut off", "reason"}, "good": TIME, "next":
TIME}, ...]}. What is not known, or not yet, is left out.`

// mirrorsJSON is what 'status' has before the jobs.
const mirrorsJSON = `

With --json: {"mirrors": [{"name", "prefix", "upstream", "available": true, "until": TIME,
"reason", "ratelimit": {"limit": N, "remaining": N, "window": SECONDS, "at": TIME},
"requests": {"ok": N, "not_found": N, "refused": N, "limited": N, "failed": N,
"rejected": N}, "cache": {"bytes": N, "manifests": N, "quota": N, "keep": SECONDS, "full":
false, "hits": N, "misses": N, "stale": N, "failures": N, "corrupt": N, "filling": N,
"fetched": N}}, ...], `

func newMirrorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mirror",
		Short: "See the mirrors of other registries, and run the jobs that copy from them",
		Long: `See how the mirrors of other registries are (mirrors in the server's configuration), and
see and run the jobs that copy from them on a schedule, before anybody asks for an image
(sync). What clients pull through a mirror needs no job.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newMirrorLsCmd(), newMirrorStatusCmd(), newMirrorRunCmd())
	return cmd
}

func newMirrorLsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the jobs, when they ran last, and when they will",
		Long: `List the jobs, when they ran last, and when they will.

With --json: {` + mirrorJSON,
		Example: "  berth mirror ls",
		Args:    cobra.NoArgs,
	}
	f := addServerFlags(cmd)
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
		Short: "Show how the mirrors and the jobs are, and what went wrong",
		Long: `Show how the mirrors are: whether the upstream may be asked, and if not why and until
when it is left alone, what it has said of its limit, and what is cached; and how far the
jobs are, how their last run has ended, and what went wrong. With a NAME, it is the mirror
of that name with its jobs, or the job. What became of requests is what the server that
is asked has seen since it started.

--watch shows it again whenever it changes, until it is interrupted.` + mirrorsJSON + mirrorJSON + `
With --watch, each is on one line.`,
		Example: "  berth mirror status\n  berth mirror status hub\n  berth mirror status nightly --watch",
		Args:    cobra.MaximumNArgs(1),
	}
	f := addServerFlags(cmd)
	watch := cmd.Flags().Bool("watch", false, "show it again whenever it changes")
	cmd.ValidArgsFunction = f.completeWith(1, mirrorAndJobNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		return f.with(ctx, false, func(a *administration) error {
			s := &mirrorScreen{w: cmd.OutOrStdout(), json: f.json, again: *watch}
			err := s.run(ctx, func() (admin.MirrorStatus, error) { return oneMirror(ctx, a, args) })
			return explainMirror(a, err, "cannot show how the mirrors are")
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

// mirrorAndJobNames lists mirrors and jobs for completion.
func mirrorAndJobNames(ctx context.Context, a *administration) (names []string, err error) {
	s, err := a.MirrorStatus(ctx)
	for _, m := range s.Mirrors {
		names = append(names, m.Name)
	}
	for _, j := range s.Jobs {
		names = append(names, j.Name)
	}
	slices.Sort(names)
	return slices.Compact(names), err
}

// oneMirror returns the mirror that args name with its jobs, or the job, or all.
func oneMirror(ctx context.Context, a *administration, args []string) (admin.MirrorStatus, error) {
	s, err := a.MirrorStatus(ctx)
	if err != nil || len(args) == 0 {
		return s, err
	}
	name := args[0]
	s.Mirrors = slices.DeleteFunc(s.Mirrors, func(m admin.Mirror) bool { return m.Name != name })
	s.Jobs = slices.DeleteFunc(s.Jobs, func(j admin.MirrorJob) bool {
		return j.Name != name && (len(s.Mirrors) == 0 || j.Mirror != name)
	})
	if len(s.Mirrors) == 0 && len(s.Jobs) == 0 {
		return s, admin.ErrMirrorUnknown.With("there is no mirror or job %q", name)
	}
	return s, nil
}

// explainMirror says what to do about an error.
func explainMirror(a *administration, err error, what string) error {
	switch {
	case err == nil:
		return nil
	case a.local && errors.Is(err, registry.ErrRouteUnknown):
		return fmt.Errorf("%s: no server runs that has mirrors: start it with 'berth serve', with this --data or --config", what)
	case errors.Is(err, admin.ErrMirrorUnknown):
		return fmt.Errorf("%s: %w ('berth mirror status' shows them all)", what, err)
	case errors.Is(err, admin.ErrMirrorRuns):
		return fmt.Errorf("%s: %w ('berth mirror status --watch' shows how far it is)", what, err)
	}
	return a.explain(err, what)
}

func printMirrors(w io.Writer, jobs []admin.MirrorJob) error {
	if len(jobs) == 0 {
		_, err := fmt.Fprintln(w, "There are no jobs: the server's configuration has none (sync).")
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
