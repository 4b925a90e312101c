package build

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/attestation"
	"github.com/moby/buildkit/exporter/containerimage"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/result"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/progress"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// imageExporter brings what was built into the image store.
type imageExporter struct {
	w      *imageWorker
	name   string
	remote exporter.Exporter // pushes; nil if the client does that
}

// Resolve implements exporter.Exporter.
func (e *imageExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	i := &imageExport{e: e, id: id, attrs: attrs, store: true}
	if _, ok := attrs["compression"]; !ok {
		// Layers are packed when they are pushed, if they are: to pack them takes
		// longer than most steps.
		attrs = maps.Clone(attrs)
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs["compression"] = "uncompressed"
	}
	rest, err := i.opts.Load(ctx, attrs)
	if err != nil {
		return nil, err
	}
	flag := func(key exptypes.ImageExporterOptKey, def bool) bool {
		v, ok := rest[string(key)]
		if !ok {
			return def
		}
		b, perr := strconv.ParseBool(v)
		if perr != nil && v != "" {
			err = errors.Join(err, runner.Errorf(runner.ErrInvalid, "non-bool value specified for %s", key))
		}
		return b || v == ""
	}
	i.store = flag(exptypes.OptKeyStore, true)
	if flag(exptypes.OptKeyPush, false) && err == nil {
		if e.remote == nil {
			return nil, runner.Errorf(runner.ErrNotImplemented, "exporter %s does not push: use type=image", e.name)
		}
		i.push, err = e.remote.Resolve(ctx, id, packed(i.attrs))
	}
	return i, err
}

