package registry

import (
	"strconv"
	"strings"
)

// parseChunk reads the Content-Range of an upload (specification, "Pushing a
// blob in chunks"): two byte positions, both included. The unit "bytes" and a
// total, which RFC 9110 has and the specification has not, may be there.
func parseChunk(s string) (Chunk, error) {
	if s == "" {
		return Chunk{}, nil
	}
	bad := ErrRangeInvalid.With("Content-Range is %q: want FIRST-LAST, in bytes", clip(s))
	text, _, _ := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	a, b, ok := strings.Cut(text, "-")
	first, ok1 := parsePosition(a)
	last, ok2 := parsePosition(b)
	if !ok || !ok1 || !ok2 || last < first {
		return Chunk{}, bad
	}
	return Chunk{First: first, Last: last, Known: true}, nil
}

// parsePosition reads a byte position: digits, and few enough of them.
func parsePosition(s string) (int64, bool) {
	if s == "" || len(s) > 18 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// span is the part of content that is asked for.
type span struct {
	off, n  int64
	partial bool
}

// parseRange reads the Range of a request for content of size bytes (RFC 9110,
// section 14.2). What it does not understand, another unit or several ranges,
// is answered with all of the content, as the RFC allows. A range that has
// nothing of the content is ErrRangeUnsatisfiable.
func parseRange(s string, size int64) (span, error) {
	all := span{0, size, false}
	text, ok := strings.CutPrefix(s, "bytes=")
	if !ok || strings.Contains(text, ",") {
		return all, nil
	}
	a, b, ok := strings.Cut(strings.TrimSpace(text), "-")
	if !ok {
		return all, nil
	}
	bad := ErrRangeUnsatisfiable.With("range %q is outside the %d bytes of the content", clip(s), size)
	if a == "" { // the last b bytes
		n, ok := parsePosition(b)
		if !ok {
			return all, nil
		}
		if n == 0 || size == 0 {
			return span{}, bad
		}
		n = min(n, size)
		return span{size - n, n, true}, nil
	}
	first, ok := parsePosition(a)
	if !ok {
		return all, nil
	}
	last := size - 1
	if b != "" {
		if last, ok = parsePosition(b); !ok {
			return all, nil
		}
	}
	if first >= size || last < first {
		return span{}, bad
	}
	return span{first, min(last, size-1) - first + 1, true}, nil
}
