package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/berth-registry/berth/admin"
)

// collectedSum is what 'berth gc --json' prints.
type collectedSum struct {
	Manifests int   `json:"manifests"`
	Links     int   `json:"links"` // blobs of repositories
	Blobs     int   `json:"blobs"` // stored bytes
	Bytes     int64 `json:"bytes"`
	Failed    int   `json:"failed"`
}

func (s *collectedSum) add(c admin.Collection) {
	s.Failed += c.Failed
	for _, g := range c.Removed {
		s.Bytes += g.Size
		switch g.Kind {
		case "manifest":
			s.Manifests++
		case "link":
			s.Links++
		default:
			s.Blobs++
		}
	}
}

// text says it to a user; verb is what was done.
func (s *collectedSum) text(verb string) string {
	if s.Manifests+s.Links+s.Blobs == 0 {
		return verb + " nothing"
	}
	return fmt.Sprintf("%s %s, %s of repositories, %s of %s", verb,
		countOf(s.Manifests, "manifest"), countOf(s.Links, "blob"), countOf(s.Blobs, "stored blob"), humanSize(s.Bytes))
}

func countOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func newGCCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove now what nothing needs",
		Long: `Remove now what nothing needs. A server does so by itself, when something has been
garbage for the grace period (gc.grace); this does not wait for that, but what a
client was just told of, or has just pushed, stays until its lease ends (gc.lease).
Pushes and pulls go on meanwhile. To interrupt it loses nothing.

What a tag leads to is kept, through indexes and referrers; what a tag has named
lately (gc.history, gc.moves); and what nodes report to run ('berth nodes').

--dry-run lists what would go, and removes nothing. With --json it prints
{"garbage": [{"kind": "manifest", "link" or "blob", "repository", "digest", "size",
"since", "why"}, ...], "manifests", "links", "blobs", "bytes", "failed"}: a link is a
blob of a repository, a blob is stored bytes. Without --dry-run the list is left out.`,
		Example: "  berth gc --dry-run\n  berth gc",
		Args:    cobra.NoArgs,
	}
	f := addAdminFlags(cmd)
	dry := cmd.Flags().Bool("dry-run", false, "list what would be removed, and remove nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		return f.with(ctx, false, func(a *administration) error {
			if *dry {
				return f.plan(ctx, a)
			}
			return f.collect(ctx, a)
		})
	}
	return cmd
}

// collect collects garbage and says what went.
func (f *adminFlags) collect(ctx context.Context, a *administration) error {
	var sum collectedSum
	bar := newCollectionBar(f.cmd.ErrOrStderr(), f.json)
	err := a.Collect(ctx, func(c admin.Collection) error {
		sum.add(c)
		bar.tell(c, sum)
		return nil
	})
	bar.end()
	out := f.cmd.OutOrStdout()
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted: what is left is collected later")
	}
	switch {
	case err != nil && sum != (collectedSum{}): // what went is gone
		_, _ = fmt.Fprintln(f.cmd.ErrOrStderr(), sum.text("removed until then"))
		return a.explain(err, "cannot collect all garbage")
	case err != nil:
		return a.explain(err, "cannot collect garbage")
	case f.json:
		if err := printJSON(out, sum); err != nil {
			return err
		}
	default:
		if _, err := fmt.Fprintln(out, sum.text("removed")); err != nil {
			return err
		}
	}
	if sum.Failed > 0 {
		return fmt.Errorf("%s could not be deleted: the server's log says why, and it will try again", countOf(sum.Failed, "stored blob"))
	}
	return nil
}

// plan lists what a collection would remove, line by line: there may be much.
func (f *adminFlags) plan(ctx context.Context, a *administration) error {
	list := garbageTable{w: f.cmd.OutOrStdout(), json: f.json}
	var sum collectedSum
	err := a.Plan(ctx, func(c admin.Collection) error {
		sum.add(c)
		for _, g := range c.Removed {
			if err := list.add(g); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return a.explain(err, "cannot find out what is garbage")
	}
	return list.end(sum)
}

// garbageTable prints garbage as it comes.
type garbageTable struct {
	w    io.Writer
	json bool
	rows int
}

func (t *garbageTable) add(g admin.Garbage) error {
	t.rows++
	if t.json {
		return printItem(t.w, "garbage", t.rows, g)
	}
	row := "%-8s  %9s  %-16s  %-71s  %-30s  %s\n"
	if t.rows == 1 {
		if _, err := fmt.Fprintf(t.w, row, "WHAT", "SIZE", "SINCE", "DIGEST", "REPOSITORY", "WHY"); err != nil {
			return err
		}
	}
	size := "-"
	if g.Kind == "blob" {
		size = humanSize(g.Size)
	}
	_, err := fmt.Fprintf(t.w, row, printable(g.Kind), size, ago(&g.Since, "-"), printable(g.Digest), dash(g.Repo), printable(g.Why))
	return err
}

func (t *garbageTable) end(sum collectedSum) error {
	if !t.json {
		_, err := fmt.Fprintln(t.w, sum.text("would remove"))
		return err
	}
	if t.rows == 0 {
		return printJSON(t.w, struct {
			Garbage []admin.Garbage `json:"garbage"`
			collectedSum
		}{[]admin.Garbage{}, sum})
	}
	data, err := json.MarshalIndent(sum, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.w, "\n  ],%s\n", data[len("{"):])
	return err
}

// collectionBar shows how far a collection is, on a terminal.
type collectionBar struct {
	bars *mpb.Progress // nil if there is no terminal
	bar  *mpb.Bar
	sum  collectedSum
	done int64
	most int64
}

func newCollectionBar(w io.Writer, quiet bool) *collectionBar {
	b := &collectionBar{}
	if b.bars = newBars(w, quiet); b.bars == nil {
		return b
	}
	b.bar = b.bars.AddBar(0, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.CountersNoUnit("looked at %d of %d ")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return humanSize(b.sum.Bytes) + " freed" })))
	return b
}

// tell shows a part. What goes makes more garbage, so that the end moves on.
func (b *collectionBar) tell(c admin.Collection, sum collectedSum) {
	if b.bars == nil {
		return
	}
	b.sum = sum
	b.done += int64(c.Reviewed)
	b.most = max(b.most, int64(c.Queued), b.done)
	b.bar.SetTotal(b.most+1, false)
	b.bar.SetCurrent(b.done)
}

// end takes the bar away.
func (b *collectionBar) end() {
	if b.bars != nil {
		b.bar.Abort(true)
		b.bars.Wait()
	}
}
