package build

import (
	"context"
	"log/slog"
	"os"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// applier unpacks a layer into a snapshot. Of one that the image store has
// unpacked, the snapshot becomes a link.
type applier struct {
	diff.Applier
	images Images
	log    *slog.Logger
}

// Apply implements diff.Applier.
func (a applier) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	diffID := digest.Digest(desc.Annotations[labels.LabelUncompressed])
	if diffID != "" && a.link(ctx, diffID, mounts) {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID, Size: desc.Size}, nil
	}
	return a.Applier.Apply(ctx, desc, mounts, opts...)
}

func (a applier) link(ctx context.Context, diffID digest.Digest, mounts []mount.Mount) bool {
	upper, below := treesOf(mounts)
	if upper == "" {
		return false
	}
	dir := a.images.ShareTree(diffID, below)
	if dir == "" {
		return false
	}
	err := os.Remove(upper) // it is empty
	if err == nil {
		if err = os.Symlink(dir, upper); err == nil {
			return true
		}
		_ = os.Mkdir(upper, 0o755) //nolint:gosec // the root of a step's files
	}
	a.log.WarnContext(ctx, "a layer of the image store is unpacked once more", "layer", diffID, "error", err)
	a.images.Unshare(dir)
	return false
}
