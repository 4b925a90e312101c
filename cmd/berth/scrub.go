package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
)

func newScrubCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scrub",
		Short: "Check whether what is stored is still what it should be",
		Long: `Check whether what is stored is still what it should be. A server reads all of it
again and again, slowly (scrub.interval, scrub.rate). What is damaged is moved to
the directory quarantine beside its data, and is unknown to clients until somebody
pushes it again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newScrubStatusCmd(), newScrubStartCmd())
	return cmd
}

func newScrubStatusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is damaged, and how far the check is",
		Long: `Show what is damaged, since when, and which repositories need it; and how far the
check of what is stored is. To mend what is damaged, push it again.

With --json: {"running": true, "wanted": false, "round": {"began": TIME, "blobs": N,
"bytes": N, "damaged": N, "leaked": N}, "last": {the same, and "finished": TIME},
"next": TIME, "problem": MESSAGE, "blobs": N, "bytes": N, "damaged_count": N,
"damaged": [{"digest", "damage": "missing", "size", "digest" or "unreadable", "size":
N, "since": TIME, "quarantined": true, "repositories": [NAME, ...]}]}.`,
		Example: "  berth scrub status\n  berth scrub status --json | jq -r '.damaged[].repositories[]' | sort -u",
		Args:    cobra.NoArgs,
	}
	f := addAdminFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.with(cmd.Context(), false, func(a *administration) error {
			st, err := a.ScrubStatus(cmd.Context())
			if err != nil {
				return a.explain(err, "cannot show how the check is")
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), st)
			}
			return printScrub(cmd.OutOrStdout(), st)
		})
	}
	return cmd
}

func newScrubStartCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Check all that is stored now",
		Long: `Check all that is stored now, at the pace of scrub.rate; it does not wait for the
end. If no server runs, it is done when one does. A check that has stopped, as
nothing could be read, goes on, and takes what it cannot read for damaged.

With --json: {"started": true, "waits": false}; "started" is false if a check goes on
already, "waits" is true until a server runs.`,
		Example: "  berth scrub start",
		Args:    cobra.NoArgs,
	}
	f := addAdminFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.with(cmd.Context(), false, func(a *administration) error {
			s, err := a.StartScrub(cmd.Context())
			if err != nil {
				return a.explain(err, "cannot begin to check")
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), s)
			}
			said := "checking all that is stored: 'berth scrub status' shows how far it is"
			switch {
			case !s.Started && s.Waits:
				said = "a check has begun already: it goes on when a server runs"
			case !s.Started:
				said = "a check goes on already: 'berth scrub status' shows how far it is"
			case s.Waits:
				said = "all that is stored will be checked when a server runs"
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), said)
			return err
		})
	}
	return cmd
}

// printScrub prints how the check is, and what is damaged.
func printScrub(w io.Writer, st admin.ScrubStatus) error {
	var b strings.Builder
	switch r := st.Round; {
	case r != nil && st.Problem != "":
		fmt.Fprintf(&b, "stopped   %s; began %s\n", scrubbed(*r, st), ago(&r.Began, ""))
	case r != nil && !st.Running:
		fmt.Fprintf(&b, "waits     %s; began %s\n", scrubbed(*r, st), ago(&r.Began, ""))
	case r != nil:
		fmt.Fprintf(&b, "checking  %s; began %s\n", scrubbed(*r, st), ago(&r.Began, ""))
	case st.Wanted:
		b.WriteString("waits     it begins when a server runs\n")
	}
	if st.Problem != "" {
		fmt.Fprintf(&b, "problem   %s\n", printable(st.Problem))
	}
	if r := st.Last; r != nil {
		fmt.Fprintf(&b, "finished  %s: %d blobs (%s) in %s, %d damaged, %d that nothing knew\n",
			ago(r.Finished, "never"), r.Blobs, humanSize(r.Bytes), r.Finished.Sub(r.Began).Round(time.Second), r.Damaged, r.Leaked)
	} else {
		b.WriteString("finished  never\n")
	}
	if st.Next != nil {
		fmt.Fprintf(&b, "next      %s\n", ago(st.Next, ""))
	}
	fmt.Fprintf(&b, "damaged   %d\n", st.Count)
	if _, err := io.WriteString(w, b.String()); err != nil || len(st.Damaged) == 0 {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "\nDIGEST\tDAMAGE\tSIZE\tSINCE\tREPOSITORIES") // Flush says what goes wrong
	for _, d := range st.Damaged {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", printable(d.Digest), printable(d.Damage), humanSize(d.Size), ago(&d.Since, ""),
			cmp.Or(printable(strings.Join(d.Repos, ", ")), "-"))
	}
	if more := st.Count - int64(len(st.Damaged)); more > 0 {
		_, _ = fmt.Fprintf(t, "and %d more\n", more)
	}
	return t.Flush()
}

// scrubbed says how far a round is.
func scrubbed(r admin.ScrubRound, st admin.ScrubStatus) string {
	percent := 100.0
	if st.Bytes > 0 {
		percent = min(100, 100*float64(r.Bytes)/float64(st.Bytes))
	}
	return fmt.Sprintf("%d of %d blobs, %s of %s (%.0f%%)", r.Blobs, st.Blobs, humanSize(r.Bytes), humanSize(st.Bytes), percent)
}
