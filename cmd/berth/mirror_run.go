package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/berth-registry/berth/admin"
)

func newMirrorRunCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "Run a job now",
		Long: `Run a job now, whatever its schedule says, and wait for its end. What is here already
is not copied again. To interrupt it loses nothing that was copied, and leaves the rest
for the job's time.

--dry-run lists what would be copied and removed, and changes nothing; signatures and
the like of single platforms are not in the list.

With --json: {"actions": [{"action": "copy" or "remove", "repository", "upstream",
"digest", "tags": [TAG, ...]}, ...], "failures": [{"repository", "tag", "reason"}, ...],
"counts": {"repositories": N, "tags": N, "unchanged": N, "copied": N, "failed": N,
"removed": N, "bytes": N}}; upstream is what the repository is called there.`,
		Example: "  berth mirror run nightly --dry-run\n  berth mirror run nightly",
		Args:    cobra.ExactArgs(1),
	}
	f := addServerFlags(cmd)
	dry := cmd.Flags().Bool("dry-run", false, "list what would be done, and do nothing")
	cmd.ValidArgsFunction = f.completeWith(1, mirrorNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		return f.with(ctx, false, func(a *administration) error {
			return f.mirror(ctx, a, args[0], *dry)
		})
	}
	return cmd
}

// mirror runs a job, or lists what it would do.
func (f *adminFlags) mirror(ctx context.Context, a *administration, name string, dry bool) error {
	run := a.Mirror
	if dry {
		run = a.PlanMirror
	}
	list := &mirrorList{w: f.cmd.OutOrStdout(), json: f.json}
	bar := newMirrorBar(f.cmd.ErrOrStderr(), f.json || dry)
	err := run(ctx, name, func(s admin.MirrorStep) error {
		bar.tell(s)
		return list.add(s)
	})
	bar.end()
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted: what is missing is copied at the job's time")
	}
	told := errors.Is(err, admin.ErrMirror) || err == nil
	if told || list.begun() {
		if err := list.end(dry); err != nil {
			return err
		}
	}
	return explainMirror(a, err, "cannot mirror all of "+name)
}

// mirrorList prints what a run does as it comes.
type mirrorList struct {
	w        io.Writer
	json     bool
	rows     int
	counts   admin.MirrorCounts
	failures []admin.MirrorFailure
}

// maxMirrorFailures is how many failures are kept for the end of the JSON.
const maxMirrorFailures = 10_000

func (l *mirrorList) add(s admin.MirrorStep) error {
	l.counts = s.Counts
	if f := s.Failure; f != nil {
		if len(l.failures) < maxMirrorFailures {
			l.failures = append(l.failures, *f)
		}
		if !l.json {
			_, err := fmt.Fprintf(l.w, "failed  %s: %s\n", mirrorTag(f.Repo, f.Tag), printable(f.Reason))
			return err
		}
	}
	if s.Waits != nil && !l.json {
		_, err := fmt.Fprintf(l.w, "waits   until %s: the upstream is not to be asked before\n", s.Waits.Local().Format(time.TimeOnly))
		return err
	}
	if s.Done == nil || s.Done.Action == "keep" {
		return nil
	}
	l.rows++
	if l.json {
		return printItem(l.w, "actions", l.rows, s.Done)
	}
	for _, tag := range s.Done.Tags {
		if _, err := fmt.Fprintf(l.w, "%-6s  %s  %s\n", printable(s.Done.Action), mirrorTag(s.Done.Repo, tag), printable(s.Done.Digest)); err != nil {
			return err
		}
	}
	return nil
}

// begun says that something was printed.
func (l *mirrorList) begun() bool { return l.rows > 0 || len(l.failures) > 0 }

func (l *mirrorList) end(dry bool) error {
	if !l.json {
		text := mirrorCounts(l.counts)
		if dry {
			text = fmt.Sprintf("would copy %d and remove %d of %s; %d are unchanged", l.counts.Copied, l.counts.Removed, countOf(int(l.counts.Tags), "tag"), l.counts.Unchanged)
		}
		_, err := fmt.Fprintln(l.w, text)
		return err
	}
	rest := struct {
		Failures []admin.MirrorFailure `json:"failures"`
		Counts   admin.MirrorCounts    `json:"counts"`
	}{l.failures, l.counts}
	if rest.Failures == nil {
		rest.Failures = []admin.MirrorFailure{}
	}
	data, err := json.MarshalIndent(rest, "", "  ")
	if err != nil {
		return err
	}
	begin := "\n  ],"
	if l.rows == 0 {
		begin = "{\n  \"actions\": [],"
	}
	_, err = fmt.Fprintf(l.w, "%s\n%s\n", begin, data[len("{\n"):])
	return err
}

// printLine writes v on a line.
func printLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// mirrorBar shows how far a run is, on a terminal.
type mirrorBar struct {
	bars  *mpb.Progress // nil if there is no terminal
	bar   *mpb.Bar
	bytes atomic.Int64
}

func newMirrorBar(w io.Writer, quiet bool) *mirrorBar {
	b := &mirrorBar{}
	if b.bars = newBars(w, quiet); b.bars == nil {
		return b
	}
	b.bar = b.bars.AddBar(0, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.CountersNoUnit("%d of %d images ")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return humanSize(b.bytes.Load()) + " copied" })))
	return b
}

// tell shows a part. What is still to be done is found on the way, so that the end
// moves on.
func (b *mirrorBar) tell(s admin.MirrorStep) {
	if b.bars == nil {
		return
	}
	b.bytes.Store(s.Counts.Bytes)
	b.bar.SetTotal(s.Steps+1, false)
	b.bar.SetCurrent(s.Ended)
}

// end takes the bar away.
func (b *mirrorBar) end() {
	if b.bars != nil {
		b.bar.Abort(true)
		b.bars.Wait()
	}
}
