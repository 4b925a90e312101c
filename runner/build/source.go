package build

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/source"
	imagesource "github.com/moby/buildkit/source/containerimage"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/resolver"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// imageSource finds base images: in the image store, or else at a registry.
type imageSource struct {
	*imagesource.Source
	w      *imageWorker
	name   func(string) string
	mayUse func(ctx context.Context, name, id string) error
}

// Resolve implements source.Source.
func (s *imageSource) Resolve(ctx context.Context, id source.Identifier, sm *session.Manager, vtx solver.Vertex) (source.SourceInstance, error) {
	img, ok := id.(*imagesource.ImageIdentifier)
	if !ok {
		return s.Source.Resolve(ctx, id, sm, vtx)
	}
	found, err := s.local(ctx, img)
	if err != nil {
		return nil, err
	}
	if found != nil {
		if err := s.check(ctx, img.Reference.String(), found.ID); err != nil {
			return nil, err
		}
		return &localImage{w: s.w, img: *found, id: img}, nil
	}
	img = s.remote(img)
	there, err := s.Source.Resolve(ctx, img, sm, vtx)
	if err != nil {
		return nil, err
	}
	return &remoteImage{there, s, img.Reference.Locator}, nil
}

func (s *imageSource) check(ctx context.Context, name, id string) error {
	if s.mayUse == nil {
		return nil
	}
	return s.mayUse(ctx, name, id)
}

// remoteImage is a base image of a registry.
type remoteImage struct {
	source.SourceInstance

	s    *imageSource
	name string
}

// CacheKey implements source.SourceInstance. Nothing that the cache has of an image is
// used either if the image may not be.
func (r *remoteImage) CacheKey(ctx context.Context, job solver.JobContext, index int) (key, pin string, opts solver.CacheOpts, done bool, err error) {
	key, pin, opts, done, err = r.SourceInstance.CacheKey(ctx, job, index)
	if err == nil {
		err = r.s.check(ctx, r.name+"@"+pin, "")
	}
	return key, pin, opts, done, err
}

// metadata is what the resolution of an image's name gives.
func (s *imageSource) metadata(ctx context.Context, id *imagesource.ImageIdentifier, opt *sourceresolver.ResolveImageOpt, sm *session.Manager, jobCtx solver.JobContext) (*sourceresolver.ResolveImageResponse, error) {
	if opt == nil {
		opt = &sourceresolver.ResolveImageOpt{}
	}
	mode, err := resolver.ParseImageResolveMode(opt.ResolveMode)
	if err != nil {
		return nil, err
	}
	asked := *id
	if opt.Platform != nil {
		asked.Platform = opt.Platform
	}
	asked.ResolveMode = mode
	if !opt.AttestationChain && len(opt.ResolveAttestations) == 0 {
		found, err := s.local(ctx, &asked)
		if err != nil {
			return nil, err
		}
		if found != nil {
			// Without a digest, as docker has it: by one that only the store knows
			// the image could not be found again.
			return &sourceresolver.ResolveImageResponse{Config: found.Config}, nil
		}
	}
	var g session.Group
	if jobCtx != nil {
		g = jobCtx.Session()
	}
	return s.ResolveImageMetadata(ctx, s.remote(id), opt, sm, g)
}

// remote is the identifier of an image for its registry.
func (s *imageSource) remote(id *imagesource.ImageIdentifier) *imagesource.ImageIdentifier {
	if s.name == nil {
		return id
	}
	ref, err := reference.Parse(s.name(id.Reference.String()))
	if err != nil {
		return id
	}
	mapped := *id
	mapped.Reference = ref
	return &mapped
}

// local returns the image of the store that is meant; nil if the registry is to
// be asked.
func (s *imageSource) local(ctx context.Context, id *imagesource.ImageIdentifier) (*Image, error) {
	if id.ResolveMode == resolver.ResolveModeForcePull || id.Checksum != "" {
		return nil, nil //nolint:nilnil // the registry knows
	}
	ref := id.Reference.String()
	img, err := s.w.images.Image(ctx, ref)
	if errors.Is(err, runner.ErrNotFound) {
		if short, ok := shortID(ref); ok {
			img, err = s.w.images.Image(ctx, short)
		}
	}
	switch {
	case errors.Is(err, runner.ErrNotFound), errors.Is(err, runner.ErrInvalid):
		return nil, nil //nolint:nilnil // as said
	case err != nil:
		return nil, err
	}
	want := platforms.DefaultSpec()
	if id.Platform != nil {
		want = *id.Platform
	}
	if !platforms.Only(want).Match(img.Platform) {
		return nil, nil //nolint:nilnil // as said
	}
	if n := id.LayerLimit; n != nil && *n < len(img.Layers) {
		img.Layers, img.DiffIDs = img.Layers[:*n], img.DiffIDs[:*n]
	}
	return &img, nil
}

