// Package storage declares the two stores that a registry stands on: Blobs,
// which holds bytes by digest, and Meta, which holds rows in transactions.
// It also declares the rows themselves (rows.go), once for every driver.
//
// A driver promises durability and atomicity as each method says; it knows
// nothing of repositories, tags or manifests. Every rule of the registry lives
// above this package. The suites in storagetest say what a driver must do.
package storage

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
)

// Errors that drivers return, wrapped with detail for the log. A driver's
// error that matches none of them is a failure of the medium that nobody can
// name more closely.
var (
	// ErrNotFound says that there is no such blob, stage or row.
	ErrNotFound = errors.New("not found")
	// ErrNoSpace says that the medium is full or its quota is used up.
	ErrNoSpace = errors.New("no space left in the store")
	// ErrReadOnly says that the medium refuses writes.
	ErrReadOnly = errors.New("the store is read-only")
	// ErrUnreadable says that the medium does not give back what was written to it.
	ErrUnreadable = errors.New("the store cannot read what it holds")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("the store is closed")
	// ErrInUse says that another process has the store open.
	ErrInUse = errors.New("the store is in use by another process")
)

// Blobs holds immutable bytes by digest, and stages: bytes on their way to
// becoming a blob. It does not check that bytes match their digest; its caller
// hashes. All methods may be called concurrently, except that one stage id is
// used by one caller at a time.
type Blobs interface {
	// Open opens the blob d for reading, or returns ErrNotFound. A driver that
	// keeps blobs in plain files returns the *os.File itself, so that an HTTP
	// server can use sendfile.
	Open(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error)
	// Size returns the size of the blob d in bytes, or ErrNotFound.
	Size(ctx context.Context, d digest.Digest) (int64, error)
	// Delete removes the blob d. It returns ErrNotFound if there is none. After a
	// crash of the machine the blob may be back, whole.
	Delete(ctx context.Context, d digest.Digest) error
	// List lists the blobs behind the digest after (empty for the first), in the
	// byte order of their digests. What comes or goes meanwhile may show or not.
	List(ctx context.Context, after digest.Digest) iter.Seq2[BlobInfo, error]
	// Quarantine has the blob d be none any more, durably, and puts its bytes where
	// somebody can look at them, if the driver has such a place. It returns
	// ErrNotFound if there is none.
	Quarantine(ctx context.Context, d digest.Digest) error

	// Stage opens the stage id for writing at off bytes from its start, and
	// forgets what it held behind off. With off 0 it creates the stage if need
	// be; otherwise a stage that is missing or shorter than off is ErrNotFound.
	Stage(ctx context.Context, id string, off int64) (Stage, error)
	// Discard removes the stage id, whether or not there is one.
	Discard(ctx context.Context, id string) error
	// Stages lists the stages there are, in no order.
	Stages(ctx context.Context) iter.Seq2[StageInfo, error]
}

// Notes holds small texts by name beside the blobs, which say what the metadata
// says too, for when that is lost. A name is made of components of lower-case
// letters, digits, ".", "_" and "-", none of which is "." or "..", separated by
// "/".
type Notes interface {
	// PutNote makes a note durable, in place of one of that name.
	PutNote(ctx context.Context, name string, data []byte) error
	// DeleteNote removes a note, if it is there.
	DeleteNote(ctx context.Context, name string) error
	// Note returns a note, or ErrNotFound.
	Note(ctx context.Context, name string) ([]byte, error)
	// NoteNames lists the notes there are, in no order.
	NoteNames(ctx context.Context) iter.Seq2[string, error]
}

// BlobInfo describes a blob that is stored.
type BlobInfo struct {
	Digest   digest.Digest
	Size     int64     // bytes
	Modified time.Time // when the bytes came to their place, or later
}

// Stage receives the bytes of a blob to be.
type Stage interface {
	// Write appends. What was written is durable only after Sync or Commit.
	io.Writer
	// Reader reads what the stage holds, from its first byte.
	Reader() (io.ReadCloser, error)
	// Sync makes what was written durable under the stage's id. After an error
	// the stage may be gone.
	Sync() error
	// Commit makes what was written durable as the blob d, replacing a blob d
	// that was there, and ends the stage. After an error the stage may be gone,
	// and d is as it was before, or whole.
	Commit(d digest.Digest) error
	// Close lets go of the stage. Unless it was committed, its bytes stay.
	Close() error
}

// StageInfo describes a stage that somebody may have left behind.
type StageInfo struct {
	ID       string
	Modified time.Time // of the last write
}

// Meta holds rows: values by table and key, ordered by key within a table. All
// methods may be called concurrently.
type Meta interface {
	// View runs fn on a consistent snapshot. fn should be quick: an open
	// snapshot keeps a driver from reclaiming space.
	View(ctx context.Context, fn func(Tx) error) error
	// Update runs fn in a transaction that sees every earlier one, and returns
	// nil only after its changes are durable. If fn returns an error, nothing
	// changes and Update returns that error. fn may be run more than once and on
	// another goroutine, so all it may do is read and write tx and set variables
	// that it sets anew each time it runs.
	Update(ctx context.Context, fn func(Tx) error) error
	// Close waits for transactions under way and closes the store.
	Close() error
}

// Versioner is a Meta that nobody but this process writes to, so that it can say
// at once whether anything has changed.
type Versioner interface {
	// Version returns a number that is a different one after every Update that
	// changed something, from before that Update returns.
	Version() uint64
}

// Tx is a transaction. Slices that it returns are valid until it ends and must
// not be changed; slices given to it must not be changed before it ends. Once a
// method has failed with another error than ErrNotFound, the transaction does.
type Tx interface {
	// Get returns the value of a row, or ErrNotFound.
	Get(table string, key []byte) ([]byte, error)
	// Put inserts or replaces a row. Keys are not empty and have at most
	// MaxKey bytes.
	Put(table string, key, value []byte) error
	// Delete removes a row, if it is there.
	Delete(table string, key []byte) error
	// Scan yields the rows whose keys start with prefix and are greater than
	// after (a whole key, or nil), in the order of their keys. The table must
	// not be written to while the loop runs.
	Scan(table string, prefix, after []byte) iter.Seq2[Row, error]
}

// MaxKey is the greatest length of a key in bytes.
const MaxKey = 2048

// Row is a key and its value.
type Row struct{ Key, Value []byte }
