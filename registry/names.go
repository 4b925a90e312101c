package registry

import (
	"strings"

	"github.com/opencontainers/go-digest"
)

// MaxRepository is the greatest length of a repository name in bytes.
const MaxRepository = 255

// maxTag is the greatest length of a tag in bytes (specification, "Pulling
// manifests").
const maxTag = 128

// ValidRepository says whether s is a repository name (specification, "Pulling
// manifests"): components of lower-case letters and digits, separated by "/";
// within a component ".", "_", "__" or any number of "-" may stand between two
// letters or digits.
func ValidRepository(s string) bool {
	if s == "" || len(s) > MaxRepository {
		return false
	}
	for c := range strings.SplitSeq(s, "/") {
		if !validComponent(c) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	for i := 0; i < len(s); {
		if !isLowerAlnum(s[i]) {
			return false
		}
		for i < len(s) && isLowerAlnum(s[i]) {
			i++
		}
		if i == len(s) {
			return true
		}
		sep := i
		for i < len(s) && s[i] == s[sep] {
			i++
		}
		switch n := i - sep; {
		case s[sep] == '-', s[sep] == '.' && n == 1, s[sep] == '_' && n <= 2:
		default:
			return false
		}
	}
	return false // empty, or ends in a separator
}

func isLowerAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// ValidTag says whether s is a tag (specification, "Pulling manifests").
func ValidTag(s string) bool {
	if s == "" || len(s) > maxTag || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isLowerAlnum(c) && (c < 'A' || c > 'Z') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// ParseDigest checks that s is a digest of an algorithm that this registry
// knows, sha256 or sha512, in lower-case hexadecimal, or fails with
// ErrDigestInvalid.
func ParseDigest(s string) (digest.Digest, error) {
	alg, hex, ok := strings.Cut(s, ":")
	if !ok {
		return "", ErrDigestInvalid.With("digest %q has no algorithm: want sha256:… or sha512:…", clip(s))
	}
	var want int
	switch digest.Algorithm(alg) {
	case digest.SHA256:
		want = 64
	case digest.SHA512:
		want = 128
	default:
		return "", ErrDigestInvalid.With("digest algorithm %q is not supported: want sha256 or sha512", clip(alg))
	}
	if len(hex) != want {
		return "", ErrDigestInvalid.With("digest %q has %d hexadecimal digits: want %d", clip(s), len(hex), want)
	}
	for i := range len(hex) {
		if c := hex[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", ErrDigestInvalid.With("digest %q has a character that is no lower-case hexadecimal digit", clip(s))
		}
	}
	return digest.Digest(s), nil
}

// Reference names a manifest within a repository: by tag or by digest, one of
// which is set.
type Reference struct {
	Tag    string
	Digest digest.Digest
}

func (r Reference) String() string {
	if r.Digest != "" {
		return string(r.Digest)
	}
	return r.Tag
}

// ParseReference reads a tag or a digest, or fails with ErrTagInvalid or
// ErrDigestInvalid. A colon, which no tag may contain, makes it a digest.
func ParseReference(s string) (Reference, error) {
	if strings.Contains(s, ":") {
		d, err := ParseDigest(s)
		return Reference{Digest: d}, err
	}
	if !ValidTag(s) {
		return Reference{}, ErrTagInvalid.With("invalid tag %q: want up to %d letters, digits, '_', '.' and '-', not starting with '.' or '-'", clip(s), maxTag)
	}
	return Reference{Tag: s}, nil
}

// clip shortens what a client sent to what is worth repeating to it.
func clip(s string) string {
	const most = 160
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
