package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/internal/config"
)

// migrateFlags are what 'berth migrate' is told.
type migrateFlags struct {
	from, to           string
	config, fromConfig string
	rate               float64 // MiB a second
	reopen, json       bool
	request            admin.MigrateRequest
}

func newMigrateCmd() *cobra.Command {
	f := &migrateFlags{}
	cmd := &cobra.Command{
		Use:   "migrate --from STORES --to STORES",
		Short: "Move the registry to other stores, such as S3 and PostgreSQL",
		Long: `Move all that the registry has to other stores. Pushes and pulls go on meanwhile; only
while the last of it is copied and all is compared, pushes and deletes are refused for a
while, with an answer that has clients try again. Blobs are hashed on their way. To be
interrupted, or killed, at any time loses nothing: do it again, and it goes on.

STORES are file:DIR, s3+postgres, s3+file:DIR or file:DIR+postgres: where the blobs are,
and the metadata if that is elsewhere. What there is to know about s3 and postgres (and
file without DIR) is in the configuration that the new servers get, --config; that of
the source is in --from-config, if it is another one.

A server that has its metadata in a directory moves while it runs: this asks it to, by
its socket, and it must be able to reach the target; if none runs, this does it. Servers
that have their metadata in PostgreSQL have to be stopped first.

The target must be empty, or what a migration from the same source has left. In the end
the source is marked as moved, so that 'berth serve' refuses it; a server that still
runs answers pulls until it is stopped. --reopen takes the mark back; what was pushed to
the target since is not at the source.

Blobs that are damaged at the source are listed, and nothing is switched; --damaged moves
without them, and the target mends them when they are pushed again. Upload sessions are
moved with their bytes; one that has lost them starts again.

With --json: {"blobs", "bytes", "copied_blobs", "copied_bytes", "present_blobs", "rows",
"tables": [{"name", "rows", "sha256"}, ...], "uploads", "dropped_uploads",
"read_only_seconds", "already", "problems": [{"digest", "reason"}, ...]}.`,
		Example: "  berth migrate --from file:./data --to s3+postgres --config new.yaml --dry-run\n" +
			"  berth migrate --from file:./data --to s3+postgres --config new.yaml\n" +
			"  berth migrate --from s3+postgres --to file:/var/lib/berth --config new.yaml",
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&f.from, "from", "", "the `STORES` that the registry has now")
	cmd.Flags().StringVar(&f.to, "to", "", "the `STORES` that it is to have")
	cmd.Flags().StringVar(&f.config, "config", "", "read what is to be known about the stores from this YAML `FILE`")
	cmd.Flags().StringVar(&f.fromConfig, "from-config", "", "read it from this YAML `FILE` for those of --from")
	cmd.Flags().BoolVar(&f.request.DryRun, "dry-run", false, "say what would be moved, and change nothing")
	cmd.Flags().BoolVar(&f.request.Verify, "verify", false, "read again what is at the target already, and take over blobs that are there")
	cmd.Flags().BoolVar(&f.request.Damaged, "damaged", false, "move without blobs that are damaged")
	cmd.Flags().BoolVar(&f.request.Keep, "keep", false, "do not mark the source as moved: it goes on to be served, by itself")
	cmd.Flags().IntVar(&f.request.Jobs, "jobs", 0, "copy `N` blobs at a time; 0 for the usual number")
	cmd.Flags().Float64Var(&f.rate, "rate", 0, "copy up to `N` MiB a second; 0 for no limit")
	cmd.Flags().BoolVar(&f.reopen, "reopen", false, "have the stores of --from served again, after they were moved")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON, in a shape that stays")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		return f.run(ctx, cmd)
	}
	return cmd
}

