package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

const notRebuilt = "not made anew: accounts, API keys, the keys that sign tokens, the history of tags, when images were pulled, and events for webhooks"

func newRebuildCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Make lost metadata anew from what is stored",
		Long: `Make the metadata (meta.db in the data directory) anew if it is lost: from the stored
manifests, and from the notes of repositories and tags that the server writes beside
them as it goes, at most a minute old. No server may run. To interrupt it changes
nothing; do it again. With --config the manifests and notes may be in S3. Metadata that
was in PostgreSQL is made anew in the data directory, too, with a configuration that
does not name the database; 'berth migrate' moves it there.

If meta.db is there but damaged, move it away first. A backup has more ('berth
restore'): accounts, API keys, the keys that sign tokens, the history of tags, when
images were pulled, and events that webhooks have not got cannot be made anew.

It lists each repository, and what could not be made anew of it; then the exit code
is 1. With --json: {"repositories": [{"repository", "manifests": COUNT, "tags": COUNT,
"problems": ["..."]}, ...]}.`,
		Example: "  berth rebuild --data /var/lib/berth\n  berth rebuild --config /etc/berth.yaml",
		Args:    cobra.NoArgs,
	}
	data := dataFlags{cmd: cmd}
	data.add()
	asJSON := cmd.Flags().Bool("json", false, "print JSON, in a shape that stays")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		cfg, err := data.load()
		if err != nil {
			return err
		}
		list := rebuiltList{out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), json: *asJSON, Repos: []rebuiltRepo{}}
		if err := rebuild(ctx, cfg.Storage, list.add); err != nil {
			return fmt.Errorf("cannot rebuild the metadata: %w", err)
		}
		return list.end()
	}
	return cmd
}

// rebuild makes the metadata anew, in the data directory.
func rebuild(ctx context.Context, c config.Storage, done func(registry.Rebuilt)) (err error) {
	dir := c.Data
	if c.Postgres.On() {
		return errors.New("it is made in the data directory: take storage.postgres out of the configuration, do this again, and move it to PostgreSQL with 'berth migrate'")
	}
	if _, err := os.Stat(filepath.Join(dir, "blobs")); errors.Is(err, iofs.ErrNotExist) && !c.S3.On() {
		return fmt.Errorf("there is no data of a registry in %s: say where it is with --data or --config", dir)
	}
	unlock, err := lockOffline(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := notRestoring(dir); err != nil {
		return err
	}
	missing, err := lacksMeta(dir)
	if err != nil {
		return err
	}
	if meta := filepath.Join(dir, metaFile); !missing {
		return fmt.Errorf("the metadata is there: if %s is damaged, move it away, and do this again", meta)
	}
	return replaceMeta(dir, func(meta storage.Meta) error { return rebuildInto(ctx, c, meta, done) })
}

// rebuildInto makes the metadata anew in an empty store.
func rebuildInto(ctx context.Context, c config.Storage, meta storage.Meta, done func(registry.Rebuilt)) (err error) {
	s := &stores{meta: meta}
	if c.S3.On() {
		err = s.openS3(ctx, c, nil)
	} else {
		err = s.openDir(c, nil)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err != nil {
		return err
	}
	if found, err := s.kept(ctx); err != nil || found == noContent && c.S3.On() {
		return cmp.Or(err, fmt.Errorf("there is no data of a registry in %s", bucketName(c.S3)))
	}
	local, err := registry.NewLocal(ctx, s.blobs, meta, registry.Options{UploadExpiry: 100 * 365 * 24 * time.Hour}) // what is on its way is not its business
	if err != nil {
		return err
	}
	defer local.Close()
	return local.Rebuild(ctx, s.notes, done)
}

// rebuiltRepo is what 'berth rebuild --json' prints of a repository.
type rebuiltRepo struct {
	Repo      string   `json:"repository"`
	Manifests int      `json:"manifests"`
	Tags      int      `json:"tags"`
	Problems  []string `json:"problems"`
}

// rebuiltList prints repositories as they are made anew.
type rebuiltList struct {
	out, errs io.Writer
	json      bool
	problems  int

	Repos []rebuiltRepo `json:"repositories"`
}

func (l *rebuiltList) add(r registry.Rebuilt) {
	l.problems += len(r.Problems)
	if !l.json {
		_, _ = fmt.Fprintf(l.out, "%s: %s, %s\n", r.Repo, countOf(r.Manifests, "manifest"), countOf(r.Tags, "tag")) // end tells what is left out
	}
	repo := rebuiltRepo{Repo: r.Repo, Manifests: r.Manifests, Tags: r.Tags, Problems: []string{}}
	for _, err := range r.Problems {
		repo.Problems = append(repo.Problems, err.Error())
		if !l.json {
			_, _ = fmt.Fprintf(l.errs, "%s: %s\n", r.Repo, printable(err.Error()))
		}
	}
	l.Repos = append(l.Repos, repo)
}

func (l *rebuiltList) end() error {
	if l.json {
		if err := printJSON(l.out, l); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintln(l.errs, notRebuilt); err != nil {
		return err
	}
	if l.problems > 0 {
		return fmt.Errorf("the metadata is made anew, but for %s: see above", countOf(l.problems, "problem"))
	}
	return nil
}
