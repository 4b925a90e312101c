package main

import (
	"context"
	"fmt"
)

// lookupNames measures how long a container takes to find another of its network by
// name: busybox's nslookup, a process for each question, for the address of IPv4.
func lookupNames(ctx context.Context, b *bench) ([]*figure, error) {
	engines, err := b.startWhole(ctx, nameRunner, nameDocker)
	if err != nil {
		return nil, err
	}
	script := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do busybox nslookup -type=a "$1." >/dev/null || exit 1; i=$((i+1)); done`, b.lookups)
	f := &figure{Name: "a container of the same user network found by name", Unit: "ms"}
	var turns []turn
	for _, e := range engines {
		c := newContainer(b.smallImage(), forever...)
		c.HostConfig.NetworkMode = wholeNetwork
		other, err := e.running(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		id, err := e.running(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		turns = append(turns, turn{e.name, e.server, func() (float64, error) {
			took, err := timed(func() error { return e.exec(ctx, id, "sh", "-c", script, "sh", other[:12]) })
			return took / float64(b.lookups), err
		}})
	}
	if err := b.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.ratio(nameRunner, nameDocker, atMost(1))
	return []*figure{f}, nil
}
