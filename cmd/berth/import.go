package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/importing"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/bolt"
	blobs "github.com/berth-registry/berth/storage/fs"
)

// maxProblems is how many problems are kept for --json.
const maxProblems = 10_000

// imported is what 'berth import --json' prints.
type imported struct {
	importing.Report
	Problems []importing.Problem `json:"problems"`
}

// importFlags are those of 'berth import'.
type importFlags struct {
	data              dataFlags
	repo              string
	dry, strict, json bool
	cmd               *cobra.Command
}

func newImportCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import PATH",
		Short: "Take over the data of another registry, or an OCI layout",
		Long: `Take over the data of another registry, or an OCI layout. PATH is the data directory
of the CNCF distribution registry (docker's "registry:2" and "registry:3", such as
/var/lib/registry), or an OCI image layout, for which --repo says where it goes.

Digests and tags stay the same. Each byte is checked against its digest. Files are
linked, not copied, where source and destination are on one file system and belong to
one user: nobody may write to them from then on, but they can be removed in the
source. What is damaged or missing in the source is reported and left out, with the
images that need it; the rest is imported. It can be done again: what is there is not
imported again, and a tag that is there stays where it is. For retention, tags were
pushed when they are imported, in the order in which they were pushed to the source.

It works on the data itself, while no server uses it: stop 'berth serve' first. The
other registry should be stopped, too, or read-only. --dry-run reads and checks
everything, and imports nothing.

With --json: {"repositories", "manifests", "tags" and "blobs": {"new", "present"},
"linked", "bytes", "skipped", "problems": [{"repository", "what", "reason"}, ...]};
linked blobs were not copied, bytes are those of new blobs.`,
		Example: "  berth import /var/lib/registry --data /var/lib/berth\n  berth import ./layout --repo team/app",
		Args:    cobra.ExactArgs(1),
	}
	f := &importFlags{cmd: cmd, data: dataFlags{cmd: cmd}}
	f.data.add()
	cmd.Flags().StringVar(&f.repo, "repo", "", "the `REPOSITORY` that an OCI layout goes to")
	cmd.Flags().BoolVar(&f.dry, "dry-run", false, "read and check everything, and import nothing")
	cmd.Flags().BoolVar(&f.strict, "strict", false, "end with exit code 1 if anything was left out")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON, in a shape that stays")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.repo != "" && !registry.ValidRepository(f.repo) {
			return cli.Usage(fmt.Errorf("--repo: %q is no name of a repository", f.repo))
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		return f.run(ctx, args[0])
	}
	return cmd
}

func (f *importFlags) run(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("cannot import: %w", err)
	}
	bar := newImportBar(f.cmd.ErrOrStderr(), f.json)
	sum := imported{Problems: []importing.Problem{}}
	o := importing.Options{Repo: f.repo, Progress: bar.tell, Skipped: func(p importing.Problem) {
		if f.json && len(sum.Problems) < maxProblems {
			sum.Problems = append(sum.Problems, p)
		}
		if !f.json {
			_, _ = fmt.Fprintf(bar.beside(), "left out: %s\n", problemText(p))
		}
	}}
	var err error
	if f.dry {
		sum.Report, err = importing.DryRun(ctx, path, o)
	} else {
		sum.Report, err = f.write(ctx, path, o)
	}
	bar.end()
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.New("interrupted: to do it again goes on from here")
	case err != nil:
		return fmt.Errorf("cannot import: %w", err)
	case f.json:
		err = printJSON(f.cmd.OutOrStdout(), sum)
	default:
		_, err = fmt.Fprintln(f.cmd.OutOrStdout(), importText(sum.Report, f.dry))
	}
	if err == nil && f.strict && sum.Skipped > 0 {
		err = fmt.Errorf("%s left out", countOf(sum.Skipped, "thing"))
	}
	return err
}

func problemText(p importing.Problem) string {
	if p.Repo == "" {
		return printable(p.What + ": " + p.Reason)
	}
	return printable(p.Repo + ": " + p.What + ": " + p.Reason)
}

