package storage

import (
	_ "crypto/sha256" // go-digest panics for algorithms that nobody links in
	_ "crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Bytes that stand for the digest algorithms in keys and rows.
const (
	partSHA256 = 1
	partSHA512 = 2
)

// DigestPart is a digest as part of a key: a byte for its algorithm, then the
// hash itself, half as long as in hexadecimal. d must be a valid sha256 or
// sha512 digest; whoever let another one in gets a panic, not a wrong key.
func DigestPart(d digest.Digest) string {
	raw, err := hex.DecodeString(d.Encoded())
	switch {
	case err == nil && d.Algorithm() == digest.SHA256 && len(raw) == 32:
		return string(rune(partSHA256)) + string(raw)
	case err == nil && d.Algorithm() == digest.SHA512 && len(raw) == 64:
		return string(rune(partSHA512)) + string(raw)
	}
	panic("storage: not a valid digest: " + string(d))
}

// CutDigest reads the DigestPart at the start of b and returns what follows it.
func CutDigest(b []byte) (d digest.Digest, rest []byte, err error) {
	switch {
	case len(b) > 32 && b[0] == partSHA256:
		return digest.NewDigestFromBytes(digest.SHA256, b[1:33]), b[33:], nil
	case len(b) > 64 && b[0] == partSHA512:
		return digest.NewDigestFromBytes(digest.SHA512, b[1:65]), b[65:], nil
	}
	return "", nil, fmt.Errorf("damaged key: %x is no digest", b)
}

// NumberPart is a number, not negative, as part of a key, so that keys sort by
// number.
func NumberPart(n int64) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// CutNumber reads the NumberPart at the start of b.
func CutNumber(b []byte) (int64, error) {
	if len(b) < 8 {
		return 0, fmt.Errorf("damaged key: %x is no number", b)
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

// CutTagMove reads a tag and the number of a move, the last two parts of a key of
// History or Past.
func CutTagMove(b []byte) (tag string, n int64, err error) {
	end := len(b) - 9 // a zero byte, and the number
	if end < 0 || b[end] != 0 {
		return "", 0, fmt.Errorf("damaged key: %x is no move of a tag", b)
	}
	n, err = CutNumber(b[end+1:])
	return string(b[:end]), n, err
}
