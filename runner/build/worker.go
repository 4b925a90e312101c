package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/diff/apply"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	ctdsnapshots "github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage"
	"github.com/moby/buildkit/session"
	containerdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	imagesource "github.com/moby/buildkit/source/containerimage"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker/base"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

const namespace = "buildkit"

// imageWorker is BuildKit's worker with images from the image store, and into it.
type imageWorker struct {
	*base.Worker
	source  *imageSource
	writer  *containerimage.ImageWriter
	content string // directory of the blobs
	images  Images
	snaps   *linked
	steps   *steps

	closeOnce sync.Once
	closeErr  error
	// alone runs f while no other build than the caller's is under way, and says
	// whether it could.
	alone func(f func() error) (bool, error)
}

// openWorker opens the cache's parts, and what runs steps.
func openWorker(ctx context.Context, o Options) (_ *imageWorker, err error) {
	snaps, err := openSnapshotter(filepath.Join(o.Root, "snapshots"), o.Images)
	if err != nil {
		return nil, err
	}
	var opened []func() error
	defer func() {
		if err != nil {
			for _, f := range append(opened, snaps.Close) {
				err = errors.Join(err, f())
			}
		}
	}()
	blobs, err := openContents(filepath.Join(o.Root, "content"))
	if err != nil {
		return nil, err
	}
	db, err := boltutil.Open(filepath.Join(o.Root, "containerd.db"), 0o600, &bolt.Options{
		FreelistType: bolt.FreelistMapType, NoFreelistSync: true, NoSync: true,
	})
	if err != nil {
		return nil, err
	}
	opened = append(opened, db.Close)
	mdb := ctdmetadata.NewDB(db, blobs, map[string]ctdsnapshots.Snapshotter{snapshotterName: snaps})
	if err := mdb.Init(ctx); err != nil {
		return nil, err
	}
	md, err := metadata.NewStore(filepath.Join(o.Root, "metadata_v2.db"))
	if err != nil {
		return nil, err
	}
	opened = append(opened, md.Close)
	if err := md.DB().View(func(tx *bolt.Tx) error {
		tx.DB().NoSync = true // as the others; nobody else has it yet
		return nil
	}); err != nil {
		return nil, err
	}
	steps, err := openSteps(o)
	if err != nil {
		return nil, err
	}
	content := containerdsnapshot.NewContentStore(mdb.ContentStore(), namespace)
	opt := base.WorkerOpt{
		Root:             o.Root,
		Labels:           labelsOf(o),
		Platforms:        []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())},
		GCPolicy:         gcPolicy(o.Root, o.MaxSize),
		BuildkitVersion:  client.BuildkitVersion{Package: version.Package, Version: version.Version, Revision: version.Revision},
		NetworkProviders: steps.networks,
		Executor:         steps,
		Snapshotter:      containerdsnapshot.NewSnapshotter(snapshotterName, mdb.Snapshotter(snapshotterName), namespace, nil),
		ContentStore:     content,
		Applier:          applier{apply.NewFileSystemApplier(content), o.Images, o.Log},
		Differ:           walking.NewWalkingDiff(content),
		RegistryHosts:    o.Hosts,
		LeaseManager:     leaseutil.WithNamespace(ctdmetadata.NewLeaseManager(mdb), namespace),
		GarbageCollect:   mdb.GarbageCollect,
		MetadataStore:    md,
		ContentMetadata:  db,
		MountPoolRoot:    filepath.Join(o.Run, "cachemounts"),
	}
	if opt.ID, err = base.ID(o.Root); err != nil {
		return nil, err
	}
	return newWorker(ctx, o, opt, snaps, steps)
}

func newWorker(ctx context.Context, o Options, opt base.WorkerOpt, snaps *linked, steps *steps) (*imageWorker, error) {
	if err := os.MkdirAll(opt.MountPoolRoot, 0o700); err != nil {
		return nil, err
	}
	bw, err := base.NewWorker(ctx, opt)
	if err != nil {
		return nil, err
	}
	writer, err := containerimage.NewImageWriter(containerimage.WriterOpt{
		Snapshotter: opt.Snapshotter, ContentStore: opt.ContentStore, Applier: opt.Applier, Differ: opt.Differ,
	})
	if err != nil {
		return nil, err
	}
	w := &imageWorker{
		Worker: bw, writer: writer, images: o.Images, snaps: snaps, steps: steps,
		content: filepath.Join(o.Root, "content", "blobs"),
	}
	w.source = &imageSource{Source: bw.ImageSource, w: w, name: o.Name, mayUse: o.MayUse}
	bw.SourceManager.Register(w.source)
	return w, nil
}

// Close implements worker.Worker. BuildKit calls it when it ends; the snapshots
// are closed after all that.
func (w *imageWorker) Close() error { return nil }

func (w *imageWorker) close() error {
	w.closeOnce.Do(func() { w.closeErr = errors.Join(w.Worker.Close(), w.snaps.Close()) })
	return w.closeErr
}

// ResolveSourceMetadata implements worker.Worker.
func (w *imageWorker) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt, sm *session.Manager, jobCtx solver.JobContext) (*sourceresolver.MetaResponse, error) {
	var platform *pb.Platform
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		platform = pb.PlatformFromSpec(*opt.ImageOpt.Platform)
	}
	id, err := w.ParseSource(op, platform)
	if err != nil {
		return nil, err
	}
	if img, ok := id.(*imagesource.ImageIdentifier); ok {
		resp, err := w.source.metadata(ctx, img, opt.ImageOpt, sm, jobCtx)
		if err != nil {
			return nil, err
		}
		return &sourceresolver.MetaResponse{Op: op, Image: resp}, nil
	}
	return w.Worker.ResolveSourceMetadata(ctx, op, opt, sm, jobCtx)
}

// Exporter implements worker.Worker. The image store has two names: docker's own,
// and the one that everybody uses.
func (w *imageWorker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	switch name {
	case "moby", client.ExporterImage:
		remote, err := w.Worker.Exporter(client.ExporterImage, sm)
		return &imageExporter{w: w, name: name, remote: remote}, err
	}
	return w.Worker.Exporter(name, sm)
}
