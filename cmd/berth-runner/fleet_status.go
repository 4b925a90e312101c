package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

// printFollowing prints how stacks are doing that follow tags of registries: all, or the
// one of that name.
func printFollowing(ctx context.Context, w io.Writer, c *runnerClient, stack string) error {
	list, err := c.Following(ctx)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(f deploy.Following) bool { return stack != "" && f.Stack != stack })
	if len(list) == 0 {
		return nil
	}
	rows := [][]string{{"\nSTACK", "FOLLOWS", "NODE", "RUNS", "TAG", "STATE"}}
	for _, f := range list {
		rows = append(rows, []string{f.Stack, f.Ref, f.Node, dash(short(f.Running)), dash(short(f.Tag)), followState(f)})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	for _, f := range list {
		for _, note := range []struct{ what, text string }{
			{"the registry does not answer", f.Away}, {short(f.Target) + " has failed", f.Error},
		} {
			if note.text == "" {
				continue
			}
			if _, err := fmt.Fprintf(w, "%s: %s: %s\n", printable(f.Stack), note.what, printable(note.text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// followState is the state of a stack that follows, in a few words.
func followState(f deploy.Following) string {
	switch {
	case f.State == runner.FollowDeploying:
		return "deploying " + short(f.Target)
	case f.State == runner.FollowFailed:
		return "failed " + short(f.Target)
	case f.Reason != "":
		return "waiting: " + printable(f.Reason)
	case f.Heard.IsZero():
		return "not heard yet"
	case f.Away != "":
		return "on its own since " + f.Heard.Local().Format(time.DateTime)
	}
	return string(f.State)
}