func importText(r importing.Report, dry bool) string {
	verb := "imported"
	if dry {
		verb = "would import"
	}
	s := fmt.Sprintf("%s %s, %s and %s (%s) of %s", verb, countOf(r.Tags.New, "tag"), countOf(r.Manifests.New, "manifest"),
		countOf(r.Blobs.New, "blob"), humanSize(r.Bytes), repositoriesText(r.Repos))
	if !dry {
		s += fmt.Sprintf(", %d by a link; %d manifests were there", r.Linked, r.Manifests.Present)
	}
	if r.Skipped > 0 {
		s += "; left out " + countOf(r.Skipped, "thing")
	}
	return s
}

func repositoriesText(n int) string {
	if n == 1 {
		return "1 repository"
	}
	return fmt.Sprintf("%d repositories", n)
}

// write imports into the data of a server that does not run.
func (f *importFlags) write(ctx context.Context, path string, o importing.Options) (r importing.Report, err error) {
	cfg, err := f.data.load()
	if err != nil {
		return r, err
	}
	local, closeAll, err := openForImport(ctx, cfg)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	return importing.Import(ctx, path, local, o)
}

// openForImport opens a registry without anything around it: what is imported is
// nobody's push, of which the audit or webhooks are told.
func openForImport(ctx context.Context, cfg config.Config) (local *registry.Local, closeAll func() error, err error) {
	dir := cfg.Storage.Data
	if _, err := isFresh(dir); err != nil {
		return nil, nil, err
	}
	var opened []func() error
	closeAll = func() (err error) {
		for i := range opened {
			err = errors.Join(err, opened[len(opened)-1-i]())
		}
		return err
	}
	fail := func(what string, err error) (*registry.Local, func() error, error) {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", what, err), closeAll())
	}
	unlock, err := durable.Lock(dir)
	switch {
	case errors.Is(err, durable.ErrLocked):
		return nil, nil, fmt.Errorf("%w: a server uses it: stop it first", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, nil, notPermitted(dir)
	case err != nil:
		return nil, nil, fmt.Errorf("cannot use the data directory: %w", err)
	}
	opened = append(opened, unlock)
	store, err := blobs.Open(dir, nil)
	if err != nil {
		return fail("cannot open the blobs", err)
	}
	opened = append(opened, store.Close)
	meta, err := bolt.Open(filepath.Join(dir, metaFile))
	if err != nil {
		return fail("cannot open the metadata", err)
	}
	opened = append(opened, meta.Close)
	immutable, err := auth.NewTagPatterns(cfg.Immutable)
	if err != nil {
		return fail("immutable", err)
	}
	local, err = registry.NewLocal(ctx, store, meta, registry.Options{
		UploadExpiry: cfg.Storage.UploadExpiry, Actor: func(context.Context) string { return "berth import" },
	})
	if err != nil {
		return fail("cannot use the data", err)
	}
	opened = append(opened, func() error { local.Close(); return nil })
	local.SetKeeping(keeping(cfg.GC))
	local.SetImmutable(rules{immutable: immutable}.isImmutable)
	return local, closeAll, nil
}

// importBar shows how far an import is, on a terminal.
type importBar struct {
	w      io.Writer
	bars   *mpb.Progress // nil if there is no terminal
	bar    *mpb.Bar
	report atomic.Pointer[importing.Report]
}

func newImportBar(w io.Writer, quiet bool) *importBar {
	b := &importBar{w: w}
	if b.bars = newBars(w, quiet); b.bars == nil {
		return b
	}
	b.report.Store(&importing.Report{})
	b.bar = b.bars.New(0, mpb.SpinnerStyle(), mpb.BarRemoveOnComplete(),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			r := b.report.Load()
			return fmt.Sprintf("%s, %d manifests, %d blobs, %s", repositoriesText(r.Repos), r.Manifests.New+r.Manifests.Present, r.Blobs.New+r.Blobs.Present, humanSize(r.Bytes))
		})))
	return b
}

// beside is where lines are written while the bar is shown.
func (b *importBar) beside() io.Writer {
	if b.bars != nil {
		return b.bars
	}
	return b.w
}

func (b *importBar) tell(r importing.Report) {
	if b.bars != nil {
		b.report.Store(&r)
		b.bar.Increment()
	}
}

// end takes the bar away.
func (b *importBar) end() {
	if b.bars != nil {
		b.bar.Abort(true)
		b.bars.Wait()
	}
}
