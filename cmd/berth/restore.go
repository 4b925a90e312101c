package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/backup"
	"github.com/berth-registry/berth/internal/cli"
	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/fs"
)

func newRestoreCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore TARGET",
		Short: "Make a data directory from a backup",
		Long: `Make a data directory from a backup: one that is empty or new, or the same again if a
restore into it was cut short. No server may use it.
` + backupTarget + `

Without --snapshot it is the newest; 'berth backup ls' lists them. Accounts, API keys
and the keys that sign tokens are as they were then: what was revoked since is valid
again.

All bytes are hashed as they are copied. Those that are damaged or missing in the
backup are listed, and the exit code is 1; the rest is there, and a push of an image
that needs them brings them back. A snapshot that is damaged itself is an error, unless
--older says to take the one before it.` + backupJSON,
		Example: "  berth restore /mnt/backup/berth --data /var/lib/berth\n  berth restore s3://backup/berth --snapshot 20260102T030405.678Z",
		Args:    cobra.ExactArgs(1),
	}
	data := dataFlags{cmd: cmd}
	data.add()
	s3 := addS3Flags(cmd)
	var o backup.RestoreOptions
	cmd.Flags().StringVar(&o.Snapshot, "snapshot", "", "restore the snapshot of this `NAME`")
	cmd.Flags().BoolVar(&o.Older, "older", false, "if the newest snapshot is damaged, restore the newest that is not")
	cmd.Flags().IntVar(&o.Jobs, "jobs", 0, "copy `N` blobs at a time; 0 for the usual number")
	asJSON := cmd.Flags().Bool("json", false, "print JSON, in a shape that stays")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.Snapshot != "" && o.Older || o.Jobs < 0 || o.Jobs > maxBackupJobs {
			return cli.Usage(fmt.Errorf("want either --snapshot or --older, and 0 to %d for --jobs", maxBackupJobs))
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		name, access, err := s3.target(args[0])
		if err != nil {
			return err
		}
		cfg, err := data.load()
		if err != nil {
			return err
		}
		from, err := openTarget(ctx, name, access, false)
		if err != nil {
			return fmt.Errorf("cannot restore: %w", err)
		}
		defer func() { _ = from.Close() }() // it was only read
		show := newBackupBar(cmd.ErrOrStderr(), *asJSON)
		o.Progress = func(p backup.Progress) { show.tell(backupStep(p)) }
		o.Skipped = func(name string, err error) {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "snapshot %s is skipped: %v\n", name, err)
		}
		res, err := restore(ctx, cfg.Storage.Data, from, o)
		done := backupDone(res)
		show.tell(admin.BackupStep{Done: &done})
		show.end()
		if err != nil {
			return fmt.Errorf("cannot restore: %w", err)
		}
		if err := show.print(cmd.OutOrStdout(), *asJSON); err != nil {
			return err
		}
		return show.problems("restored")
	}
	return cmd
}

// restore makes a data directory from a backup.
func restore(ctx context.Context, dir string, from backup.Target, o backup.RestoreOptions) (res backup.Result, err error) {
	if err := isEmptyData(dir); err != nil {
		return res, err
	}
	if err := backup.Has(ctx, from, o.Snapshot); err != nil {
		return res, err
	}
	unlock, err := lockOffline(dir)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := isEmptyData(dir); err != nil { // nobody else has come meanwhile
		return res, err
	}
	mark := filepath.Join(dir, restoreMark)
	if err := durable.WriteFile(mark, []byte("'berth restore' has not come to its end.\n")); err != nil {
		return res, err
	}
	blobs, err := fs.Open(dir, nil)
	if err != nil {
		return res, err
	}
	o.Temp = dir
	err = replaceMeta(dir, func(meta storage.Meta) (err error) {
		res, err = backup.Restore(ctx, from, blobs, meta, o)
		return err
	})
	if err := errors.Join(err, blobs.Close()); err != nil {
		return res, err
	}
	return res, durable.Remove(mark)
}

// isEmptyData fails unless a directory is empty, or what a restore has left that was
// cut short.
func isEmptyData(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot use the data directory: %w", err)
	}
	other := ""
	for _, e := range entries {
		switch name := e.Name(); {
		case name == restoreMark:
			return nil
		case name != "lock" && name != "lost+found" && !strings.HasPrefix(name, ".new-"):
			other = name
		}
	}
	if other != "" {
		return fmt.Errorf("%s is not empty (%s): say with --data where an empty directory is, or a new one", dir, other)
	}
	return nil
}
