package engine

import (
	"context"
	"fmt"
	"reflect"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/images"
)

// CommitContainer implements runner/api's ContainerFiles.
func (e *Engine) CommitContainer(ctx context.Context, req runner.CommitRequest) (string, error) {
	c, unlock, err := e.findLocked(ctx, req.Container)
	if err != nil {
		return "", err
	}
	defer unlock()
	rec, st := c.snapshot()
	cfg := *rec.Config
	if req.Config != nil {
		cfg = *commitConfig(req.Config, rec.Config)
	}
	if err := images.ApplyChanges(&cfg, req.Changes); err != nil {
		return "", err
	}
	if req.Pause && st.Status == container.StateRunning {
		if err := e.shim.Pause(ctx, c.id); err != nil {
			return "", fmt.Errorf("pause the container: %w", err)
		}
		c.notePause()
		defer func() {
			if err := e.shim.Resume(context.WithoutCancel(ctx), c.id); err != nil {
				e.log.ErrorContext(ctx, "resume a container", "container", c.id, "error", err)
			}
		}()
	}
	id, err := e.images.Commit(ctx, images.Commit{
		Base:        rec.ImageID,
		Upper:       e.store.Upper(rec.ID),
		Lower:       rec.Lower,
		Skip:        mountedPaths(rec),
		Repo:        req.Repo,
		Tag:         req.Tag,
		Author:      req.Author,
		Comment:     req.Comment,
		Config:      &cfg,
		ContainerID: rec.ID,
		Command:     append([]string{rec.Path}, rec.Args...),
	})
	if err != nil {
		return "", err
	}
	e.containerEvent(c, events.ActionCommit, "comment", req.Comment, "imageID", id, "imageRef", req.Repo)
	return id, nil
}

// commitConfig is the configuration of a committed image: what the request
// gives, and the container's where it gives nothing.
func commitConfig(asked, own *container.Config) *container.Config {
	merged := *own
	from, into := reflect.ValueOf(asked).Elem(), reflect.ValueOf(&merged).Elem()
	for i := range from.NumField() {
		if f := from.Field(i); !f.IsZero() {
			into.Field(i).Set(f)
		}
	}
	return &merged
}
