package trust

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// Rule says what holds for the images of some places. One of Keys, Issuer, Allow and
// Deny is set.
type Rule struct {
	// Images are patterns of full names of repositories, such as ghcr.io/acme/**: * is
	// any part of a name between slashes, ** any number of parts. Docker Hub's begin with
	// docker.io/, and the place of what was made on this host is "local".
	Images []string

	// Keys are paths of public keys in PEM, as cosign generate-key-pair makes them: one
	// of them must have signed the image.
	Keys []string
	// Issuer is who vouches for identities, and Subjects are patterns of those of whom
	// one must have signed the image.
	Issuer   string
	Subjects []string
	// Root is the path of a trusted root of Sigstore, as cosign trusted-root create makes
	// it. Identities need one. With keys it may be given: then signatures must be in its
	// transparency log, or have a time of its authority.
	Root string

	Allow bool // they may run, signed or not
	Deny  bool // they may not run
}

// maxFile is the greatest size of a key or a trusted root in bytes.
const maxFile = 4 << 20

// rule is a Rule that is ready.
type rule struct {
	images      []*regexp.Regexp
	allow, deny bool
	byKey       bool            // and by no certificate
	who         string          // whose signature it wants, for people
	verifiers   []imageVerifier // one of which must accept a signature; none if it wants none
}

// imageVerifier verifies signatures by one key, or by a trusted root.
type imageVerifier struct {
	verifier *verify.Verifier
	signer   []verify.PolicyOption
}

// load makes a rule ready. It reads the rule's files.
func load(r Rule) (*rule, error) {
	images, err := globs(r.Images)
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, errors.New("a rule needs images")
	}
	ready := &rule{images: images, allow: r.Allow, deny: r.Deny}
	kinds := 0
	for _, is := range []bool{len(r.Keys) > 0, r.Issuer != "" || len(r.Subjects) > 0, r.Allow, r.Deny} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, errors.New("a rule needs one of keys, issuer with subjects, allow and deny")
	}
	if r.Allow || r.Deny {
		return ready, nil
	}
	var trusted *root.TrustedRoot
	if r.Root != "" {
		if trusted, err = readRoot(r.Root); err != nil {
			return nil, err
		}
	}
	if len(r.Keys) > 0 {
		err = ready.wantKeys(r.Keys, trusted)
	} else {
		err = ready.wantIdentity(r, trusted)
	}
	return ready, err
}

// matches says whether the rule is for a place.
func (r *rule) matches(place string) bool { return matchesAny(r.images, place) }

// wantKeys makes the rule want a signature by a key.
func (r *rule) wantKeys(paths []string, trusted *root.TrustedRoot) error {
	r.byKey = true
	for _, path := range paths {
		keys, err := readKey(path)
		if err != nil {
			return err
		}
		for _, key := range keys {
			material := root.TrustedMaterialCollection{key}
			opts := []verify.VerifierOption{verify.WithNoObserverTimestamps()}
			if trusted != nil {
				material = append(material, trusted)
				opts = observers(trusted)
			}
			v, err := verify.NewVerifier(material, opts...)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			r.verifiers = append(r.verifiers, imageVerifier{v, []verify.PolicyOption{verify.WithKey()}})
		}
	}
	r.who = "by the key " + paths[0]
	if len(paths) > 1 {
		r.who = fmt.Sprintf("by one of the %d keys %s", len(paths), strings.Join(paths, ", "))
	}
	return nil
}

// wantIdentity makes the rule want a signature by a certificate.
func (r *rule) wantIdentity(from Rule, trusted *root.TrustedRoot) error {
	switch {
	case from.Issuer == "" || len(from.Subjects) == 0:
		return errors.New("a rule of identities needs both issuer and subjects")
	case trusted == nil:
		return errors.New("a rule of identities needs a root, the file of a trusted root")
	case len(trusted.FulcioCertificateAuthorities()) == 0:
		return fmt.Errorf("%s has no certificate authority", from.Root)
	}
	opts := observers(trusted)
	if len(trusted.CTLogs()) > 0 {
		opts = append(opts, verify.WithSignedCertificateTimestamps(1))
	}
	v, err := verify.NewVerifier(trusted, opts...)
	if err != nil {
		return fmt.Errorf("%s: %w", from.Root, err)
	}
	one := imageVerifier{verifier: v}
	for _, subject := range from.Subjects {
		re, err := glob(subject)
		if err != nil {
			return err
		}
		id, err := verify.NewShortCertificateIdentity(from.Issuer, "", "", re.String())
		if err != nil {
			return err
		}
		one.signer = append(one.signer, verify.WithCertificateIdentity(id))
	}
	r.verifiers = []imageVerifier{one}
	r.who = fmt.Sprintf("by %s of %s", strings.Join(from.Subjects, " or "), from.Issuer)
	return nil
}

// observers are who must have seen a signature, as far as a trusted root has them.
func observers(trusted *root.TrustedRoot) []verify.VerifierOption {
	opts := []verify.VerifierOption{verify.WithObserverTimestamps(1)}
	if len(trusted.RekorLogs()) > 0 {
		opts = append(opts, verify.WithTransparencyLog(1))
	}
	return opts
}

func readRoot(path string) (*root.TrustedRoot, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	trusted, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		return nil, fmt.Errorf("%s is no trusted root of Sigstore, as cosign trusted-root create makes it: %w", path, err)
	}
	if len(trusted.RekorLogs())+len(trusted.TimestampingAuthorities()) == 0 {
		return nil, fmt.Errorf("%s has neither a transparency log nor a timestamp authority: nobody would know when a signature was made", path)
	}
	return trusted, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, err
}