// shortID is the beginning of an ID that a Dockerfile has for a name.
func shortID(ref string) (string, bool) {
	name, ok := strings.CutPrefix(ref, "docker.io/library/")
	name, tagged := strings.CutSuffix(name, ":latest")
	return name, ok && tagged && len(name) >= 7 && strings.Trim(name, "0123456789abcdef") == ""
}

// localImage is a base image of the store.
type localImage struct {
	w   *imageWorker
	img Image
	id  *imagesource.ImageIdentifier
}

// CacheKey implements source.SourceInstance. The first keys are those that
// another builder has for the image of a registry, so that a cache can be shared
// with it; the last is that of its layers.
func (l *localImage) CacheKey(_ context.Context, _ solver.JobContext, index int) (key, pin string, opts solver.CacheOpts, done bool, err error) {
	pin = l.img.Manifest.String()
	if index < len(l.img.Roots) {
		key, err := manifestKey(l.img.Roots[index], l.platform(), l.id.LayerLimit)
		return key, pin, nil, false, err
	}
	chain := identity.ChainID(append([]digest.Digest{digest.FromString(platforms.FormatAll(l.img.Platform))}, l.img.DiffIDs...))
	return chain.String(), pin, nil, true, nil
}

func (l *localImage) platform() ocispec.Platform {
	if l.id.Platform != nil {
		return *l.id.Platform
	}
	return platforms.DefaultSpec()
}

// manifestKey is BuildKit's key of an image of a registry.
func manifestKey(d digest.Digest, p ocispec.Platform, limit *int) (string, error) {
	b, err := json.Marshal(struct {
		Digest     digest.Digest
		OS         string
		Arch       string
		Variant    string   `json:",omitempty"`
		OSVersion  string   `json:",omitempty"`
		OSFeatures []string `json:",omitempty"`
		Limit      *int     `json:",omitempty"`
	}{d, p.OS, p.Architecture, p.Variant, p.OSVersion, p.OSFeatures, limit})
	return digest.FromBytes(b).String(), err
}

// Snapshot implements source.SourceInstance.
func (l *localImage) Snapshot(ctx context.Context, _ solver.JobContext) (ref cache.ImmutableRef, err error) {
	ctx, done, err := leaseutil.WithLease(ctx, l.w.LeaseManager(), leaseutil.MakeTemporary)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	for i, desc := range l.img.Layers {
		desc.Annotations = map[string]string{labels.LabelUncompressed: l.img.DiffIDs[i].String()}
		if err := l.w.adopt(ctx, desc); err != nil {
			return nil, errors.Join(err, release(ctx, ref))
		}
		next, err := l.w.CacheMgr.GetByBlob(ctx, desc, ref, cache.WithImageRef(l.id.Reference.String()))
		if rerr := release(ctx, ref); err == nil {
			err = rerr
		}
		if err != nil {
			return nil, err
		}
		ref = next
	}
	if ref != nil && l.id.RecordType != "" && ref.GetRecordType() == "" {
		if err := ref.SetRecordType(l.id.RecordType); err != nil {
			return nil, errors.Join(err, release(ctx, ref))
		}
	}
	return ref, nil
}

func release(ctx context.Context, ref cache.ImmutableRef) error {
	if ref == nil {
		return nil
	}
	return ref.Release(context.WithoutCancel(ctx))
}

// adopt makes a blob of the image store one of the cache, for the lease of ctx.
func (w *imageWorker) adopt(ctx context.Context, desc ocispec.Descriptor) error {
	store := w.ContentStore()
	if _, err := store.Info(ctx, desc.Digest); err == nil {
		id, _ := leases.FromContext(ctx)
		return w.LeaseManager().AddResource(ctx, leases.Lease{ID: id}, leases.Resource{ID: desc.Digest.String(), Type: "content"})
	}
	dir := filepath.Join(w.content, desc.Digest.Algorithm().String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ok, err := w.images.LinkBlob(desc.Digest, filepath.Join(dir, desc.Digest.Encoded()))
	if err != nil {
		return err
	}
	if !ok {
		return runner.Errorf(runner.ErrNotFound, "layer %s is no longer here", desc.Digest)
	}
	cw, err := content.OpenWriter(ctx, store, content.WithRef("image-"+desc.Digest.String()), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer cw.Close()
	err = cw.Commit(ctx, desc.Size, desc.Digest, content.WithLabels(map[string]string{labels.LabelUncompressed: desc.Annotations[labels.LabelUncompressed]}))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}
