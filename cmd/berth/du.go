package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/registry"
)

func newDuCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "du [REPOSITORY or PATTERN]...",
		Short: "Show how much repositories and quotas use",
		Long: `Show how many bytes repositories hold, the largest first, and how many of these no
other repository holds: what is free without it, once it is collected. A layer
that is in a repository twice counts once. It is kept, not computed. Without
administering the registry, one is shown what one may pull, without what it
shares with others.

With --quota it shows how much of each quota of the configuration is used.

With --json: {"counted": true, "repositories": [{"repository": NAME, "bytes": N,
"own": N, "shared": N, "tags": N, "manifests": N}], "total": {"stored": N, "held": N,
"bytes": N, "saved": N, "garbage": N, "tags": N, "blobs": N}, "quotas": [{"name":
PATTERNS, "counted": true, "bytes": N, "max_bytes": N, "tags": N, "max_tags": N}]}.
"counted" is false while a store is counted that is older than the counts, or a
quota is that is new: then all is too low, and the quota limits nothing.`,
		Example: "  berth du\n  berth du mongo 'team/**'\n  berth du --quota",
	}
	f := addAdminFlags(cmd)
	quota := cmd.Flags().Bool("quota", false, "show the quotas")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *quota && len(args) > 0 {
			return cli.Usage(errors.New("--quota shows all quotas: want no repositories"))
		}
		for _, arg := range args {
			if !auth.ValidPattern(arg) {
				return cli.Usage(fmt.Errorf(`%q is no repository, and no pattern such as "team/**"`, printable(arg)))
			}
		}
		return f.with(cmd.Context(), false, func(a *administration) error {
			page, err := findUsage(cmd.Context(), a.Client, args, *quota)
			switch {
			case err != nil:
				return a.explain(err, "cannot show what is used")
			case *quota && page.Total == nil:
				return a.explain(registry.ErrDenied.With("only who administers the registry may see the quotas"), "cannot show what is used")
			case f.json:
				return printJSON(cmd.OutOrStdout(), page)
			case *quota:
				err = printQuotas(cmd.OutOrStdout(), page.Quotas)
			default:
				err = printUsage(cmd.OutOrStdout(), page, len(args) == 0)
			}
			if err == nil && !page.Counted {
				_, err = fmt.Fprintln(cmd.ErrOrStderr(), "It is still being counted by 'berth serve': what is shown is too low.")
			}
			return err
		})
	}
	return cmd
}

// findUsage finds what repositories use that are named, or that patterns match; all
// if there are none. The largest is the first.
func findUsage(ctx context.Context, c *admin.Client, args []string, quota bool) (all admin.UsagePage, err error) {
	switch {
	case quota:
		if all, err = c.Usage(ctx, "", 1); err == nil && all.Quotas == nil {
			all.Quotas = []admin.QuotaUsage{}
		}
		all.Repos, all.Next = []admin.RepoUsage{}, ""
		return all, err
	case len(args) > 0 && !slices.ContainsFunc(args, func(arg string) bool { return !registry.ValidRepository(arg) }):
		slices.Sort(args)
		all, err = c.UsageOf(ctx, slices.Compact(args)...)
	default:
		all, err = allUsage(ctx, c, args)
	}
	slices.SortFunc(all.Repos, func(a, b admin.RepoUsage) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Repo, b.Repo))
	})
	return all, err
}

// allUsage finds what repositories use that patterns match.
func allUsage(ctx context.Context, c *admin.Client, patterns []string) (all admin.UsagePage, err error) {
	for after := ""; ; {
		page, err := c.Usage(ctx, after, 0)
		if err != nil {
			return all, err
		}
		if after == "" {
			all = page
			all.Repos = []admin.RepoUsage{}
		}
		for _, u := range page.Repos {
			if len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return auth.Match(p, u.Repo) }) {
				all.Repos = append(all.Repos, u)
			}
		}
		if page.Next <= after { // it is the last, or the server does not get on
			all.Next = ""
			return all, nil
		}
		after = page.Next
	}
}

func printUsage(out io.Writer, page admin.UsagePage, total bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	all := page.Total != nil
	header := "REPOSITORY\tBYTES\t"
	if all {
		header += "OWN\tSHARED\t"
	}
	_, err := fmt.Fprintln(w, header+"TAGS\tMANIFESTS")
	for _, u := range page.Repos {
		line := printable(u.Repo) + "\t" + humanSize(u.Bytes) + "\t"
		if u.Own != nil && u.Shared != nil {
			line += humanSize(*u.Own) + "\t" + humanSize(*u.Shared) + "\t"
		}
		_, werr := fmt.Fprintf(w, "%s%d\t%d\n", line, u.Tags, u.Manifests)
		err = errors.Join(err, werr)
	}
	err = errors.Join(err, w.Flush())
	if t := page.Total; all && total {
		_, werr := fmt.Fprintf(out, "\n%s stored, of which %s wait to be collected; %s saved, as what several repositories hold is stored once\n",
			humanSize(t.Stored), humanSize(t.Garbage), humanSize(t.Saved))
		err = errors.Join(err, werr)
	}
	return err
}

func printQuotas(out io.Writer, quotas []admin.QuotaUsage) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprintln(w, "REPOSITORIES\tBYTES\tLIMIT\tTAGS\tLIMIT\tSTATE")
	for _, q := range quotas {
		_, werr := fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", printable(q.Name), humanSize(q.Bytes), limitText(q.MaxBytes, humanSize(q.MaxBytes)),
			q.Tags, limitText(int64(q.MaxTags), strconv.Itoa(q.MaxTags)), quotaState(q))
		err = errors.Join(err, werr)
	}
	return errors.Join(err, w.Flush())
}

func limitText(limit int64, text string) string {
	if limit == 0 {
		return "-"
	}
	return text
}

// quotaState says what a quota does.
func quotaState(q admin.QuotaUsage) string {
	var full []string
	if q.MaxBytes > 0 && q.Bytes >= q.MaxBytes {
		full = append(full, "bytes")
	}
	if q.MaxTags > 0 && q.Tags >= int64(q.MaxTags) {
		full = append(full, "tags")
	}
	switch {
	case !q.Counted:
		return "being counted"
	case len(full) > 0:
		return "no more " + strings.Join(full, " and ")
	case q.MaxBytes > 0:
		return fmt.Sprintf("%d%% used", int64(float64(q.Bytes)/float64(q.MaxBytes)*100))
	default:
		return fmt.Sprintf("%d%% used", int64(float64(q.Tags)/float64(q.MaxTags)*100))
	}
}
