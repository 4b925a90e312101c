package s3

const (
	// What S3 says of multipart uploads.
	minPart  = 5 << 20 // bytes that all parts but the last must have
	maxParts = 10_000
	maxBlob  = 5 << 40 // bytes

	// maxFirstPart is the largest size of the first parts.
	maxFirstPart = 1 << 30
)

// partSize is how large the part is that begins at off bytes, if the first are of
// first bytes. It grows with off, so that a small blob needs little memory and the
// largest that S3 takes fits in the number of parts that it takes.
func partSize(first, off int64) int64 {
	size := first
	switch {
	case off < 16<<30:
	case off < 64<<30:
		size = 32 << 20
	case off < 256<<30:
		size = 128 << 20
	default:
		size = 2 << 30
	}
	return max(first, size)
}
