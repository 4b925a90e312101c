package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/migrating"
	"github.com/berth-registry/berth/storage"
)

// migrate has the server that runs move, or moves its data if none does.
func migrate(ctx context.Context, from config.Config, r admin.MigrateRequest, tell func(admin.MigrateStep)) (err error) {
	if !from.Storage.Postgres.On() {
		a, err := openSocket(ctx, from)
		if err != nil {
			return err
		}
		if a != nil {
			return a.Migrate(ctx, r, func(step admin.MigrateStep) error { tell(step); return nil })
		}
	}
	data, closeData, err := openSource(ctx, from.Storage)
	if err != nil {
		return fmt.Errorf("the source: %w", err)
	}
	defer func() { err = errors.Join(err, closeData()) }()
	if err := nobodyServes(ctx, data.meta); err != nil {
		return err
	}
	source := migrateSource{storage: from.Storage, data: data}
	return source.migrate(ctx, r, tell)
}

// openSource opens the stores of a registry that no server of this machine has open.
func openSource(ctx context.Context, c config.Storage) (data *stores, closeData func() error, err error) {
	unlock := func() error { return nil }
	if !c.S3.On() || !c.Postgres.On() {
		if _, err := os.Stat(c.Data); err != nil {
			return nil, nil, err
		}
		if missing, err := lacksMeta(c.Data); err != nil || missing && !c.Postgres.On() {
			return nil, nil, errors.Join(err, fmt.Errorf("there is no data of a registry in %s", c.Data))
		}
		if unlock, err = lockOffline(c.Data); err != nil {
			return nil, nil, err
		}
	}
	err = usableStores(ctx, c)
	if err == nil {
		data, err = openStores(ctx, c, nil)
	}
	if err != nil {
		return nil, nil, errors.Join(err, unlock())
	}
	return data, func() error { return errors.Join(data.close(), unlock()) }, nil
}

const (
	// serverTime is how long a server may go without renewing a lease.
	serverTime = 30 * time.Second
	serverLook = 500 * time.Millisecond
)

// nobodyServes fails if servers share the metadata: each of them renews leases, or waits
// for one that does.
func nobodyServes(ctx context.Context, meta storage.Meta) error {
	if _, alone := meta.(storage.Versioner); alone {
		return nil
	}
	first, limit, err := leases(ctx, meta)
	if err != nil {
		return err
	}
	for begin := time.Now(); len(first) > 0 && time.Since(begin) < limit; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(serverLook):
		}
		now, _, err := leases(ctx, meta)
		if err != nil {
			return err
		}
		for name, lease := range now {
			if first[name] != lease {
				return fmt.Errorf("a server runs on the metadata (%s): stop all servers first", lease.Owner)
			}
		}
	}
	return nil
}

// leases are the leases there are, and how long the longest may go without being renewed.
func leases(ctx context.Context, meta storage.Meta) (list map[string]storage.Lease, limit time.Duration, err error) {
	err = meta.View(ctx, func(tx storage.Tx) error {
		list, limit = map[string]storage.Lease{}, serverTime
		for e, err := range storage.Leases.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			list[string(e.Key)] = e.Value
			limit = max(limit, min(e.Value.TTL, 2*serverTime))
		}
		return nil
	})
	return list, limit, err
}

// reopen has a registry served again that was moved.
func reopen(ctx context.Context, cmd *cobra.Command, from config.Config) (err error) {
	was := false
	if from.Storage.Postgres.On() {
		data, closeData, err := openSource(ctx, from.Storage)
		if err != nil {
			return err
		}
		was, err = migrating.Reopen(ctx, data.meta)
		if err = errors.Join(err, closeData()); err != nil {
			return err
		}
	} else {
		unlock, err := lockOffline(from.Storage.Data)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		if _, was, err = readMoved(from.Storage.Data); err == nil && was {
			err = os.Remove(filepath.Join(from.Storage.Data, movedMark))
		}
		if err != nil {
			return err
		}
	}
	if !was {
		return fmt.Errorf("%s was not moved", storesName(from.Storage))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s can be served again\n", storesName(from.Storage))
	return err
}

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
	file, ok := w.(*os.File)
	if quiet || !ok || !term.IsTerminal(int(file.Fd())) {
		return b
	}
	b.bars = mpb.New(mpb.WithOutput(file), mpb.WithWidth(64))
	b.bar = b.bars.AddBar(0, mpb.BarRemoveOnComplete(),
		mpb.AppendDecorators(decor.CountersKiloByte("% .1f / % .1f"), decor.AverageSpeed(decor.SizeB1000(0), " % .1f"), decor.AverageETA(decor.ET_STYLE_GO, decor.WC{W: 8})))
	return b
}

// phaseTexts say what a phase is, as it begins.
func phaseText(phase string) string {
	switch migrating.Phase(phase) {
	case migrating.PhaseCopy:
		return "copying while the registry is written to"
	case migrating.PhaseSwitch:
		return "writes are refused from now on; copying the rest"
	case migrating.PhaseVerify:
		return "comparing"
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
