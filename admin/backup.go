package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/berth-registry/berth/registry"
)

// Backups makes backups.
type Backups interface {
	// MakeBackup makes one, and tells how far it is, and what went wrong with single
	// blobs. Its errors are told to the client as they are.
	MakeBackup(ctx context.Context, r BackupRequest, tell func(BackupStep)) error
}

type (
	// BackupRequest says where a backup is made, and how.
	BackupRequest struct {
		Target string `json:"target"` // absolute path of a directory, or s3://BUCKET[/PREFIX]
		Keep   int    `json:"keep"`   // how many snapshots are left there; 0 for all
		Verify bool   `json:"verify"` // have what is there read again
		Jobs   int    `json:"jobs"`   // how many blobs are copied at a time; 0 for the default
		S3     S3     `json:"bucket"`
	}
	// S3 says how to get at a bucket. The server has it no longer than the backup
	// takes.
	S3 struct {
		Endpoint string `json:"endpoint"`
		Region   string `json:"region"`
		Key      string `json:"key"`
		Secret   string `json:"secret"`
		Session  string `json:"session"`
	}
	// BackupStep is a part of what a backup does.
	BackupStep struct {
		Blobs      int64          `json:"blobs,omitempty"` // done so far
		TotalBlobs int64          `json:"total_blobs,omitempty"`
		Bytes      int64          `json:"bytes,omitempty"` // in them
		TotalBytes int64          `json:"total_bytes,omitempty"`
		Problem    *BackupProblem `json:"problem,omitempty"`
		Done       *BackupDone    `json:"done,omitempty"` // in the last part, if there is a snapshot
	}
	// BackupProblem is a blob that could not be copied.
	BackupProblem struct {
		Digest string `json:"digest"`
		Reason string `json:"reason"`
	}
	// BackupDone is what a backup, or a restore, has done.
	BackupDone struct {
		Snapshot     string    `json:"snapshot"`
		Created      time.Time `json:"created"`
		Blobs        int64     `json:"blobs"` // that the snapshot needs
		Bytes        int64     `json:"bytes"`
		CopiedBlobs  int64     `json:"copied_blobs"`
		CopiedBytes  int64     `json:"copied_bytes"`
		PresentBlobs int64     `json:"present_blobs"` // that were there already
		Problems     int64     `json:"problems"`      // blobs that could not be copied

		RemovedSnapshots int   `json:"removed_snapshots"`
		RemovedBlobs     int64 `json:"removed_blobs"`
		RemovedBytes     int64 `json:"removed_bytes"`
	}
)

// String has no secret.
func (s S3) String() string { return s.Endpoint }

// GoString has no secret.
func (s S3) GoString() string { return s.Endpoint }

// backup makes a backup. A client that goes ends it: what is copied by then need not
// be copied again.
func (c *call) backup() (int, any, error) {
	if c.Backups == nil {
		return 0, nil, errNotOffered
	}
	var r BackupRequest
	if err := decode(c.w, c.r, &r); err != nil {
		return 0, nil, err
	}
	c.subject = r.Target
	return steps(c, func(ctx context.Context, tell func(BackupStep) error) error {
		err := c.Backups.MakeBackup(ctx, r, func(step BackupStep) { _ = tell(step) }) // it ends ctx if it fails
		if err != nil {
			return ErrBackup.With("%v", err) // who may ask for it is on the server's machine
		}
		return nil
	})
}

// Backup has the server make a backup, and tells each what it does. To cancel ctx ends
// it. Only a client on the server's machine may.
func (c *Client) Backup(ctx context.Context, r BackupRequest, each func(BackupStep) error) error {
	return c.streamWith(ctx, http.MethodPost, "backup", r, eachOf(each))
}

// ErrBackup says that a backup has failed.
var ErrBackup = &registry.Error{Code: "BACKUP_FAILED", Status: http.StatusInternalServerError, Message: "the backup failed"}
