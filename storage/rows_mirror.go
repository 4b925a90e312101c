package storage

import "time"

// Mirrored has, by repository and tag, what was last learnt of a tag in the registry that its
// repository is a cache of.
var Mirrored = Table[MirroredTag]{"mirrored"}

// MirroredTag is what was last learnt of a tag upstream.
type MirroredTag struct {
	Digest  string    `cbor:"1,keyasint"` // that it named
	Checked time.Time `cbor:"2,keyasint"` // when it was asked for last
}
