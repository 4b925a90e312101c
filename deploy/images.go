package deploy

import (
	"context"
	"errors"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
)

// pinned returns the reference that an image is the same by for ever, and its digest,
// as far as the host has it: runner.ErrNotFound if it does not.
func (m *Manager) pinned(ctx context.Context, svc *Service) (string, digest.Digest, error) {
	ref := svc.Image
	if svc.Digest != "" {
		ref = repository(svc.Image) + "@" + svc.Digest.String()
	}
	img, err := m.engine.InspectImage(ctx, ref, "", false)
	if err != nil {
		return "", "", err
	}
	if svc.Digest != "" {
		return ref, svc.Digest, nil
	}
	ref, d := byDigest(svc.Image, img)
	return ref, d, nil
}

// byDigest returns the name of an image by digest, in the repository asked for. One
// that comes of no registry is named by its ID.
func byDigest(ref string, img image.InspectResponse) (string, digest.Digest) {
	want := repository(ref)
	for _, name := range img.RepoDigests {
		if repo := repository(name); repo == want || strings.HasSuffix(repo, "/"+want) || strings.HasSuffix(want, "/"+repo) {
			_, d, _ := strings.Cut(name, "@")
			return name, digest.Digest(d)
		}
	}
	return img.ID, digest.Digest(img.ID)
}

// pull pulls the image of a service as its policy wants it, and pins it.
func (m *Manager) pull(ctx context.Context, svc *Service, auth map[string]registry.AuthConfig, tell func(kind EventKind, text string)) error {
	ref, d, err := m.pinned(ctx, svc)
	missing := errors.Is(err, runner.ErrNotFound)
	if err != nil && !missing {
		return err
	}
	if missing && svc.Pull == PullNever {
		return runner.Errorf(runner.ErrNotFound, "image %s is not on this host, and is not to be pulled", svc.Image)
	}
	if missing || svc.Pull == PullAlways && svc.Digest == "" {
		req := runner.PullRequest{Ref: svc.Image, Platform: svc.Platform}
		if svc.Digest != "" {
			req.Ref = repository(svc.Image) + "@" + svc.Digest.String()
		}
		if a, ok := auth[registryOf(svc.Image)]; ok {
			req.Auth = &a
		}
		tell(EventStep, "pull "+req.Ref)
		if err := m.engine.PullImage(ctx, req, progress(tell)); err != nil {
			return err
		}
		if ref, d, err = m.pinned(ctx, svc); err != nil {
			return err
		}
	}
	pin(svc, ref, d)
	return nil
}

// repull pulls the image of a service that was pinned before, if it is gone.
func (m *Manager) repull(ctx context.Context, svc *Service, auth map[string]registry.AuthConfig, tell func(kind EventKind, text string)) error {
	ref := svc.Container.Image
	_, err := m.engine.InspectImage(ctx, ref, "", false)
	if !errors.Is(err, runner.ErrNotFound) {
		return err
	}
	if !strings.Contains(ref, "@") {
		return runner.Errorf(runner.ErrNotFound, "image %s (%s) is not on this host any more, and comes of no registry", svc.Image, ref)
	}
	req := runner.PullRequest{Ref: ref, Platform: svc.Platform}
	if a, ok := auth[registryOf(ref)]; ok {
		req.Auth = &a
	}
	tell(EventStep, "pull "+ref)
	return m.engine.PullImage(ctx, req, progress(tell))
}

// readable is the name of an image by digest with the tag that was asked for, as Swarm
// has it: docker ps shows REPOSITORY:TAG of it. What it names is the digest alone.
func readable(pinned, asked string) string {
	repo, d, ok := strings.Cut(pinned, "@")
	asked, _, _ = strings.Cut(asked, "@")
	tag := strings.TrimPrefix(asked, repository(asked))
	if !ok || tag == "" {
		return pinned
	}
	return repository(repo) + tag + "@" + d
}

// pin makes a service's containers those of an image that does not change.
func pin(svc *Service, ref string, d digest.Digest) {
	svc.Container.Config = withImage(svc, ref)
	if strings.Contains(ref, "@") {
		svc.Digest = d
	}
}

// imagesOf are the digests of the images of a stack that is pinned.
func imagesOf(s *Stack) map[string]digest.Digest {
	images := map[string]digest.Digest{}
	for _, svc := range s.Services {
		images[svc.Name] = svc.Digest
		if svc.Digest == "" && svc.Container.Config != nil {
			images[svc.Name] = digest.Digest(svc.Container.Image)
		}
	}
	return images
}

// progress tells what a pull says, without the bytes of each layer.
func progress(tell func(kind EventKind, text string)) runner.Progress {
	return func(m jsonstream.Message) {
		if m.Progress != nil || m.Status == "" {
			return
		}
		text := m.Status
		if m.ID != "" {
			text = m.ID + ": " + text
		}
		tell(EventDetail, text)
	}
}

// withImage is the configuration of a service's containers with their image.
func withImage(svc *Service, ref string) *container.Config {
	cfg := container.Config{}
	if svc.Container.Config != nil {
		cfg = *svc.Container.Config
	}
	cfg.Image = ref
	return &cfg
}
