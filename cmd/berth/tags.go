package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/cli"
)

// listedTags is what 'berth tags --json' prints.
type listedTags struct {
	Registry   string   `json:"registry"`
	Repository string   `json:"repository"`
	Tags       []string `json:"tags"`
}

func newTagsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tags [HOST[:PORT]/]REPOSITORY",
		Short: "List the tags of a repository",
		Long: `List the tags of a repository, one on a line.

With --json: {"registry": HOST, "repository": NAME, "tags": [TAG, ...]}.`,
		Example: "  berth tags mongo\n  berth tags ghcr.io/oras-project/oras",
		Args:    cobra.ExactArgs(1),
	}
	f := addClientFlags(cmd)
	cmd.ValidArgsFunction = f.complete(false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := f.parse(args[0])
		if err != nil {
			return err
		}
		if n.Tag != "" || n.Digest != "" {
			return cli.Usage(errors.New("want a repository, without tag and digest: 'berth inspect' shows one tag"))
		}
		c, err := f.open(n.Host)
		if err != nil {
			return err
		}
		found := listedTags{Registry: n.Host, Repository: n.Repo, Tags: []string{}}
		for tag, err := range c.Tags(cmd.Context(), n.Repo, "") {
			if err != nil {
				return explain(err, n.Host, "cannot list the tags of "+n.String())
			}
			if f.json {
				found.Tags = append(found.Tags, tag)
			} else if _, err := fmt.Fprintln(cmd.OutOrStdout(), printable(tag)); err != nil {
				return err
			}
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), found)
		}
		return nil
	}
	return cmd
}
