package deploy

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/berth-registry/berth/runner"
)

// request is what a replica of a service is created with.
func (u *unit) request(svc *Service, version string, revision, number int) (runner.CreateRequest, error) {
	req := runner.CreateRequest{Name: containerName(u.name, svc.Name, revision, number), Platform: svc.Platform}
	var err error
	if req.CreateRequest, err = bare(svc); err != nil {
		return req, err
	}
	req.Image = readable(req.Image, svc.Image)
	labels := map[string]string{}
	maps.Copy(labels, req.Labels)
	maps.Copy(labels, map[string]string{
		labelStack: u.name, labelService: svc.Name, labelVersion: version,
		labelRevision: strconv.Itoa(revision), labelNumber: strconv.Itoa(number),
		labelProject: u.name, labelComposeService: svc.Name,
	})
	req.Labels = labels
	for _, f := range svc.Files {
		req.HostConfig.Mounts = append(req.HostConfig.Mounts, mount.Mount{
			Type: mount.TypeBind, Source: u.store.mounted(f), Target: f.Target, ReadOnly: true,
		})
	}
	return req, nil
}

// create creates a replica of a service.
func (u *unit) create(ctx context.Context, svc *Service, version string, revision, number int) (replica, error) {
	if err := u.store.mountFiles(svc); err != nil {
		return replica{}, err
	}
	req, err := u.request(svc, version, revision, number)
	if err != nil {
		return replica{}, err
	}
	resp, err := u.m.engine.CreateContainer(ctx, req)
	if err != nil {
		return replica{}, err
	}
	return replica{
		ID: resp.ID, Name: req.Name, Service: svc.Name, Version: version, Number: number, Revision: revision,
		State: container.StateCreated, Health: container.NoHealthcheck,
	}, nil
}

// start starts a container, unless it runs.
func (u *unit) start(ctx context.Context, r *replica) error {
	if err := u.m.engine.StartContainer(ctx, r.ID); err != nil && !errors.Is(err, runner.ErrNotModified) {
		return err
	}
	r.State = container.StateRunning
	return nil
}

// stop stops a container as its service wants it, if it is there and runs.
func (u *unit) stop(ctx context.Context, id string, svc *Service) error {
	var opts runner.StopOptions
	if svc != nil && svc.StopGrace > 0 {
		n := int((svc.StopGrace + time.Second - 1) / time.Second)
		opts.Timeout = &n
	}
	return known(u.m.engine.StopContainer(ctx, id, opts))
}

// remove removes a container with all that is its own, if it is there.
func (u *unit) remove(ctx context.Context, id string) error {
	return known(u.m.engine.RemoveContainer(ctx, id, runner.RemoveOptions{Force: true, Volumes: true}))
}

// known drops errors that say that it is so already.
func known(err error) error {
	if errors.Is(err, runner.ErrNotModified) || errors.Is(err, runner.ErrNotFound) {
		return nil
	}
	return err
}
