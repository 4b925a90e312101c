package copying

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
)

// Platform is an operating system and an architecture, and a variant of that, as an
// index names them (image specification, "Image Index").
type Platform struct{ OS, Architecture, Variant string }

var validPlatform = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$`)

// ParsePlatform reads a platform, OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT.
func ParsePlatform(s string) (Platform, error) {
	if !validPlatform.MatchString(s) {
		return Platform{}, fmt.Errorf("%.100q is no platform: want OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/amd64 or linux/arm64/v8", s)
	}
	parts := append(strings.Split(s, "/"), "")
	return Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}, nil
}

func (p Platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

// matches says whether p, which a user wants, is what an index has. Without a
// variant it is any; one that an index does not name is the architecture's first or,
// of 32 bit ARM, 7.
func (p Platform) matches(have *ocispec.Platform) bool {
	if p.OS != have.OS || p.Architecture != have.Architecture {
		return false
	}
	usual := map[string]string{"amd64": "v1", "arm64": "v8", "arm": "v7"}[p.Architecture]
	return p.Variant == "" || p.Variant == cmp.Or(have.Variant, usual)
}

func platformList(all []Platform) string {
	list := make([]string, len(all))
	for i, p := range all {
		list[i] = p.String()
	}
	return strings.Join(list, ", ")
}

// What BuildKit says of an attestation in an index (its "Image attestation storage").
const (
	attestationOf  = "vnd.docker.reference.digest"
	unknown        = "unknown" // its operating system and architecture
	attestationKey = "vnd.docker.reference.type"
)

func isAttestation(d registry.Descriptor) bool {
	return d.Platform != nil && d.Platform.OS == unknown && d.Annotations[attestationKey] != ""
}

// hasPlatform says that d is of a platform, and no attestation.
func hasPlatform(d registry.Descriptor) bool { return d.Platform != nil && !isAttestation(d) }

// kept returns what the document references without what is of other platforms, and
// whether there is such.
func (d *document) kept(platforms []Platform) (kept []registry.Descriptor, left bool) {
	all := d.references()
	if len(platforms) == 0 || !slices.ContainsFunc(d.Manifests, hasPlatform) {
		return all, false
	}
	dropped := map[digest.Digest]bool{}
	for _, m := range d.Manifests {
		if hasPlatform(m) && !slices.ContainsFunc(platforms, func(p Platform) bool { return p.matches(m.Platform) }) {
			dropped[m.Digest] = true
		}
	}
	for _, m := range d.Manifests {
		if hasPlatform(m) && slices.ContainsFunc(platforms, func(p Platform) bool { return p.matches(m.Platform) }) {
			delete(dropped, m.Digest) // one manifest can be of two platforms
		}
	}
	for _, r := range all {
		if dropped[r.Digest] || isAttestation(r) && dropped[digest.Digest(r.Annotations[attestationOf])] {
			left = true
			continue
		}
		kept = append(kept, r)
	}
	return kept, left
}
