package engine

import (
	"context"
	"maps"
	"slices"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/runner"
)

// ImagesInUse lists the manifests of the images of all containers that run, are
// paused, or are about to be started again by their restart policy: by the full names
// that registries know them by, sorted. Of an index that was pulled it has both the
// index and the manifest that was chosen of it. As long as there is a container whose
// record cannot be read, all images count.
func (e *Engine) ImagesInUse(ctx context.Context) []reference.Canonical {
	found := map[string]reference.Canonical{}
	for _, c := range e.all() {
		if c.unread != nil {
			for _, name := range e.allManifests(ctx) {
				found[name.String()] = name
			}
			continue
		}
		rec, st := c.snapshot()
		if !st.Running() && st.Status != container.StateRestarting {
			continue
		}
		var names []reference.Named
		if img, err := e.images.Get(ctx, rec.ImageID); err == nil { // else it was removed by force
			names = img.Names
		}
		asked, err := e.images.ParseRef(rec.Config.Image)
		if err != nil { // it was asked for by its ID
			asked = nil
		}
		for _, name := range slices.Concat(manifestsOf(rec, names, asked), e.mountedManifests(ctx, rec)) {
			found[name.String()] = name
		}
	}
	var list []reference.Canonical
	for _, key := range slices.Sorted(maps.Keys(found)) {
		list = append(list, found[key])
	}
	return list
}

// allManifests are those of all images that there are.
func (e *Engine) allManifests(ctx context.Context) (list []reference.Canonical) {
	for id := range e.images.Provenances() {
		list = append(list, e.manifestsOfImage(ctx, id)...)
	}
	return list
}

// mountedManifests are those of the images that a container has as mounts.
func (e *Engine) mountedManifests(ctx context.Context, rec *runner.Container) []reference.Canonical {
	var list []reference.Canonical
	for _, m := range rec.Mounts {
		if m.Type != mount.TypeImage {
			continue
		}
		list = append(list, e.manifestsOfImage(ctx, m.Name)...)
	}
	return list
}

func (e *Engine) manifestsOfImage(ctx context.Context, id string) []reference.Canonical {
	img, err := e.images.Get(ctx, id)
	if err != nil { // it was removed by force
		return nil
	}
	return manifestsOf(&runner.Container{Manifest: &img.Manifest}, img.Names, nil)
}

// manifestsOf are the manifests of a container's image: those that its names with a
// digest say, and in the repositories of those the one that the container was made
// of. Where it has lost all of these names, asked says the repository.
func manifestsOf(rec *runner.Container, names []reference.Named, asked reference.Named) []reference.Canonical {
	var list []reference.Canonical
	repos := map[string]reference.Named{}
	for _, name := range names {
		if c, ok := name.(reference.Canonical); ok {
			list = append(list, c)
			repos[name.Name()] = reference.TrimNamed(name)
		}
	}
	if len(repos) == 0 && asked != nil {
		repos[asked.Name()] = reference.TrimNamed(asked)
		if c, ok := asked.(reference.Canonical); ok {
			list = append(list, c)
		}
	}
	if rec.Manifest == nil {
		return list
	}
	for _, repo := range repos {
		if c, err := reference.WithDigest(repo, rec.Manifest.Digest); err == nil {
			list = append(list, c)
		}
	}
	return list
}

// ReportUse tells a registry what a node runs. See remote.Client's method.
func (e *Engine) ReportUse(ctx context.Context, host string, login *registry.AuthConfig, r runner.UseReport) (unknown []reference.Canonical, err error) {
	return e.remote.ReportUse(ctx, host, login, r)
}
