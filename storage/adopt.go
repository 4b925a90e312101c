package storage

import (
	"context"
	"os"

	"github.com/opencontainers/go-digest"
)

// Adopter is a Blobs that can take over a file of this machine.
type Adopter interface {
	// Adopt makes what f holds durable as the blob d, replacing a blob d that was
	// there: by a hard link if it can, so that the file and the blob are one from then
	// on and nobody may write to it, or else by a copy. linked says which. Its caller
	// has checked that f holds d; where f stands does not matter.
	Adopt(ctx context.Context, d digest.Digest, f *os.File) (linked bool, err error)
}
