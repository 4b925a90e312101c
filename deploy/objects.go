package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"sync"

	"github.com/berth-registry/berth/runner"
)

// objects makes the networks and volumes of the stack that are missing. One that is
// there with another configuration is an error: it cannot be changed under the
// containers that have it.
func (d *deployment) objects(ctx context.Context) error {
	for i := range d.to.Stack.Networks {
		if err := d.network(ctx, &d.to.Stack.Networks[i]); err != nil {
			return err
		}
	}
	for i := range d.to.Stack.Volumes {
		if err := d.volume(ctx, &d.to.Stack.Volumes[i]); err != nil {
			return err
		}
	}
	return nil
}

func (d *deployment) network(ctx context.Context, n *Network) error {
	engine, config := d.u.m.engine, configOf(n.Request)
	have, err := engine.InspectNetwork(ctx, n.Name)
	switch {
	case err == nil:
		return sameConfig("network", n.Name, have.Labels, config, n.External)
	case !errors.Is(err, runner.ErrNotFound):
		return err
	case n.External:
		return runner.Errorf(runner.ErrNotFound, "network %s declared as external, but could not be found", n.Name)
	}
	req := n.Request
	req.Name = n.Name
	req.Labels = labelled(req.Labels, d.u.name, config, labelComposeNetwork, n.Key)
	d.say(EventStep, "", "", "create network "+n.Name)
	_, err = engine.CreateNetwork(ctx, req)
	return err
}

func (d *deployment) volume(ctx context.Context, v *Volume) error {
	engine, config := d.u.m.engine, configOf(v.Request)
	have, err := engine.InspectVolume(ctx, v.Name)
	switch {
	case err == nil:
		return sameConfig("volume", v.Name, have.Labels, config, v.External)
	case !errors.Is(err, runner.ErrNotFound):
		return err
	case v.External:
		return runner.Errorf(runner.ErrNotFound, "volume %q declared as external, but could not be found", v.Name)
	}
	req := v.Request
	req.Name = v.Name
	req.Labels = labelled(req.Labels, d.u.name, config, labelComposeVolume, v.Key)
	d.say(EventStep, "", "", "create volume "+v.Name)
	_, err = engine.CreateVolume(ctx, req)
	return err
}

// configOf is a hash of what a network or volume is made with.
func configOf(req any) string {
	text, err := json.Marshal(req)
	if err != nil { // a request is plain data
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

func labelled(labels map[string]string, stack, config, keyLabel, key string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, labels)
	maps.Copy(all, map[string]string{labelStack: stack, labelProject: stack, labelConfig: config, keyLabel: key})
	return all
}

// sameConfig refuses another configuration of what the stack has made. What somebody
// else has made is taken as it is.
func sameConfig(noun, name string, labels map[string]string, config string, external bool) error {
	if was := labels[labelConfig]; !external && was != "" && was != config {
		return runner.Errorf(runner.ErrConflict, "the configuration of %s %s has changed, and containers have it: give it another name, or remove the stack first", noun, name)
	}
	return nil
}

// each calls do for each number below n at the same time, and returns the first
// error when all are over.
func each(n int, do func(i int) error) error {
	errs := make([]error, n)
	var g sync.WaitGroup
	for i := range n {
		g.Go(func() { errs[i] = do(i) })
	}
	g.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
