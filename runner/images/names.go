package images

import (
	"strings"

	"github.com/distribution/reference"

	"github.com/berth-registry/berth/runner"
)

// parseName is ParseRef without the default tag. A default registry takes the
// place of Docker Hub: when the docker command pulls mongo, it has made
// docker.io/library/mongo of it.
func (s *Store) parseName(ref string) (reference.Named, error) {
	full := ref
	if host := s.opts.DefaultRegistry; host != "" {
		if hub, ok := strings.CutPrefix(ref, "docker.io/"); ok {
			ref = strings.TrimPrefix(hub, "library/")
		}
		if !hasHost(ref) {
			full = host + "/" + ref
		}
	}
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	return named, nil
}

// hasHost says whether a name begins with a registry's host, by the rule that
// docker has: a first part with a dot, a port, an upper case letter, or
// localhost.
func hasHost(ref string) bool {
	first, _, ok := strings.Cut(ref, "/")
	return ok && (first == "localhost" || strings.ContainsAny(first, ".:") || strings.ToLower(first) != first)
}

// Familiar returns the short form of a name, as users read it: what ParseRef
// makes the same name of.
func (s *Store) Familiar(ref reference.Reference) string {
	host := s.opts.DefaultRegistry
	if named, ok := ref.(reference.Named); ok && host != "" {
		if rest, ok := strings.CutPrefix(named.String(), host+"/"); ok && !hasHost(rest) {
			return rest
		}
		return named.String()
	}
	return reference.FamiliarString(ref)
}

func (s *Store) familiarName(ref reference.Named) string {
	return s.Familiar(reference.TrimNamed(ref))
}

// storedName is the name under which the store knows an image: a tag is left out
// if there is a digest, as docker does.
func storedName(ref reference.Named) (reference.Named, error) {
	ref = reference.TagNameOnly(ref)
	if c, ok := ref.(reference.Canonical); ok {
		return reference.WithDigest(reference.TrimNamed(ref), c.Digest())
	}
	return ref, nil
}

func isDigestRef(ref reference.Named) bool {
	_, ok := ref.(reference.Canonical)
	return ok
}
