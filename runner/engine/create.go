package engine

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
)

// CreateContainer implements runner/api's Containers.
func (e *Engine) CreateContainer(ctx context.Context, req runner.CreateRequest) (container.CreateResponse, error) {
	resp := container.CreateResponse{Warnings: []string{}}
	if req.Config == nil {
		return resp, runner.Errorf(runner.ErrInvalid, "config cannot be empty in order to create a container")
	}
	if req.Image == "" {
		return resp, runner.Errorf(runner.ErrInvalid, "no image specified")
	}
	img, err := e.images.Get(ctx, req.Image)
	if err != nil {
		return resp, err
	}
	if err := checkPlatform(req.Image, req.Platform, img); err != nil {
		return resp, err
	}
	release, err := e.images.Hold(img.ID)
	if err != nil {
		return resp, err
	}
	defer release() // the container is then among the users of the image
	rec, warnings, err := e.newRecord(req, img)
	if err != nil {
		return resp, err
	}
	if rec.Lower, err = e.images.Layers(ctx, img.ID); err != nil {
		return resp, err
	}
	releaseMounted, err := e.holdMountedImages(ctx, rec)
	if err != nil {
		return resp, err
	}
	defer releaseMounted()
	if err := e.mayStart(ctx, rec); err != nil {
		return resp, err
	}
	if rec.Name, err = e.reserve(req.Name, rec.ID); err != nil {
		return resp, err
	}
	c, err := e.make(ctx, rec)
	if err != nil {
		e.release(rec.Name)
		return resp, err
	}
	e.containerEvent(c, events.ActionCreate)
	resp.ID = rec.ID
	resp.Warnings = append(resp.Warnings, warnings...)
	return resp, nil
}

// make makes the container's volumes and directory, and registers it. If it
// fails, nothing is left.
func (e *Engine) make(ctx context.Context, rec *runner.Container) (*ctr, error) {
	made, err := e.makeVolumes(ctx, rec)
	if err == nil {
		err = e.store.Create(rec)
	}
	if err != nil {
		e.volumes.Unref(rec.ID)
		return nil, errors.Join(err, e.removeVolumes(context.WithoutCancel(ctx), made), e.store.Discard(rec.ID))
	}
	c := newCtr(e.work, rec, runner.State{Status: container.StateCreated})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[rec.ID] = c
	return c, nil
}
