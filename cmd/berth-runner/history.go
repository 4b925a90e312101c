package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/deploy"
)

func newHistoryCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history STACK",
		Short: "Show the revisions of a stack: who, when, which images, and what became of it",
		Long: `Show the revisions of a stack, the newest first: who deployed it, when, how long that
took, from where, with which images, and what became of it. Those that are kept still
have their containers: 'berth-runner rollback' has only to start them.

With --json: a list of {"Number", "By", "From", "Started", "Ended", "Outcome", "Reason",
"Rollback", "Images", "Kept"}.`,
		Example: "  berth-runner history shop",
		Args:    cobra.ExactArgs(1),
	}
	f := addClientFlags(cmd)
	f.addJSON(cmd, "print JSON")
	cmd.ValidArgsFunction = f.completeStack(false, "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.with(func(c *runnerClient) error {
			revisions, err := c.History(cmd.Context(), args[0])
			if err != nil {
				return c.explain(cmd.Context(), err, args[0])
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), revisions)
			}
			rows := [][]string{{"REVISION", "STARTED", "TOOK", "BY", "FROM", "OUTCOME", "KEPT", "IMAGES"}}
			for _, r := range revisions {
				rows = append(rows, historyRow(r))
			}
			return table(cmd.OutOrStdout(), rows)
		})
	}
	return cmd
}

func historyRow(r deploy.Revision) []string {
	took, kept, from, outcome := "-", "-", dash(r.From), printable(outcomeOf(r))
	if !r.Ended.IsZero() {
		took = fmt.Sprintf("%.1fs", r.Ended.Sub(r.Started).Seconds())
	}
	if r.Kept {
		kept = "yes"
	}
	if r.Rollback != 0 {
		from = fmt.Sprintf("revision %d", r.Rollback)
	}
	var images []string
	for _, service := range slices.Sorted(maps.Keys(r.Images)) {
		images = append(images, service+"="+short(r.Images[service]))
	}
	return []string{strconv.Itoa(r.Number), moment(r.Started), took, dash(r.By), from, outcome, kept, dash(strings.Join(images, " "))}
}
