package deploy

import (
	"context"
	"fmt"

	"github.com/moby/moby/api/types/container"
)

// job runs a container to its end.
func (d *deployment) job(ctx context.Context, c *change) error {
	for _, r := range c.have { // of a run that was cut short
		if err := d.u.remove(ctx, r.ID); err != nil {
			return err
		}
	}
	c.have = nil
	r, err := d.u.create(ctx, c.svc, c.version, d.number, 1)
	if err != nil {
		return err
	}
	d.say(EventStep, c.svc.Name, r.Name, "run job "+r.Name)
	if err := d.u.start(ctx, &r); err != nil {
		return &gateError{svc: c.svc, container: r, reason: "it does not start: " + err.Error(), exit: d.u.exitCode(ctx, r.ID)}
	}
	done, err := d.u.m.engine.WaitContainer(ctx, r.ID, container.WaitConditionNotRunning)
	if err != nil {
		return err
	}
	var resp container.WaitResponse
	select {
	case resp = <-done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if resp.StatusCode != 0 {
		return &gateError{
			svc: c.svc, container: r, exit: int(resp.StatusCode), log: d.u.lastLines(ctx, r.ID),
			reason: fmt.Sprintf("the job ended with exit code %d", resp.StatusCode),
		}
	}
	return d.u.update(func(rec *record) { rec.Jobs = append(rec.Jobs, c.svc.Name+"@"+c.version) })
}
