package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/backup"
	"github.com/berth-registry/berth/internal/durable"
)

// maxBackupJobs is how many blobs are copied at a time at most.
const maxBackupJobs = 64

// backupPatience is how long a backup waits for the one before: that of a command which
// was interrupted ends a moment after it.
const backupPatience = 5 * time.Second

// backuper makes backups, one at a time.
type backuper struct {
	healthOptions
	data string // directory
	hold func(context.Context) (release func(), err error)
	busy chan struct{} // holds a value while one is made
}

// MakeBackup implements admin.Backups.
func (b *backuper) MakeBackup(ctx context.Context, r admin.BackupRequest, tell func(admin.BackupStep)) error {
	if r.Keep < 0 || r.Jobs < 0 || r.Jobs > maxBackupJobs {
		return errors.New("a backup keeps 0 snapshots or more, and has up to 64 jobs")
	}
	select {
	case b.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(backupPatience):
		return errors.New("the server is making another backup: try again when that is done")
	}
	defer func() { <-b.busy }()
	if err := b.outside(r.Target); err != nil {
		return err
	}
	to, err := openTarget(ctx, r.Target, r.S3, true)
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }() // it ends a lock, and no more
	res, err := backup.Backup(ctx, backup.Source{Meta: b.meta, Blobs: b.blobs, Hold: b.hold}, to, backup.Options{
		Keep: r.Keep, Verify: r.Verify, Jobs: r.Jobs, Temp: b.data,
		Progress: func(p backup.Progress) { tell(backupStep(p)) },
	})
	if res.Snapshot.Name != "" {
		done := backupDone(res)
		tell(admin.BackupStep{Done: &done})
	}
	return err
}

// outside fails if a target is a directory within the data.
func (b *backuper) outside(target string) error {
	if isBucket(target) {
		return nil
	}
	if !filepath.IsAbs(target) {
		return errors.New("want an absolute path or s3://BUCKET/PREFIX")
	}
	data, err := filepath.Abs(b.data)
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(resolved(data), resolved(target)); err == nil && filepath.IsLocal(rel) {
		return fmt.Errorf("%s is in the data directory, and would be lost with it: choose another place", target)
	}
	return nil
}

// resolved is a path without symbolic links, as far as it is there.
func resolved(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	if up := filepath.Dir(path); up != path {
		return filepath.Join(resolved(up), filepath.Base(path))
	}
	return path
}

func isBucket(target string) bool { return strings.HasPrefix(target, "s3://") }

// openTarget opens a directory or a bucket, to write to it or only to read.
func openTarget(ctx context.Context, target string, s3 admin.S3, write bool) (backup.Target, error) {
	if isBucket(target) {
		return backup.OpenS3(ctx, target, backup.S3Config{
			Endpoint: s3.Endpoint, Region: s3.Region, AccessKey: s3.Key, SecretKey: s3.Secret, SessionToken: s3.Session,
		})
	}
	if !write {
		return backup.OpenDir(target)
	}
	dir, err := backup.CreateDir(target)
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("another backup is being made there: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return dir, nil
}

func backupStep(p backup.Progress) admin.BackupStep {
	step := admin.BackupStep{Blobs: p.Blobs, TotalBlobs: p.TotalBlobs, Bytes: p.Bytes, TotalBytes: p.TotalBytes}
	if p.Problem != nil {
		step.Problem = &admin.BackupProblem{Digest: string(p.Problem.Digest), Reason: p.Problem.Reason}
	}
	return step
}

func backupDone(res backup.Result) admin.BackupDone {
	return admin.BackupDone{
		Snapshot: res.Snapshot.Name, Created: res.Snapshot.Created, Blobs: res.Snapshot.Blobs, Bytes: res.Snapshot.Bytes,
		CopiedBlobs: res.CopiedBlobs, CopiedBytes: res.CopiedBytes, PresentBlobs: res.PresentBlobs, Problems: res.Problems,
		RemovedSnapshots: res.RemovedSnapshots, RemovedBlobs: res.RemovedBlobs, RemovedBytes: res.RemovedBytes,
	}
}
