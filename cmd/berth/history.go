package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/registry"
)

// listedHistory is what 'berth history --json' prints.
type listedHistory struct {
	Registry   string `json:"registry"`
	Repository string `json:"repository"`
	admin.History
}

func newHistoryCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history [HOST[:PORT]/]REPOSITORY[:TAG]",
		Short: "Show what a tag has named",
		Long: `Show what a tag, or each tag of a repository, has named, when, and who moved it; the
latest is first. Who may pull the repository may see that. What is kept can be pulled
by its digest, and a tag be moved back to it: see 'berth rollback'.

With --json: {"registry": HOST, "repository": NAME, "moves": [{"tag", "digest",
"moved", "account", "kept"}, ...], "more": BOOL}; a move without a digest is a deletion,
and more says that there are earlier ones.`,
		Example: "  berth history team/app:prod\n  berth history registry.example.org/team/app",
		Args:    cobra.ExactArgs(1),
	}
	f := addClientFlags(cmd)
	most := cmd.Flags().IntP("limit", "n", 100, "show the `N` latest moves, at most 1000")
	cmd.ValidArgsFunction = f.complete(true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := f.parse(args[0])
		if err != nil {
			return err
		}
		switch {
		case n.Digest != "":
			return cli.Usage(errors.New("want a repository or a tag: a digest has no history"))
		case *most < 1 || *most > admin.MaxMoves:
			return cli.Usage(fmt.Errorf("--limit: want 1 to %d", admin.MaxMoves))
		}
		h, err := f.history(cmd.Context(), n, *most)
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), listedHistory{n.Host, n.Repo, h})
		}
		if err := printHistory(cmd.OutOrStdout(), h.Moves); err != nil {
			return err
		}
		if h.More {
			_, err = fmt.Fprintln(cmd.ErrOrStderr(), "There are earlier moves: --limit shows more.")
		}
		return err
	}
	return cmd
}

// history asks the registry, which must be a berth.
func (f *clientFlags) history(ctx context.Context, n name, most int) (h admin.History, err error) {
	a, err := (&adminFlags{registry: n.Host, plainHTTP: f.plainHTTP, cmd: f.cmd}).openRemote(ctx)
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	h, err = a.History(ctx, n.Repo, n.Tag, most)
	what := "cannot show the history of " + n.String()
	switch {
	case errors.Is(err, registry.ErrRouteUnknown):
		return h, fmt.Errorf("%s: %s tells no history of tags: it is no berth of this version", what, n.Host)
	case errors.Is(err, registry.ErrUnauthorized), errors.Is(err, registry.ErrNameUnknown):
		return h, fmt.Errorf("%s: %w (log in with 'docker login %s', if you have not)", what, err, n.Host)
	}
	return h, explain(err, n.Host, what)
}

func printHistory(out io.Writer, moves []admin.TagMove) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "WHEN\tTAG\tDIGEST\tBY\tMANIFEST") // Flush returns what fails
	for _, m := range moves {
		digest, kept := m.Digest, "kept"
		switch {
		case digest == "":
			digest, kept = "(deleted)", "-"
		case !m.Kept:
			kept = "gone"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", ago(&m.Moved, "-"), printable(m.Tag), printable(digest), dash(m.Account), kept)
	}
	return w.Flush()
}
