package trust

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// Source is what a repository of a registry gives.
type Source interface {
	// Resolve returns the descriptor of the manifest of a tag. It fails with
	// runner.ErrNotFound if there is none.
	Resolve(ctx context.Context, tag string) (ocispec.Descriptor, error)
	// Fetch returns the bytes of a manifest or a blob, as many as its descriptor says.
	Fetch(ctx context.Context, ref string, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
	// Referrers lists the manifests that refer to one, whose artifact type begins with one
	// of prefixes.
	Referrers(ctx context.Context, subject digest.Digest, prefixes ...string) ([]ocispec.Descriptor, error)
}

// Sources returns the Source of a repository.
type Sources func(repository reference.Named) Source

// What signatures are at a registry.
const (
	bundleType    = "application/vnd.dev.sigstore.bundle" // and its version
	referringType = "application/vnd.dev.cosign.artifact.sig"
	layerType     = "application/vnd.dev.cosign.simplesigning.v1+json"

	predicateAnnotation = "dev.sigstore.bundle.predicateType"
	createdAnnotation   = "org.opencontainers.image.created"
)

// What is read of the signatures of an image at most. An image has a few, of some
// kilobytes each.
const (
	maxDocuments     = 512 // manifests and signatures
	maxDocument      = 1 << 20
	maxDocumentBytes = 32 << 20 // of all
)

// budget is what may still be read.
type budget struct {
	documents int
	bytes     int64
}

func newBudget() *budget { return &budget{maxDocuments, maxDocumentBytes} }

var errTooMany = errors.New("there are too many, or they are too large, to look at all")

// take takes a document from the budget.
func (b *budget) take(size int64) error {
	if size < 0 || size > maxDocument {
		return fmt.Errorf("one has %d bytes; at most %d are allowed", size, maxDocument)
	}
	b.documents--
	b.bytes -= size
	if b.documents < 0 || b.bytes < 0 {
		return errTooMany
	}
	return nil
}

// signatures yields what a registry has for signatures of a digest, the likeliest
// first, and why some of it cannot be read.
func signatures(ctx context.Context, src Source, subject digest.Digest, left *budget) iter.Seq2[signed, error] {
	return func(yield func(signed, error) bool) {
		goOn := func(desc ocispec.Descriptor) bool {
			for s, err := range signaturesOf(ctx, src, desc, left) {
				if !yield(s, err) || errors.Is(err, errTooMany) || ctx.Err() != nil {
					return false
				}
			}
			return true
		}
		list, err := src.Referrers(ctx, subject, bundleType, referringType)
		if err != nil && !errors.Is(err, runner.ErrNotFound) && !yield(signed{}, err) {
			return
		}
		for _, desc := range likeliest(list) {
			if !goOn(desc) {
				return
			}
		}
		tagged, err := src.Resolve(ctx, subject.Algorithm().String()+"-"+subject.Encoded()+".sig")
		switch {
		case err == nil:
			goOn(tagged)
		case !errors.Is(err, runner.ErrNotFound):
			yield(signed{}, err)
		}
	}
}

// likeliest leaves out of a list what says that it is no signature, and begins with the
// newest.
func likeliest(list []ocispec.Descriptor) []ocispec.Descriptor {
	list = slices.DeleteFunc(slices.Clone(list), func(d ocispec.Descriptor) bool {
		kind := d.Annotations[predicateAnnotation]
		return kind != "" && kind != signPredicate
	})
	slices.SortStableFunc(list, func(a, b ocispec.Descriptor) int {
		return cmp.Compare(b.Annotations[createdAnnotation], a.Annotations[createdAnnotation])
	})
	return list
}

// signaturesOf yields the signatures of a manifest.
func signaturesOf(ctx context.Context, src Source, desc ocispec.Descriptor, left *budget) iter.Seq2[signed, error] {
	return func(yield func(signed, error) bool) {
		if desc.MediaType != ocispec.MediaTypeImageManifest {
			return // it is of something else
		}
		raw, err := document(ctx, src, desc, left)
		if err != nil {
			yield(signed{}, err)
			return
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(raw, &m); err != nil {
			return // nor is this one
		}
		for _, layer := range m.Layers {
			bundled := strings.HasPrefix(layer.MediaType, bundleType)
			if !bundled && layer.MediaType != layerType {
				continue
			}
			raw, err := document(ctx, src, layer, left)
			switch {
			case err != nil:
				if !yield(signed{}, err) || errors.Is(err, errTooMany) {
					return
				}
			case bundled && json.Valid(raw):
				if !yield(signed{Bundle: raw}, nil) {
					return
				}
			case !bundled:
				if !yield(signed{Payload: raw, Annotations: payloadAnnotations(layer.Annotations)}, nil) {
					return
				}
			}
		}
	}
}

// document fetches a small document, and verifies its digest.
func document(ctx context.Context, src Source, desc ocispec.Descriptor, left *budget) ([]byte, error) {
	if err := left.take(desc.Size); err != nil {
		return nil, err
	}
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%q: %w", desc.Digest, err)
	}
	body, err := src.Fetch(ctx, "", desc, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxDocument))
	if err != nil {
		return nil, err
	}
	if desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return nil, fmt.Errorf("what the registry sends is not %s", desc.Digest)
	}
	return data, nil
}
