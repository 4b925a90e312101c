package admin

import (
	"context"
	"net/http"

	"github.com/berth-registry/berth/registry"
)

// Migrator moves the registry to other stores.
type Migrator interface {
	// Migrate moves it, and tells how far it is. Its errors are told to the client as
	// they are. When ctx ends before it has come to its end, the registry goes on.
	Migrate(ctx context.Context, r MigrateRequest, tell func(MigrateStep)) error
}

type (
	// MigrateRequest says where the registry goes, and how.
	MigrateRequest struct {
		Kind     string           `json:"kind"` // of the stores that the registry must have now: file, s3+file, file+postgres, s3+postgres
		From     string           `json:"from"` // what these are called
		To       string           `json:"to"`   // what the target is called
		Dir      string           `json:"dir"`  // absolute path of the target's data directory; empty if all of it is elsewhere
		S3       *MigrateS3       `json:"bucket,omitempty"`
		Postgres *MigratePostgres `json:"postgres,omitempty"`
		Jobs     int              `json:"jobs"` // how many blobs are copied at a time; 0 for the default
		Rate     int64            `json:"rate"` // bytes a second; 0 for no limit
		Verify   bool             `json:"verify"`
		Damaged  bool             `json:"damaged"` // move without blobs that are damaged
		Keep     bool             `json:"keep"`    // do not mark the source as moved
		DryRun   bool             `json:"dryrun"`
	}
	// MigrateS3 is a bucket for blobs. The server has it no longer than it moves.
	MigrateS3 struct {
		Endpoint   string `json:"endpoint"`
		Bucket     string `json:"bucket"`
		Prefix     string `json:"prefix"`
		Region     string `json:"region"`
		AccessKey  string `json:"access"`
		SecretKey  string `json:"secret"`
		PathStyle  bool   `json:"pathstyle"`
		CA         string `json:"ca"`
		Encryption string `json:"encryption"`
		KMSKey     string `json:"kmskey"`
	}
	// MigratePostgres is a database for metadata.
	MigratePostgres struct {
		DSN      string `json:"dsn"`
		Schema   string `json:"schema"`
		MaxConns int    `json:"maxconns"`
	}
	// MigrateStep is a part of what a migration does.
	MigrateStep struct {
		Phase      string          `json:"phase,omitempty"` // copy, switch, verify or done
		Blobs      int64           `json:"blobs,omitempty"` // looked at so far
		TotalBlobs int64           `json:"total_blobs,omitempty"`
		Bytes      int64           `json:"bytes,omitempty"` // in them
		TotalBytes int64           `json:"total_bytes,omitempty"`
		Problem    *MigrateProblem `json:"problem,omitempty"`
		Done       *MigrateDone    `json:"done,omitempty"` // in the last part
	}
	// MigrateProblem is a blob that could not be copied.
	MigrateProblem struct {
		Digest string `json:"digest"`
		Reason string `json:"reason"`
	}
	// MigrateDone is what a migration has done, or would do, as far as it came.
	MigrateDone struct {
		Blobs           int64            `json:"blobs"` // that the registry has
		Bytes           int64            `json:"bytes"`
		CopiedBlobs     int64            `json:"copied_blobs"` // or that would be
		CopiedBytes     int64            `json:"copied_bytes"`
		PresentBlobs    int64            `json:"present_blobs"` // at the target already
		Rows            int64            `json:"rows"`
		Tables          []MigrateTable   `json:"tables"`
		Uploads         int64            `json:"uploads"`         // upload sessions that were moved
		DroppedUploads  int64            `json:"dropped_uploads"` // that had lost their bytes
		ReadOnlySeconds float64          `json:"read_only_seconds"`
		Already         bool             `json:"already"` // it had been moved before
		Problems        []MigrateProblem `json:"problems"`
	}
	// MigrateTable is a table of the metadata.
	MigrateTable struct {
		Name string `json:"name"`
		Rows int64  `json:"rows"`
		Sum  string `json:"sha256,omitempty"` // over its rows, which was found the same on both sides
	}
)

// String has no secret.
func (s MigrateS3) String() string { return s.Endpoint + "/" + s.Bucket + "/" + s.Prefix }

// GoString has no secret.
func (s MigrateS3) GoString() string { return s.String() }

// String has no secret.
func (p MigratePostgres) String() string { return "schema " + p.Schema }

// GoString has no secret.
func (p MigratePostgres) GoString() string { return p.String() }

// migrate moves the registry. A client that goes ends it: what is copied by then need not
// be copied again.
func (c *call) migrate() (int, any, error) {
	if c.Migrator == nil {
		return 0, nil, errNotOffered
	}
	var r MigrateRequest
	if err := decode(c.w, c.r, &r); err != nil {
		return 0, nil, err
	}
	c.subject = r.To
	return steps(c, func(ctx context.Context, tell func(MigrateStep) error) error {
		err := c.Migrator.Migrate(ctx, r, func(step MigrateStep) { _ = tell(step) }) // it ends ctx if it fails
		if err != nil {
			return ErrMigrate.With("%v", err) // who may ask for it is on the server's machine
		}
		return nil
	})
}

// Migrate has the server move the registry, and tells each what it does. To cancel ctx
// ends it. Only a client on the server's machine may.
func (c *Client) Migrate(ctx context.Context, r MigrateRequest, each func(MigrateStep) error) error {
	return c.streamWith(ctx, http.MethodPost, "migrate", r, eachOf(each))
}

// ErrMigrate says that the registry was not moved.
var ErrMigrate = &registry.Error{Code: "MIGRATION_FAILED", Status: http.StatusInternalServerError, Message: "the registry was not moved"}
