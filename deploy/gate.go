package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// How a gate looks. A container with a health check gets its start period and what
// its retries take before it is given up: START_PERIOD + RETRIES * (INTERVAL +
// TIMEOUT), at least leastGate and at most mostGate. It is given up before if the
// engine calls it unhealthy. One without a check, but with ports, has portsGate until
// they accept.
const (
	firstLook = 100 * time.Millisecond // grows to lastLook
	lastLook  = time.Second
	watchLook = 500 * time.Millisecond

	leastGate = 10 * time.Second
	mostGate  = time.Hour
	portsGate = time.Minute
)

// gateError is why a gate does not hold.
type gateError struct {
	svc       *Service
	container replica
	exit      int
	reason    string
	log       []string
}

func (e *gateError) Error() string { return e.container.Name + ": " + e.reason }

// watched is a container whose gate has to hold.
type watched struct {
	u   *unit
	svc *Service
	replica
	fall     int    // before the run that is watched
	started  string // of that run
	restarts int
	check    *container.HealthConfig // nil: none
	ports    []netip.AddrPort        // that are to accept, if there is no check
	exited   <-chan container.WaitResponse
	cancel   context.CancelFunc
}

// look begins to watch the run of a container.
func (u *unit) look(ctx context.Context, svc *Service, r replica) (*watched, error) {
	w := &watched{u: u, svc: svc, replica: r, fall: u.fallOf(r.ID)}
	ctx, w.cancel = context.WithCancel(ctx)
	var err error
	if w.exited, err = u.m.engine.WaitContainer(ctx, r.ID, container.WaitConditionNextExit); err != nil {
		w.cancel()
		return nil, err
	}
	info, err := u.m.engine.InspectContainer(ctx, r.ID, false)
	if err != nil {
		w.cancel()
		return nil, err
	}
	if info.State != nil {
		w.started = info.State.StartedAt
	}
	w.restarts = info.RestartCount
	if info.Config != nil && checks(info.Config.Healthcheck) {
		w.check = info.Config.Healthcheck
	} else if addr := addressOf(info); addr.IsValid() {
		for _, port := range portsOf(svc) {
			w.ports = append(w.ports, netip.AddrPortFrom(addr, port))
		}
	}
	return w, nil
}

func checks(h *container.HealthConfig) bool {
	return h != nil && len(h.Test) > 1 && h.Test[0] != "NONE"
}

// portsOf returns the TCP ports that a service is reached by.
func portsOf(svc *Service) []uint16 {
	var ports []uint16
	for port := range svc.Ports {
		if port.Proto() == network.TCP {
			ports = append(ports, port.Num())
		}
	}
	for _, route := range svc.Routes {
		ports = append(ports, uint16(route.Port))
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// addressOf is where the host reaches a container.
func addressOf(info container.InspectResponse) netip.Addr {
	if info.HostConfig != nil && info.HostConfig.NetworkMode.IsHost() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if info.NetworkSettings == nil {
		return netip.Addr{}
	}
	var names []string
	for name := range info.NetworkSettings.Networks {
		names = append(names, name)
	}
	slices.Sort(names)
	var six netip.Addr
	for _, name := range names {
		switch endpoint := info.NetworkSettings.Networks[name]; {
		case endpoint == nil:
		case endpoint.IPAddress.IsValid():
			return endpoint.IPAddress
		case !six.IsValid():
			six = endpoint.GlobalIPv6Address
		}
	}
	return six
}

// ready waits until a container passes its check for the first time, or its ports
// accept; one that has neither is ready if it runs.
func (w *watched) ready(ctx context.Context, tell func(string)) error {
	begin, wait, limit, said := time.Now(), firstLook, w.limit(), ""
	patient, cancel := context.WithTimeout(ctx, limit+lastLook)
	defer cancel()
	for {
		if err := w.lives(ctx); err != nil {
			return err
		}
		why, err := w.try(patient)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			why = "health check: it does not end"
		}
		if why == "" {
			w.u.stands(w.ID, w.fall)
			return nil
		}
		if why != said {
			tell(why)
			said = why
		}
		if time.Since(begin) >= limit {
			return w.fails(ctx, fmt.Sprintf("it is not ready within %s: %s", limit, why))
		}
		if err := w.sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(wait*3/2, lastLook)
	}
}

// limit is how long a container has to become ready.
func (w *watched) limit() time.Duration {
	if w.check == nil {
		return portsGate
	}
	const usual = 30 * time.Second
	retries := time.Duration(cmp.Or(w.check.Retries, 3))
	each := cmp.Or(w.check.Interval, usual) + cmp.Or(w.check.Timeout, usual)
	return min(max(w.check.StartPeriod+retries*each, leastGate), mostGate)
}

// try looks once whether a container is ready, and returns why not.
func (w *watched) try(ctx context.Context) (why string, err error) {
	if w.check != nil {
		why = w.probe(ctx)
	} else {
		why = w.knock(ctx)
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return why, nil
}

// probe runs the health check once, and returns why it does not pass.
func (w *watched) probe(ctx context.Context) (why string) {
	code, output, err := w.u.m.engine.ProbeContainer(ctx, w.ID)
	switch {
	case err != nil:
		return "health check: " + err.Error()
	case code != 0:
		return strings.TrimSpace(fmt.Sprintf("health check: exit code %d: %s", code, lastLine(output)))
	}
	return ""
}

// knock connects to the ports once, and returns which of them does not accept.
func (w *watched) knock(ctx context.Context) (why string) {
	for _, addr := range w.ports {
		dialCtx, cancel := context.WithTimeout(ctx, lastLook)
		err := w.u.m.dial(dialCtx, addr)
		cancel()
		if err != nil {
			return fmt.Sprintf("port %d does not accept connections", addr.Port())
		}
	}
	return ""
}

// steady watches a container for a while.
func (w *watched) steady(ctx context.Context, d time.Duration) error {
	for end := time.Now().Add(d); ; {
		if err := w.lives(ctx); err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		if err := w.sleep(ctx, min(left, watchLook)); err != nil {
			return err
		}
	}
}

// lives says whether the run of a container goes on, and its check does not fail.
func (w *watched) lives(ctx context.Context) error {
	info, err := w.u.m.engine.InspectContainer(ctx, w.ID, false)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, runner.ErrNotFound):
		return w.fails(ctx, "it was removed")
	case err != nil:
		return err
	case info.State == nil:
		return nil
	case !info.State.Running || info.State.StartedAt != w.started || info.RestartCount != w.restarts:
		return w.ended(ctx, info.State.ExitCode)
	case w.check != nil && info.State.Health != nil && info.State.Health.Status == container.Unhealthy:
		why := "it is unhealthy"
		if log := info.State.Health.Log; len(log) > 0 {
			why = strings.TrimSpace(why + ": " + lastLine(log[len(log)-1].Output))
		}
		return w.fails(ctx, why)
	}
	return nil
}

// sleep waits, but not longer than the container runs.
func (w *watched) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case r, ok := <-w.exited:
		if !ok {
			w.exited = nil
			return nil
		}
		return w.ended(ctx, int(r.StatusCode))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w *watched) ended(ctx context.Context, code int) error {
	err := w.fails(ctx, fmt.Sprintf("it ended with exit code %d", code))
	err.exit = code
	return err
}

// fails returns the error of a gate, with the last lines of the container's log.
func (w *watched) fails(ctx context.Context, reason string) *gateError {
	return &gateError{svc: w.svc, container: w.replica, reason: reason, log: w.u.lastLines(ctx, w.ID)}
}
