package trust

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// signPredicate is what a statement says that is a signature of an image. The same key
// may sign statements of other kinds, which approve of nothing.
const signPredicate = "https://sigstore.dev/cosign/sign/v1"

// payloadType is what a payload of simple signing is.
const payloadType = "cosign container image signature"

// signed is a signature as its registry has it.
type signed struct {
	// Bundle is one in Sigstore's format.
	Bundle json.RawMessage `json:"bundle,omitempty"`
	// Payload is what was signed in the older form, and Annotations, of its layer, have
	// the signature.
	Payload     []byte            `json:"payload,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// accept returns why a signature of a digest does not count for an image of a
// repository, or nil.
func (r *rule) accept(s signed, subject digest.Digest, repository string) error {
	if s.Bundle != nil {
		return r.acceptBundle(s.Bundle, subject)
	}
	return r.acceptPayload(s, subject, repository)
}

func (r *rule) acceptBundle(raw []byte, subject digest.Digest) error {
	var b bundle.Bundle
	if err := b.UnmarshalJSON(raw); err != nil {
		return err
	}
	if b.GetDsseEnvelope() == nil {
		return errors.New("the bundle has no statement")
	}
	sum, err := hex.DecodeString(subject.Encoded())
	if err != nil {
		return err
	}
	result, err := r.verify(&b, func() verify.ArtifactPolicyOption {
		return verify.WithArtifactDigest(subject.Algorithm().String(), sum)
	})
	if err != nil {
		return err
	}
	if got := result.Statement.GetPredicateType(); got != signPredicate {
		return fmt.Errorf("what was signed is a statement of the type %q, and no signature of an image", got)
	}
	return nil
}

// payload is what is signed in the older form (containers/image, "Atomic Container
// Signature").
type payload struct {
	Critical struct {
		Type     string `json:"type"`
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
	} `json:"critical"`
}

func (r *rule) acceptPayload(s signed, subject digest.Digest, repository string) error {
	b, err := s.bundle(r.byKey)
	if err != nil {
		return err
	}
	if _, err := r.verify(b, func() verify.ArtifactPolicyOption { return verify.WithArtifact(bytes.NewReader(s.Payload)) }); err != nil {
		return err
	}
	var p payload
	if err := json.Unmarshal(s.Payload, &p); err != nil {
		return err
	}
	switch c := p.Critical; {
	case c.Type != payloadType:
		return fmt.Errorf("what was signed is of the type %q, and no signature of an image", c.Type)
	case c.Image.Digest != subject:
		return fmt.Errorf("it is a signature of %s", c.Image.Digest)
	case c.Identity.Reference != "":
		return r.covers(c.Identity.Reference, repository)
	}
	return nil
}

// covers returns why a signature for an image of that name does not count for one of a
// repository: the repository is another one, which is not of this rule.
func (r *rule) covers(name, repository string) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fmt.Errorf("it is a signature of %q: %w", name, err)
	}
	if named.Name() != repository && !r.matches(named.Name()) {
		return fmt.Errorf("it is a signature for the repository %s", named.Name())
	}
	return nil
}

// verify tries the rule's verifiers, and returns why the last one does not accept the
// signature if none does.
func (r *rule) verify(b *bundle.Bundle, artifact func() verify.ArtifactPolicyOption) (*verify.VerificationResult, error) {
	err := errors.New("nobody is trusted")
	for _, v := range r.verifiers {
		var result *verify.VerificationResult
		if result, err = v.verifier.Verify(b, verify.NewPolicy(artifact(), v.signer...)); err == nil {
			return result, nil
		}
	}
	return nil, err
}
