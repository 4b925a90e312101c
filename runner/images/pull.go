package images

import (
	"context"
	"io"
	"maps"
	"sync"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/runner"
)

// Fetcher is what a registry gives. ref is a full name with a tag or a digest.
type Fetcher interface {
	// Resolve returns the descriptor of the manifest or index that ref names.
	Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error)
	// Fetch returns the bytes of a manifest or blob of ref's repository, from an
	// offset on. It takes up again what breaks off; the store verifies the digest.
	Fetch(ctx context.Context, ref string, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
}

// Pull makes an image of a registry one of the store, under the name ref, and
// returns its ID. Of an index it takes the image for platform, given as
// os[/arch[/variant]], or for this host if that is empty. Messages are those of
// docker.
func (s *Store) Pull(ctx context.Context, f Fetcher, ref reference.Named, platform string, p runner.Progress) (id string, err error) {
	p = inTurn(p)
	ref = reference.TagNameOnly(ref)
	want, err := parsePlatform(platform)
	if err != nil {
		return "", err
	}
	root, err := f.Resolve(ctx, ref.String())
	if err != nil {
		return "", err
	}
	if c, ok := ref.(reference.Canonical); ok && c.Digest() != root.Digest {
		return "", runner.Errorf(runner.ErrInvalid, "the registry answers with %s when asked for %s", root.Digest, c.Digest())
	}
	p.Status(tagOrDigest(ref), "Pulling from "+reference.Path(ref))
	img, err := s.describe(ctx, f, ref, root, want)
	if err != nil {
		return "", err
	}
	unpin := s.pin(img.pins()...)
	defer func() { s.conclude(unpin, err) }()
	if err := s.pullLayers(ctx, f, ref, img, p); err != nil {
		return "", err
	}
	defer s.releaseAll(img)
	digested, err := reference.WithDigest(reference.TrimNamed(ref), root.Digest)
	if err != nil {
		return "", err
	}
	img.names = []reference.Named{digested}
	if !isDigestRef(ref) {
		img.names = append(img.names, ref)
	}
	img.source, img.root = ref.Name(), root.Digest
	changed, err := s.add(ctx, img)
	if err != nil {
		return "", err
	}
	p.Status("", "Digest: "+root.Digest.String())
	if changed {
		p.Status("", "Status: Downloaded newer image for "+s.Familiar(ref))
	} else {
		p.Status("", "Status: Image is up to date for "+s.Familiar(ref))
	}
	s.pulled(img, ref)
	return img.id(), nil
}

func (s *Store) pulled(img *newImage, ref reference.Named) {
	attrs := map[string]string{}
	maps.Copy(attrs, img.config.Config.Labels)
	attrs["name"] = s.familiarName(ref)
	s.event(events.ActionPull, s.Familiar(ref), attrs)
}

func tagOrDigest(ref reference.Named) string {
	switch r := ref.(type) {
	case reference.Canonical:
		return r.Digest().String()
	case reference.Tagged:
		return r.Tag()
	}
	return ""
}

// pullLayers brings the layers that the store has not.
func (s *Store) pullLayers(ctx context.Context, f Fetcher, ref reference.Named, img *newImage, p runner.Progress) error {
	img.layers = make([]*unpacked, len(img.manifest.Layers))
	had := s.has(img)
	if s.complete(img, had) {
		return nil
	}
	again := repeated(img.manifest.Layers)
	for i, desc := range img.manifest.Layers {
		if !had[i] && !again[i] {
			emptyProgress(p, shortID(desc.Digest.String()), "Pulling fs layer")
		}
	}
	finish := inOrder(len(had), func(i int) bool { return had[i] || again[i] }, func(i int) {
		emptyProgress(p, shortID(img.manifest.Layers[i].Digest.String()), "Pull complete")
	})
	g, gctx := errgroup.WithContext(ctx)
	for i, desc := range img.manifest.Layers {
		id := shortID(desc.Digest.String())
		g.Go(func() error {
			if had[i] {
				emptyProgress(p, id, "Already exists")
			}
			if had[i] || again[i] {
				return nil
			}
			in := layerInput{blob: desc, diffID: img.config.RootFS.DiffIDs[i]}
			s.inputFrom(&in, f, ref)
			u, err := s.share(gctx, in, func(m *meter, done <-chan struct{}) { watch(gctx, p, id, desc.Size, m, done) })
			if err != nil {
				return err
			}
			img.layers[i] = u
			finish(i)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		s.releaseAll(img)
		return err
	}
	return nil
}

// repeated says which layers are there before in the list.
func repeated(layers []ocispec.Descriptor) []bool {
	seen, again := map[digest.Digest]bool{}, make([]bool, len(layers))
	for i, l := range layers {
		again[i] = seen[l.Digest]
		seen[l.Digest] = true
	}
	return again
}

// inOrder returns a function that takes numbers below n as they are done, and
// calls done with each when all below it are, except those to skip.
func inOrder(n int, skip func(int) bool, done func(int)) func(int) {
	var mu sync.Mutex
	finished, next := make([]bool, n), 0
	return func(i int) {
		mu.Lock()
		defer mu.Unlock()
		finished[i] = true
		for ; next < n && (finished[next] || skip(next)); next++ {
			if !skip(next) {
				done(next)
			}
		}
	}
}

// inputFrom says where a layer comes from: the store's own blob or a registry.
func (s *Store) inputFrom(in *layerInput, f Fetcher, ref reference.Named) {
	desc := in.blob
	if s.hasBlob(desc.Digest) {
		in.stored = true
		in.open = func(ctx context.Context) (io.ReadCloser, error) { return s.Open(ctx, desc) }
		return
	}
	in.open = func(ctx context.Context) (io.ReadCloser, error) { return f.Fetch(ctx, ref.String(), desc, 0) }
}

func (s *Store) releaseAll(img *newImage) {
	for i, u := range img.layers {
		if u != nil {
			s.release(u)
			img.layers[i] = nil
		}
	}
}
