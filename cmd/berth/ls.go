package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// listedRepos is what 'berth ls --json' prints.
type listedRepos struct {
	Registry     string   `json:"registry"`
	Repositories []string `json:"repositories"`
}

func newLsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls [HOST[:PORT]]",
		Short: "List the repositories of a registry",
		Long: `List the repositories of a registry, one on a line.

With --json: {"registry": HOST, "repositories": [NAME, ...]}.`,
		Example: "  berth ls\n  berth ls registry.example.org --filter team/",
		Args:    cobra.MaximumNArgs(1),
	}
	f := addClientFlags(cmd)
	filter := cmd.Flags().String("filter", "", "list only repositories with this `TEXT` in their name")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		host := f.registry
		if len(args) > 0 {
			host = strings.TrimSuffix(args[0], "/")
		}
		c, err := f.open(host)
		if err != nil {
			return err
		}
		found := listedRepos{Registry: host, Repositories: []string{}}
		for repo, err := range c.Repositories(cmd.Context(), "") {
			switch {
			case err != nil:
				return explain(err, host, "cannot list the repositories of "+host)
			case !strings.Contains(repo, *filter):
			case f.json:
				found.Repositories = append(found.Repositories, repo)
			default:
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), printable(repo)); err != nil {
					return err
				}
			}
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), found)
		}
		return nil
	}
	return cmd
}
