package engine

import (
	"context"
	"errors"
	"io"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/images/remote"
)

// ListImages implements runner/api's Images.
func (e *Engine) ListImages(ctx context.Context, opts runner.ImageListOptions) ([]image.Summary, error) {
	return e.images.List(ctx, opts, e.countByImage)
}

// InspectImage implements runner/api's Images.
func (e *Engine) InspectImage(ctx context.Context, ref, platform string, manifests bool) (image.InspectResponse, error) {
	return e.images.Inspect(ctx, ref, platform, manifests)
}

// ImageHistory implements runner/api's Images.
func (e *Engine) ImageHistory(ctx context.Context, ref, platform string) ([]image.HistoryResponseItem, error) {
	return e.images.History(ctx, ref, platform)
}

// TagImage implements runner/api's Images.
func (e *Engine) TagImage(ctx context.Context, ref, repo, tag string) error {
	return e.images.Tag(ctx, ref, repo, tag)
}

// RemoveImage implements runner/api's Images.
func (e *Engine) RemoveImage(ctx context.Context, ref string, opts runner.ImageRemoveOptions) ([]image.DeleteResponse, error) {
	return e.images.Remove(ctx, ref, opts, e.users)
}

// PruneImages implements runner/api's Images.
func (e *Engine) PruneImages(ctx context.Context, filters runner.Filters) (image.PruneReport, error) {
	return e.images.Prune(ctx, filters, e.users)
}

// SaveImages implements runner/api's Images.
func (e *Engine) SaveImages(ctx context.Context, refs, platforms []string, w io.Writer) error {
	return e.images.Save(ctx, refs, platforms, w)
}

// LoadImages implements runner/api's Images.
func (e *Engine) LoadImages(ctx context.Context, r io.Reader, quiet bool, progress runner.Progress) error {
	return e.images.Load(ctx, r, quiet, progress)
}

// ImportImage implements runner/api's Images.
func (e *Engine) ImportImage(ctx context.Context, req runner.ImportRequest, r io.Reader, progress runner.Progress) (string, error) {
	return e.images.Import(ctx, req, r, progress)
}

// unasked makes an error of a registry that wants other credentials one without
// that kind, as dockerd does: at the status 401 the docker command would ask for
// a password, in the middle of a script too.
func unasked(err error) error {
	if errors.Is(err, runner.ErrUnauthorized) {
		return errors.New(err.Error())
	}
	return err
}

// PullImage implements runner/api's ImageTransfers.
func (e *Engine) PullImage(ctx context.Context, req runner.PullRequest, progress runner.Progress) error {
	return unasked(e.pull(ctx, req, progress))
}

func (e *Engine) pull(ctx context.Context, req runner.PullRequest, progress runner.Progress) error {
	ref, err := e.images.ParseRef(req.Ref)
	if err != nil {
		return err
	}
	repo := e.remote.Repository(ref, req.Auth)
	if !req.All {
		return e.pullOne(ctx, repo, ref, req.Platform, progress)
	}
	name := reference.TrimNamed(ref)
	found := false
	for tag, err := range repo.Tags(ctx) {
		if err != nil {
			return err
		}
		found = true
		tagged, err := reference.WithTag(name, tag)
		if err != nil {
			return err
		}
		if err := e.pullOne(ctx, repo, tagged, req.Platform, progress); err != nil {
			return err
		}
	}
	if !found {
		return runner.Errorf(runner.ErrNotFound, "no tags in %s", reference.FamiliarName(name))
	}
	return nil
}

func (e *Engine) pullOne(ctx context.Context, repo *remote.Repo, ref reference.Named, platform string, progress runner.Progress) error {
	id, err := e.images.Pull(ctx, repo, ref, platform, progress)
	if err != nil {
		return err
	}
	e.judgePulled(ctx, repo, ref, id, progress)
	return nil
}

// PushImage implements runner/api's ImageTransfers.
func (e *Engine) PushImage(ctx context.Context, req runner.PushRequest, progress runner.Progress) error {
	return unasked(e.push(ctx, req, progress))
}

func (e *Engine) push(ctx context.Context, req runner.PushRequest, progress runner.Progress) error {
	ref, err := e.images.ParseRef(req.Ref)
	if err != nil {
		return err
	}
	refs := []reference.NamedTagged{}
	if req.All {
		if refs, err = e.images.TagsOf(ctx, ref); err != nil {
			return err
		}
	} else if tagged, ok := ref.(reference.NamedTagged); ok {
		refs = append(refs, tagged)
	}
	if len(refs) == 0 {
		return runner.Errorf(runner.ErrNotFound, "An image does not exist locally with the tag: %s", reference.FamiliarName(ref))
	}
	repo := e.remote.Repository(ref, req.Auth)
	for _, tagged := range refs {
		if err := e.pushOne(ctx, repo, tagged, req.Platform, progress); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) pushOne(ctx context.Context, repo *remote.Repo, ref reference.NamedTagged, platform string, progress runner.Progress) error {
	img, err := e.images.Export(ctx, ref, platform)
	if err != nil {
		return err
	}
	defer img.Release()
	if _, err := repo.Push(ctx, ref.Tag(), remote.PushContent{
		Manifest:  img.Manifest,
		Blobs:     img.Blobs,
		MountFrom: img.MountFrom,
		DiffIDs:   img.DiffIDs,
	}, e.images, progress); err != nil {
		return err
	}
	if err := e.images.Pushed(ctx, ref, img); err != nil {
		return err
	}
	name := e.images.Familiar(ref)
	e.imageEvent(events.ActionPush, name, map[string]string{"name": name})
	return nil
}

// SearchImages implements runner/api's ImageTransfers.
func (e *Engine) SearchImages(ctx context.Context, req runner.SearchRequest) ([]registry.SearchResult, error) {
	found, err := e.remote.Search(ctx, req)
	return found, unasked(err)
}

// InspectDistribution implements runner/api's ImageTransfers.
func (e *Engine) InspectDistribution(ctx context.Context, ref string, auth *registry.AuthConfig) (registry.DistributionInspect, error) {
	named, err := e.images.ParseRef(ref)
	if err != nil {
		return registry.DistributionInspect{}, err
	}
	return e.remote.Distribution(ctx, named, auth)
}

// Login implements runner/api's ImageTransfers.
func (e *Engine) Login(ctx context.Context, auth registry.AuthConfig) (registry.AuthResponse, error) {
	return e.remote.Login(ctx, auth)
}
