package engine

import (
	"context"
	"path/filepath"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/images/remote"
	"github.com/berth-registry/berth/runner/trust"
)

// actionRefuse is the action of an event that tells of an image that may not run.
const actionRefuse events.Action = "refuse"

// openTrust reads the policy of which images may run, and forgets the signatures of
// images that are gone.
func (e *Engine) openTrust(ctx context.Context) (err error) {
	e.trust, err = trust.Open(ctx, trust.Options{Dir: filepath.Join(e.opts.Data, "trust"), Log: e.log}, e.opts.Trust)
	if err != nil {
		return err
	}
	known := map[digest.Digest]bool{}
	for _, p := range e.images.Provenances() {
		for _, o := range p.Origins {
			known[o.Root], known[o.Manifest] = true, true
		}
	}
	return e.trust.Forget(func(d digest.Digest) bool { return known[d] })
}

// SetTrust puts another policy in force of which images may run, or the same one with
// what is in the files of its rules now. If a rule is wrong, all stays as it is.
// Containers that run go on; those whose images may not run any more are told of in
// the log.
func (e *Engine) SetTrust(rules []trust.Rule) error {
	if err := e.trust.Set(rules); err != nil {
		return err
	}
	e.reviewTrust()
	return nil
}

// mayStart returns why a container may not be started: its image may not run, or one
// that it mounts, whose programs it could run as well. It is asked before each start.
func (e *Engine) mayStart(ctx context.Context, rec *runner.Container) error {
	if err := e.mayRun(ctx, rec.ImageID, rec.Config.Image); err != nil {
		return err
	}
	for _, m := range rec.Mounts {
		if m.Type != mount.TypeImage {
			continue
		}
		if err := e.mayRun(ctx, m.Name, m.Source); err != nil {
			return err
		}
	}
	return nil
}

// mayRun returns why an image may not run; name is how it was asked for.
func (e *Engine) mayRun(ctx context.Context, imageID, name string) error {
	if !e.trust.Restricted() {
		return nil
	}
	return e.decide(ctx, e.provenanceOf(imageID, name))
}

// mayBuildOn returns why the steps of a build may not run an image: one of the store,
// or, without an ID, what a registry has for a name with a digest.
func (e *Engine) mayBuildOn(ctx context.Context, name, imageID string) error {
	if imageID != "" || !e.trust.Restricted() {
		return e.mayRun(ctx, imageID, name)
	}
	img := trust.Image{Name: name}
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		if at, ok := named.(reference.Canonical); ok {
			img.Origins = []runner.Origin{{Repository: at.Name(), Root: at.Digest(), Manifest: at.Digest()}}
		}
	}
	return e.decide(ctx, img)
}

// decide asks the policy, and tells of an image that may not run.
func (e *Engine) decide(ctx context.Context, img trust.Image) error {
	_, err := e.trust.Decide(ctx, img, e.signatures)
	if err == nil {
		return nil
	}
	e.log.WarnContext(ctx, "an image may not run", "image", img.Name, "error", err)
	e.imageEvent(actionRefuse, img.Name, map[string]string{"name": img.Name, "reason": err.Error()})
	return err
}

// provenanceOf is an image as the policy sees it. One that the store does not know has
// no origin, and is no better than one that was made here.
func (e *Engine) provenanceOf(imageID, name string) trust.Image {
	p, err := e.images.Provenance(imageID)
	if err != nil {
		e.log.Warn("it is not known where an image came from", "image", imageID, "error", err)
	}
	return trust.Image{Name: name, Provenance: p}
}

// signatures are those of a repository, as the account sees it that is configured for
// its registry.
func (e *Engine) signatures(repository reference.Named) trust.Source {
	login, err := e.login(reference.Domain(repository))
	if err != nil { // then as anybody does
		e.log.Warn("the password for a registry cannot be read", "registry", reference.Domain(repository), "error", err)
	}
	return e.remote.Repository(repository, login)
}

func (e *Engine) login(host string) (*registry.AuthConfig, error) {
	if e.opts.Login == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	return e.opts.Login(host)
}

// judgePulled tells whoever pulls an image if it may not run. Its signature is fetched
// now, while there are credentials for its registry.
func (e *Engine) judgePulled(ctx context.Context, repo *remote.Repo, ref reference.Named, id string, progress runner.Progress) {
	if !e.trust.Restricted() {
		return
	}
	sources := func(repository reference.Named) trust.Source {
		if repository.Name() == ref.Name() {
			return repo
		}
		return e.signatures(repository)
	}
	if _, err := e.trust.Decide(ctx, e.provenanceOf(id, e.images.Familiar(ref)), sources); err != nil {
		progress.Status("", "Warning: "+err.Error())
	}
}

// reviewTrust looks, beside its caller, at the images of all containers: it finds the
// signatures of those that may run before they are needed, and tells of containers that
// run though their image may not.
func (e *Engine) reviewTrust() {
	if !e.trust.Restricted() {
		return
	}
	e.work.run(func() {
		ctx := e.lifetime()
		decided := map[string]error{}
		for _, c := range e.all() {
			if c.unread != nil {
				continue
			}
			rec, st := c.snapshot()
			err, known := decided[rec.ImageID]
			if !known {
				_, err = e.trust.Decide(ctx, e.provenanceOf(rec.ImageID, rec.Config.Image), e.signatures)
				decided[rec.ImageID] = err
			}
			if ctx.Err() != nil {
				return
			}
			if err != nil && st.Running() {
				e.log.WarnContext(ctx, "a container runs whose image may not run any more: it is left alone until its next start", "container", rec.Name, "error", err)
			}
		}
	})
}

// startsLater has a container started again after a while that could not be started now,
// because its image's registry did not say what it has to say of it, if a restart policy
// wanted the start. The caller has its turn.
func (e *Engine) startsLater(c *ctr) bool {
	_, st := c.snapshot()
	if st.Status != container.StateExited {
		return false
	}
	st.Status = container.StateRestarting
	if err := e.change(c, st); err != nil {
		return false
	}
	c.mu.Lock()
	delay := c.nextDelay()
	c.mu.Unlock()
	e.retry(c, delay)
	return true
}
