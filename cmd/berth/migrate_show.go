package main

import (
	"fmt"
	"io"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/migrating"
)

// migrateBar shows how far a migration is.
type migrateBar struct {
	w     io.Writer
	quiet bool
	bars  *mpb.Progress // nil if there is no terminal
	bar   *mpb.Bar
	phase string
	done  *admin.MigrateDone
}

func newMigrateBar(w io.Writer, quiet bool) *migrateBar {
	b := &migrateBar{w: w, quiet: quiet}
	if b.bars = newBars(w, quiet); b.bars == nil {
		return b
	}
	b.bar = b.bars.AddBar(0, mpb.BarRemoveOnComplete(),
		mpb.AppendDecorators(decor.CountersKiloByte("% .1f / % .1f"), decor.AverageSpeed(decor.SizeB1000(0), " % .1f"), decor.AverageETA(decor.ET_STYLE_GO, decor.WC{W: 8})))
	return b
}

// phaseText says what a phase is, as it begins.
func phaseText(phase string) string {
	switch migrating.Phase(phase) {
	case migrating.PhaseCopy:
		return "copying while the registry is written to"
	case migrating.PhaseSwitch:
		return "writes are refused from now on; copying the rest"
	case migrating.PhaseVerify:
		return "comparing"
	case migrating.PhaseDone:
	}
	return ""
}

func (b *migrateBar) tell(step admin.MigrateStep) {
	if step.Done != nil {
		b.done = step.Done
		return
	}
	if step.Problem != nil && !b.quiet && b.bars == nil {
		_, _ = fmt.Fprintf(b.w, "%s: %s\n", printable(step.Problem.Digest), printable(step.Problem.Reason))
	}
	if step.Phase != "" && step.Phase != b.phase {
		b.phase = step.Phase
		if text := phaseText(step.Phase); text != "" && !b.quiet && b.bars == nil {
			_, _ = fmt.Fprintln(b.w, text)
		}
	}
	if b.bars != nil && step.TotalBytes > 0 {
		b.bar.SetTotal(step.TotalBytes+1, false) // it ends when all is compared
		b.bar.SetCurrent(step.Bytes)
	}
}

// end takes the bar away, and lists what it has kept from being seen.
func (b *migrateBar) end() {
	if b.bars == nil {
		return
	}
	b.bar.Abort(true)
	b.bars.Wait()
	if b.done == nil {
		return
	}
	for _, p := range b.done.Problems {
		_, _ = fmt.Fprintf(b.w, "%s: %s\n", printable(p.Digest), printable(p.Reason))
	}
}

// print says what was done, and what to do next.
func (b *migrateBar) print(w io.Writer, f *migrateFlags, failed error) error {
	if b.done == nil || failed != nil && !f.json {
		return nil
	}
	if f.json {
		return printJSON(w, b.done)
	}
	d := b.done
	if d.Already {
		_, err := fmt.Fprintf(w, "it was moved to %s already\n", f.request.To)
		return err
	}
	if f.request.DryRun {
		_, err := fmt.Fprintf(w, "would move %s (%s) to %s: %s (%s) to copy, %d are there; %s, %s\n",
			countOf(int(d.Blobs), "blob"), humanSize(d.Bytes), f.request.To, countOf(int(d.CopiedBlobs), "blob"), humanSize(d.CopiedBytes), d.PresentBlobs,
			countOf(int(d.Rows), "row"), countOf(int(d.Uploads), "upload session"))
		return err
	}
	_, err := fmt.Fprintf(w, "moved to %s: %s (%s), %s, %s; all was compared, and writes were refused for %.1f s\n",
		f.request.To, countOf(int(d.Blobs), "blob"), humanSize(d.Bytes), countOf(int(d.Rows), "row"), countOf(int(d.Uploads), "upload session"), d.ReadOnlySeconds)
	if err == nil && d.DroppedUploads > 0 {
		_, err = fmt.Fprintf(w, "%s had lost their bytes, and start again\n", countOf(int(d.DroppedUploads), "upload session"))
	}
	if err == nil {
		_, err = fmt.Fprint(w, next(f))
	}
	return err
}

// next says what to do after a migration.
func next(f *migrateFlags) string {
	serve := "berth serve"
	if f.config != "" {
		serve += " --config " + f.config
	}
	if f.request.Dir != "" {
		serve += " --data " + f.request.Dir
	}
	before := "Stop the old server, which answers pulls until then, and start the new ones:\n"
	if f.request.Keep {
		before = "The source goes on by itself: what is pushed to it from now on is not at the target. Start that with:\n"
	}
	text := before + "  " + serve + "\n"
	if f.request.S3 == nil || f.request.Postgres == nil {
		text += "Its configuration must name no other stores than those of --to.\n"
	}
	return text
}
