package registry

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Change is something that changed in a repository.
type Change struct {
	Kind      ChangeKind
	Repo      string
	Tag       string        // that was moved or deleted
	Digest    digest.Digest // of what was pushed or deleted, or what a tag names now
	Was       digest.Digest // what a tag named before; empty for a new one
	MediaType string        // of a manifest
	Size      int64         // of a manifest, bytes
}

// ChangeKind is what has changed.
type ChangeKind uint8

// The kinds of changes.
const (
	PushedManifest ChangeKind = iota // also if it was there
	DeletedManifest
	MovedTag // or created; not if it named the manifest already
	DeletedTag
	DeletedBlob
)

// Journal is told of changes.
type Journal interface {
	// Write is called in the transaction that makes the changes, once and last; what
	// it writes to tx is durable if and only if they are. It may be called again
	// for a transaction that is run again. An error ends the transaction.
	Write(ctx context.Context, tx storage.Tx, changes []Change) error
	// Done is called when the changes are durable, before the method that made them
	// returns. It should be quick.
	Done(ctx context.Context, changes []Change)
}
