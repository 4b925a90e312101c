package storage

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// DigestStager is a Blobs that does less when it knows from the start what a stage
// is to become.
type DigestStager interface {
	// StageFor is Stage at 0 for a stage that is to become the blob d. Its Commit may
	// refuse to make it another. Its Reader may fail once much was written. Close
	// keeps its bytes only if Sync was called, which may fail if the stage is there
	// already: Discard it first.
	StageFor(ctx context.Context, id string, d digest.Digest) (Stage, error)
}

// StageFor opens a new stage that is to become the blob d, as a DigestStager if b is
// one.
func StageFor(ctx context.Context, b Blobs, id string, d digest.Digest) (Stage, error) {
	if s, ok := b.(DigestStager); ok {
		return s.StageFor(ctx, id, d)
	}
	return b.Stage(ctx, id, 0)
}
