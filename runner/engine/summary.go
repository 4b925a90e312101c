package engine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/rootfs"
)

// summary is a container in a list.
func summary(rec *runner.Container, st runner.State, health *container.Health) container.Summary {
	one := container.Summary{
		ID:                      rec.ID,
		Names:                   []string{"/" + rec.Name},
		Image:                   rec.Config.Image,
		ImageID:                 rec.ImageID,
		ImageManifestDescriptor: rec.Manifest,
		Command:                 strings.Join(append([]string{rec.Path}, quoted(rec.Args)...), " "),
		Created:                 rec.Created.Unix(),
		Ports:                   portSummary(rec, st),
		Labels:                  rec.Config.Labels,
		State:                   st.Status,
		Status:                  statusText(st, time.Now()),
		NetworkSettings:         &container.NetworkSettingsSummary{Networks: endpoints(rec, st)},
		Mounts:                  rec.Mounts,
	}
	if health != nil && st.Running() {
		one.Health = &container.HealthSummary{Status: health.Status, FailingStreak: health.FailingStreak}
		if st.Status == container.StateRunning {
			one.Status += healthText(health.Status)
		}
	}
	if one.Labels == nil {
		one.Labels = map[string]string{}
	}
	if one.Mounts == nil {
		one.Mounts = []container.MountPoint{}
	}
	one.HostConfig.NetworkMode = string(rec.HostConfig.NetworkMode)
	one.HostConfig.Annotations = rec.HostConfig.Annotations
	return one
}

func quoted(args []string) []string {
	shown := slices.Clone(args)
	for i, arg := range shown {
		if strings.Contains(arg, " ") {
			shown[i] = "'" + arg + "'"
		}
	}
	return shown
}

// statusText is what `docker ps` shows in the column STATUS.
func statusText(st runner.State, now time.Time) string {
	ago := func(t time.Time) string { return units.HumanDuration(now.UTC().Sub(t)) }
	switch st.Status {
	case container.StateRunning:
		return "Up " + ago(st.StartedAt)
	case container.StatePaused:
		return "Up " + ago(st.StartedAt) + " (Paused)"
	case container.StateRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", st.ExitCode, ago(st.FinishedAt))
	case container.StateRemoving:
		return "Removal In Progress"
	case container.StateCreated:
		return "Created"
	case container.StateDead:
		return "Dead"
	default:
		return fmt.Sprintf("Exited (%d) %s ago", st.ExitCode, ago(st.FinishedAt))
	}
}

func healthStatus(h *container.Health) container.HealthStatus {
	if h == nil {
		return container.NoHealthcheck
	}
	return h.Status
}

func healthText(s container.HealthStatus) string {
	if s == container.Starting {
		return " (health: starting)"
	}
	return " (" + string(s) + ")"
}

// portSummary lists the published ports of a running container, and what it
// exposes besides.
func portSummary(rec *runner.Container, st runner.State) []container.PortSummary {
	list := []container.PortSummary{}
	if !st.Running() {
		return list
	}
	for port, bindings := range st.Ports {
		for _, b := range bindings {
			n, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				continue
			}
			list = append(list, container.PortSummary{IP: b.HostIP, PrivatePort: port.Num(), PublicPort: uint16(n), Type: string(port.Proto())})
		}
	}
	for port := range rec.Config.ExposedPorts {
		if len(st.Ports[port]) == 0 {
			list = append(list, container.PortSummary{PrivatePort: port.Num(), Type: string(port.Proto())})
		}
	}
	slices.SortFunc(list, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type), a.IP.Compare(b.IP), cmp.Compare(a.PublicPort, b.PublicPort))
	})
	return list
}

// endpoints are the networks of a container: of its run, or what was asked for. They
// are not to be changed.
func endpoints(rec *runner.Container, st runner.State) map[string]*network.EndpointSettings {
	if len(st.Networks) == 0 && rec.Networks != nil {
		return rec.Networks
	}
	shown := map[string]*network.EndpointSettings{}
	maps.Copy(shown, rec.Networks)
	maps.Copy(shown, st.Networks)
	return shown
}

// sizes returns the bytes of the writable layer, and with those of the image.
func (e *Engine) sizes(ctx context.Context, rec *runner.Container) (rw, all int64, err error) {
	if rw, err = rootfs.Usage(e.store.Upper(rec.ID)); err != nil {
		return 0, 0, err
	}
	img, err := e.images.Get(ctx, rec.ImageID)
	if err != nil { // it was removed by force
		return rw, rw, nil //nolint:nilerr // the container's own size is still known
	}
	return rw, rw + img.Size, nil
}