// packed has layers compressed for a registry, though the cache have them as they
// are; who says how they are to be knows better.
func packed(attrs map[string]string) map[string]string {
	for _, key := range []string{"compression", "force-compression"} {
		if _, ok := attrs[key]; ok {
			return attrs
		}
	}
	attrs = maps.Clone(attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	attrs["force-compression"] = "true"
	return attrs
}

// imageExport is one export to the image store.
type imageExport struct {
	e     *imageExporter
	id    int
	attrs map[string]string
	opts  containerimage.ImageCommitOpts
	store bool
	push  exporter.ExporterInstance
}

// ID implements exporter.ExporterInstance, as do the others.
func (i *imageExport) ID() int { return i.id }

// Name is what progress calls it.
func (i *imageExport) Name() string { return "exporting to image" }

// Type is the name by which it was asked for.
func (i *imageExport) Type() string { return i.e.name }

// Attrs are those that it was asked for with.
func (i *imageExport) Attrs() map[string]string { return i.attrs }

// Config says how layers are packed.
func (i *imageExport) Config() *exporter.Config {
	return exporter.NewConfigWithCompression(i.opts.RefCfg.Compression)
}

// Export brings the result into the store, and pushes it if that was asked for.
func (i *imageExport) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (resp map[string]string, finalize exporter.FinalizeFunc, ref exporter.DescriptorReference, err error) {
	resp = map[string]string{}
	if i.push != nil {
		if resp, finalize, ref, err = i.push.Export(ctx, src, info); err != nil {
			return nil, nil, nil, err
		}
	} else if attested(src) {
		return nil, nil, nil, runner.Errorf(runner.ErrNotImplemented, "the image store keeps no attestations: push the image (--push), or write it to a file (--output type=oci)")
	}
	if !i.store || i.push != nil && len(src.Refs) > 1 {
		// An image of several platforms is only in the registry: the store keeps
		// one, and one was not asked for.
		return resp, finalize, ref, nil
	}
	id, err := i.toStore(ctx, src, info)
	if err != nil {
		if ref != nil {
			err = errors.Join(err, ref.Release())
		}
		return nil, nil, nil, err
	}
	if resp[exptypes.ExporterImageDigestKey] == "" {
		resp[exptypes.ExporterImageDigestKey] = id
	}
	resp[exptypes.ExporterImageConfigDigestKey] = id
	if i.opts.ImageName != "" {
		resp[exptypes.ExporterImageNameKey] = i.opts.ImageName
	}
	return resp, finalize, ref, nil
}

// attested says whether somebody has asked for attestations. What buildx adds of
// itself is only for what can hold it without becoming an index.
func attested(src *exporter.Source) bool {
	for _, all := range src.Attestations {
		if len(attestation.Filter(all, nil, map[string][]byte{result.AttestationInlineOnlyKey: []byte(strconv.FormatBool(true))})) > 0 {
			return true
		}
	}
	return false
}

// toStore makes the result an image of the store, and returns its ID.
func (i *imageExport) toStore(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (id string, err error) {
	w := i.e.w
	ref := src.Ref
	if len(src.Refs) > 1 {
		return "", runner.Errorf(runner.ErrNotImplemented, "exporting multiple references to image store is currently unsupported")
	}
	for _, r := range src.Refs {
		ref = r
	}
	ctx, done, err := leaseutil.WithLease(ctx, w.LeaseManager(), leaseutil.MakeTemporary)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	config, remote, err := i.commit(ctx, src, info)
	if err != nil {
		return "", err
	}
	if u, ok := remote.Provider.(cache.Unlazier); ok {
		if err := u.Unlazy(ctx); err != nil {
			return "", err
		}
	}
	layers := make([]Layer, len(remote.Descriptors))
	for n, desc := range remote.Descriptors {
		layers[n] = Layer{
			Blob:   ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size},
			DiffID: digest.Digest(desc.Annotations[labels.LabelUncompressed]),
			File:   filepath.Join(w.content, desc.Digest.Algorithm().String(), desc.Digest.Encoded()),
		}
	}
	var names []string
	for name := range strings.SplitSeq(i.opts.ImageName, ",") {
		if name != "" {
			names = append(names, name)
		}
	}
	finish := progress.OneOff(ctx, "writing image to the store")
	id, err = w.add(ctx, ref, session.NewGroup(info.SessionID), Built{Config: config, Layers: layers, Names: names})
	if finish(err) != nil {
		return "", err
	}
	_ = progress.OneOff(ctx, "writing image "+id)(nil) // it has no other error
	for _, name := range names {
		_ = progress.OneOff(ctx, "naming to "+name)(nil)
	}
	return id, nil
}

// commit makes the image's layers and configuration.
func (i *imageExport) commit(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) ([]byte, *solver.Remote, error) {
	w := i.e.w
	src = src.Clone()
	src.Attestations = nil
	opts := i.opts
	if opts.RefCfg.Compression.Type == nil {
		opts.RefCfg.Compression = compression.New(compression.Uncompressed)
	}
	oci := opts.RefCfg.Compression.Type.OnlySupportOCITypes()
	opts.OCITypes = &oci
	// One platform, as a result that has none.
	desc, remotes, err := w.writer.Commit(ctx, single(src), info.SessionID, info.InlineCache, &opts, info.CompatibilityVersion, i.Type())
	if err != nil {
		return nil, nil, err
	}
	remote := remotes.Ref
	for _, r := range remotes.Refs {
		remote = r
	}
	if remote == nil {
		remote = &solver.Remote{}
	}
	config, err := content.ReadBlob(ctx, w.ContentStore(), ocispec.Descriptor{Digest: digest.Digest(desc.Annotations[exptypes.ExporterConfigDigestKey])})
	return config, remote, err
}

// single makes a result for one platform one that does not say so: an index is
// not what the store keeps.
func single(src *exporter.Source) *exporter.Source {
	if len(src.Refs) != 1 {
		return src
	}
	for id, ref := range src.Refs {
		src.SetRef(ref)
		for _, key := range exptypes.KnownRefMetadataKeys {
			if v, ok := src.Metadata[key+"/"+id]; ok {
				src.Metadata[key] = v
			}
		}
	}
	src.Refs = nil
	delete(src.Metadata, exptypes.ExporterPlatformsKey)
	return src
}

// add gives the store an image, with the trees of its layers if no other build
// may be looking at them.
func (w *imageWorker) add(ctx context.Context, ref cache.ImmutableRef, g session.Group, built Built) (id string, err error) {
	trees, unmount, err := treesOfRef(ctx, ref, g)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	took, err := w.alone(func() error {
		if len(trees) == len(built.Layers) {
			for n := range built.Layers {
				// Those that are the store's already are links.
				if dir := trees[len(trees)-1-n]; strings.HasPrefix(dir, w.snaps.root+"/") && isDir(dir) {
					built.Layers[n].Tree = dir
				}
			}
		}
		var err error
		id, err = w.images.Add(ctx, built)
		return err
	})
	if !took && err == nil {
		id, err = w.images.Add(ctx, built)
	}
	return id, err
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// treesOfRef returns the directories of a snapshot's layers, the topmost first.
func treesOfRef(ctx context.Context, ref cache.ImmutableRef, g session.Group) (trees []string, release func() error, err error) {
	if ref == nil {
		return nil, func() error { return nil }, nil
	}
	m, err := ref.Mount(ctx, true, g)
	if err != nil {
		return nil, nil, err
	}
	mounts, release, err := m.Mount()
	if err != nil {
		return nil, nil, err
	}
	_, trees = treesOf(mounts)
	return trees, release, nil
}