func (f *migrateFlags) run(ctx context.Context, cmd *cobra.Command) error {
	if f.from == "" || (f.to == "") != f.reopen {
		return cli.Usage(errors.New("want --from, and either --to or --reopen"))
	}
	if f.rate < 0 || f.request.Jobs < 0 || f.request.Jobs > maxMigrateJobs {
		return cli.Usage(fmt.Errorf("want 0 or more for --rate, and 0 to %d for --jobs", maxMigrateJobs))
	}
	fromConfig := f.config
	if f.fromConfig != "" {
		fromConfig = f.fromConfig
	}
	from, err := loadStores("--from", f.from, fromConfig)
	if err != nil {
		return err
	}
	if f.reopen {
		return reopen(ctx, cmd, from)
	}
	to, err := loadStores("--to", f.to, f.config)
	if err != nil {
		return err
	}
	if err := f.fill(from.Storage, to.Storage); err != nil {
		return err
	}
	show := newMigrateBar(cmd.ErrOrStderr(), f.json)
	err = migrate(ctx, from, f.request, show.tell)
	show.end()
	if perr := show.print(cmd.OutOrStdout(), f, err); perr != nil {
		return errors.Join(err, perr)
	}
	if ctx.Err() != nil && err != nil {
		return errors.New("interrupted: nothing was switched, and what was copied is not copied again")
	}
	if err != nil {
		return fmt.Errorf("the registry was not moved: %w", err)
	}
	return nil
}

// fill completes the request.
func (f *migrateFlags) fill(from, to config.Storage) (err error) {
	r := &f.request
	r.Kind, r.From, r.To = storesKind(from), storesName(from), storesName(to)
	r.Rate = int64(f.rate * (1 << 20))
	if !to.S3.On() || !to.Postgres.On() {
		r.Dir = to.Data
	}
	if s := to.S3; s.On() {
		r.S3 = &admin.MigrateS3{
			Endpoint: s.Endpoint, Bucket: s.Bucket, Prefix: s.Prefix, Region: s.Region, AccessKey: s.AccessKey,
			PathStyle: s.PathStyle, Encryption: s.Encryption, KMSKey: s.KMSKey,
		}
		if r.S3.SecretKey, err = secret(s.SecretKey, s.SecretKeyFile); err != nil {
			return err
		}
		if s.CA != "" {
			if r.S3.CA, err = filepath.Abs(s.CA); err != nil {
				return err
			}
		}
	}
	if p := to.Postgres; p.On() {
		r.Postgres = &admin.MigratePostgres{Schema: p.Schema, MaxConns: p.MaxConns}
		r.Postgres.DSN, err = secret(p.DSN, p.DSNFile)
	}
	return err
}

// loadStores reads what a flag and a configuration say about stores.
func loadStores(flag, spec, file string) (config.Config, error) {
	c, err := config.Load(file, os.Environ())
	if err != nil {
		return c, err
	}
	bad := func(format string, args ...any) (config.Config, error) {
		return c, cli.Usage(fmt.Errorf("%s %s: %s", flag, spec, fmt.Sprintf(format, args...)))
	}
	blobs, meta, two := strings.Cut(spec, "+")
	if !two {
		meta = blobs
	}
	dir := ""
	place := func(name, other string) (isOther, ok bool) {
		kind, at, has := strings.Cut(name, ":")
		if has {
			if at == "" || dir != "" && at != dir {
				return false, false
			}
			dir = at
		}
		return kind == other, kind == "file" || kind == other && !has
	}
	s3, ok1 := place(blobs, "s3")
	pg, ok2 := place(meta, "postgres")
	switch {
	case !ok1 || !ok2:
		return bad("want file:DIR, s3+postgres, s3+file:DIR or file:DIR+postgres")
	case s3 && !c.Storage.S3.On():
		return bad("the configuration has no storage.s3.bucket; name it with --config")
	case pg && !c.Storage.Postgres.On():
		return bad("the configuration has no storage.postgres.dsn; name it with --config")
	}
	if !s3 {
		c.Storage.S3 = config.S3{}
	}
	if !pg {
		c.Storage.Postgres.DSN, c.Storage.Postgres.DSNFile = "", ""
	}
	if dir != "" {
		c.Storage.Data = dir
	}
	c.Storage.Data, err = filepath.Abs(c.Storage.Data)
	return c, err
}

// storesName is what stores are called for people.
func storesName(c config.Storage) string {
	switch file := "file:" + c.Data; {
	case c.S3.On() && c.Postgres.On():
		return fmt.Sprintf("s3+postgres (bucket %s, schema %s)", c.S3.Bucket, c.Postgres.Schema)
	case c.S3.On():
		return fmt.Sprintf("s3+%s (bucket %s)", file, c.S3.Bucket)
	case c.Postgres.On():
		return fmt.Sprintf("%s+postgres (schema %s)", file, c.Postgres.Schema)
	default:
		return file
	}
}
