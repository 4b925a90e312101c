package engine

import (
	"context"
	"reflect"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
)

// UpdateContainer implements runner/api's Containers. So far it changes the
// restart policy; a limit is refused.
func (e *Engine) UpdateContainer(ctx context.Context, ref string, update container.UpdateConfig) (container.UpdateResponse, error) {
	resp := container.UpdateResponse{Warnings: []string{}}
	if !reflect.DeepEqual(withoutEmpty(update.Resources), container.Resources{}) {
		return resp, notYet("changing the limits of a container")
	}
	if err := container.ValidateRestartPolicy(update.RestartPolicy); err != nil {
		return resp, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	c, unlock, err := e.findLocked(ctx, ref)
	if err != nil {
		return resp, err
	}
	defer unlock()
	rec, _ := c.snapshot()
	if update.RestartPolicy.Name == "" {
		return resp, nil
	}
	if rec.HostConfig.AutoRemove && !update.RestartPolicy.IsNone() {
		return resp, runner.Errorf(runner.ErrConflict, "Restart policy cannot be updated because AutoRemove is enabled for the container")
	}
	hc, changed := *rec.HostConfig, *rec
	hc.RestartPolicy, changed.HostConfig = update.RestartPolicy, &hc
	if err := e.replaceRecord(c, &changed); err != nil {
		return resp, err
	}
	e.containerEvent(c, events.ActionUpdate)
	return resp, nil
}

// withoutEmpty makes the empty lists that clients send nil.
func withoutEmpty(r container.Resources) container.Resources {
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice && f.Len() == 0 {
			f.SetZero()
		}
	}
	return r
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
