package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

const snapshotterName = "overlayfs"

// linked is containerd's overlayfs snapshotter, of which the trees may be links
// to layers of the image store. Nobody who uses it sees the links: some walk the
// trees, and would not follow.
type linked struct {
	snapshots.Snapshotter
	root   string
	meta   *storage.MetaStore
	images Images
}

func openSnapshotter(root string, images Images) (*linked, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"), func(o *bolt.Options) error {
		o.NoSync, o.FreelistType = true, bolt.FreelistMapType
		return nil
	})
	if err != nil {
		return nil, err
	}
	// A tree is taken out of its stack, so it must not refer to what is below it.
	options := []string{"metacopy=off", "redirect_dir=off"}
	for _, name := range []string{"metacopy", "redirect_dir"} {
		if _, err := os.Stat("/sys/module/overlay/parameters/" + name); err != nil {
			options = nil // the kernel does not know such trees
		}
	}
	s, err := overlay.NewSnapshotter(root, overlay.WithMetaStore(meta), overlay.WithMountOptions(options))
	if err != nil {
		return nil, errors.Join(err, meta.Close())
	}
	l := &linked{Snapshotter: s, root: root, meta: meta, images: images}
	// A process that was killed may have left a directory that it did not live to write
	// down. A store that never had a snapshot has none to look for.
	if err := l.Cleanup(context.Background()); err != nil && !errdefs.IsNotFound(err) {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Mounts implements snapshots.Snapshotter.
func (l *linked) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	m, err := l.Snapshotter.Mounts(ctx, key)
	return resolve(m), err
}

// Prepare implements snapshots.Snapshotter.
func (l *linked) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	m, err := l.Snapshotter.Prepare(ctx, key, parent, opts...)
	return resolve(m), err
}

// View implements snapshots.Snapshotter.
func (l *linked) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	m, err := l.Snapshotter.View(ctx, key, parent, opts...)
	return resolve(m), err
}

// Remove implements snapshots.Snapshotter.
func (l *linked) Remove(ctx context.Context, key string) error {
	var target string
	err := l.meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		id, _, _, err := storage.GetInfo(ctx, key)
		if err == nil {
			target, _ = os.Readlink(filepath.Join(l.root, "snapshots", id, "fs")) // most are none
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := l.Snapshotter.Remove(ctx, key); err != nil {
		return err
	}
	if target != "" {
		l.images.Unshare(target)
	}
	return nil
}

// Cleanup implements snapshots.Cleaner.
func (l *linked) Cleanup(ctx context.Context) error {
	if c, ok := l.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return nil
}

// resolve puts what links point to in their places.
func resolve(mounts []mount.Mount) []mount.Mount {
	for i, m := range mounts {
		mounts[i].Source = follow(m.Source)
		for j, o := range m.Options {
			if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
				list := strings.Split(dirs, ":")
				for k, dir := range list {
					list[k] = follow(dir)
				}
				m.Options[j] = "lowerdir=" + strings.Join(list, ":")
			}
		}
	}
	return mounts
}

func follow(dir string) string {
	if target, err := os.Readlink(dir); err == nil && filepath.IsAbs(target) {
		return target
	}
	return dir
}

// treesOf returns the directories that mounts are made of: the one that is
// written to, if any, and those below, the topmost first.
func treesOf(mounts []mount.Mount) (upper string, lower []string) {
	if len(mounts) != 1 {
		return "", nil
	}
	m := mounts[0]
	switch m.Type {
	case "bind":
		if m.ReadOnly() {
			return "", []string{m.Source}
		}
		return m.Source, nil
	case "overlay":
		for _, o := range m.Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				upper = dir
			}
			if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
				lower = strings.Split(dirs, ":")
			}
		}
	}
	return upper, lower
}

// Links returns what the cache of a directory has of the image store: directories
// of layers, each as often as there is a link to it. It is to be called before
// the image store is opened, which must know it.
func Links(root string) ([]string, error) {
	var list []string
	err := eachLink(root, func(target string) error {
		list = append(list, target)
		return nil
	})
	return list, err
}

// linksHold says whether what the links of a cache point to is there.
func linksHold(root string) (bool, error) {
	err := eachLink(root, func(target string) error {
		_, err := os.Stat(target)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func eachLink(root string, f func(target string) error) error {
	dir := filepath.Join(root, "snapshots", "snapshots")
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the build cache: %w", err)
	}
	for _, d := range list {
		if target, err := os.Readlink(filepath.Join(dir, d.Name(), "fs")); err == nil {
			if err := f(target); err != nil {
				return err
			}
		}
	}
	return nil
}
