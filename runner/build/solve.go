package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/util/entitlements"
	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/runner"
)

// clientSession is the remote of a context that the client's session has.
const clientSession = "client-session"

// Build makes an image. progress hears what goes on, one call after the other and
// never after Build has returned.
//
// It fails with runner.ErrInvalid for a request that contradicts itself, and with
// BuildKit's own errors for what goes wrong in the build: one of a step has a
// *pb.ExitError of its gateway in it.
func (b *Builder) Build(ctx context.Context, req runner.BuildRequest, progress func(*client.SolveStatus)) (runner.BuildResult, error) {
	ctx, leave, err := b.join(ctx)
	if err != nil {
		return runner.BuildResult{}, err
	}
	defer leave()
	req.ExtraHosts = withGateway(req.ExtraHosts, b.opts.Gateway)
	solve, err := solveRequest(req)
	if err != nil {
		return runner.BuildResult{}, err
	}
	solve.Ref = newID()
	ctx, end, err := b.begin(ctx, req.ID)
	if err != nil {
		return runner.BuildResult{}, err
	}
	defer end()
	local, err := b.openLocal(ctx, req)
	if err != nil {
		return runner.BuildResult{}, err
	}
	defer local.close()
	local.serve(solve)
	resp, err := b.solve(ctx, solve, progress)
	if err != nil {
		return runner.BuildResult{}, err
	}
	return runner.BuildResult{ImageID: resp[exptypes.ExporterImageConfigDigestKey], Response: resp}, nil
}

// solve runs a request, and tells what goes on.
func (b *Builder) solve(ctx context.Context, req *controlapi.SolveRequest, progress func(*client.SolveStatus)) (map[string]string, error) {
	var resp *controlapi.SolveResponse
	g, gctx := errgroup.WithContext(ctx)
	// The status ends when the build has, and when the build could not even begin.
	sctx, stop := context.WithCancel(gctx)
	defer stop()
	g.Go(func() (err error) {
		resp, err = b.control.Solve(gctx, req)
		if err != nil {
			stop()
		}
		return err
	})
	g.Go(func() error {
		stream := &received[controlapi.StatusResponse]{ctx: sctx, send: func(r *controlapi.StatusResponse) {
			if progress != nil {
				progress(client.NewSolveStatus(r))
			}
		}}
		err := b.control.Status(&controlapi.StatusRequest{Ref: req.Ref}, stream)
		if sctx.Err() != nil {
			return nil //nolint:nilerr // Solve says why
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return resp.ExporterResponse, nil
}

// begin counts a build, and lets it be cancelled by its ID.
func (b *Builder) begin(ctx context.Context, id string) (context.Context, func(), error) {
	done, err := b.guard.use()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if id == "" {
		id = newID()
	}
	if _, ok := b.cancels[id]; ok {
		cancel()
		done()
		return nil, nil, runner.Errorf(runner.ErrConflict, "a build with ID %s is under way", id)
	}
	b.cancels[id] = cancel
	b.solving++
	return ctx, func() {
		b.mu.Lock()
		delete(b.cancels, id)
		b.solving--
		b.mu.Unlock()
		cancel()
		done()
	}, nil
}

// alone implements imageWorker's: builds that are about to begin wait for f.
func (b *Builder) alone(f func() error) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.solving != 1 {
		return false, nil
	}
	return true, f()
}

// Cancel ends the build of an ID. Its error is runner.ErrNotFound.
func (b *Builder) Cancel(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	cancel, ok := b.cancels[id]
	if !ok {
		return runner.Errorf(runner.ErrNotFound, "no build with ID %s is under way", id)
	}
	cancel()
	return nil
}

// solveRequest puts a request into BuildKit's words. The context, if it comes
// with the request, is not among them.
func solveRequest(req runner.BuildRequest) (*controlapi.SolveRequest, error) {
	attrs, err := frontendAttrs(req)
	if err != nil {
		return nil, err
	}
	solve := &controlapi.SolveRequest{
		Frontend: "dockerfile.v0", FrontendAttrs: attrs, Session: req.Session, Cache: &controlapi.CacheOptions{},
	}
	if err := setNetwork(solve, req.NetworkMode); err != nil {
		return nil, err
	}
	if inline := req.Args["BUILDKIT_INLINE_CACHE"]; inline != nil {
		if on, err := strconv.ParseBool(*inline); err == nil && on {
			solve.Cache.Exports = append(solve.Cache.Exports, &controlapi.CacheOptionsEntry{Type: "inline"})
		}
	}
	for _, ref := range req.CacheFrom {
		entry := &controlapi.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}}
		solve.Cache.Imports = append(solve.Cache.Imports, entry)
	}
	outputs := req.Outputs
	if len(outputs) == 0 {
		outputs = []runner.BuildOutput{{Type: "moby"}}
	}
	for _, o := range outputs {
		e := &controlapi.Exporter{Type: o.Type, Attrs: maps.Clone(o.Attrs)}
		if e.Attrs == nil {
			e.Attrs = map[string]string{}
		}
		if o.Type == "moby" || o.Type == client.ExporterImage || o.Type == client.ExporterDocker {
			if e.Attrs["name"] == "" && len(req.Names) > 0 {
				e.Attrs["name"] = strings.Join(req.Names, ",")
			}
		}
		solve.Exporters = append(solve.Exporters, e)
	}
	return solve, nil
}

// setNetwork chooses the network of steps.
func setNetwork(solve *controlapi.SolveRequest, mode string) error {
	switch mode {
	case "", "default", "bridge":
	case "none":
		solve.FrontendAttrs["force-network-mode"] = mode
	case "host":
		solve.FrontendAttrs["force-network-mode"] = mode
		solve.Entitlements = append(solve.Entitlements, string(entitlements.EntitlementNetworkHost))
	default:
		return runner.Errorf(runner.ErrInvalid, "network mode %q not supported by buildkit", mode)
	}
	return nil
}

// frontendAttrs are the options of the Dockerfile frontend.
func frontendAttrs(req runner.BuildRequest) (map[string]string, error) {
	attrs := map[string]string{"image-resolve-mode": "default"}
	text := func(key, value string) {
		if value != "" {
			attrs[key] = value
		}
	}
	number := func(key string, n int64) {
		if n != 0 {
			attrs[key] = strconv.FormatInt(n, 10)
		}
	}
	text("target", req.Target)
	if req.Dockerfile != "." {
		text("filename", req.Dockerfile)
	}
	if req.Context == nil && req.Remote != clientSession {
		text("context", req.Remote)
	}
	text("platform", req.Platform)
	text("cgroup-parent", req.CgroupParent)
	text("cpusetcpus", req.CPUSetCPUs)
	text("cpusetmems", req.CPUSetMems)
	number("shm-size", req.ShmSize)
	number("memory", req.Memory)
	number("memswap", req.MemorySwap)
	number("cpushares", req.CPUShares)
	number("cpuperiod", req.CPUPeriod)
	number("cpuquota", req.CPUQuota)
	if req.Pull {
		attrs["image-resolve-mode"] = "pull"
	}
	if req.NoCache {
		attrs["no-cache"] = ""
	}
	if req.NoSyntax {
		attrs["cmdline"] = ""
	}
	for k, v := range req.Args {
		if v != nil {
			attrs["build-arg:"+k] = *v
		}
	}
	for k, v := range req.Labels {
		attrs["label:"+k] = v
	}
	var errs []error
	var hosts []string
	for _, h := range req.ExtraHosts {
		name, ip, ok := strings.Cut(h, ":")
		if !ok || name == "" {
			errs = append(errs, runner.Errorf(runner.ErrInvalid, "invalid host %s", h))
			continue
		}
		if net.ParseIP(strings.Trim(ip, "[]")) == nil {
			errs = append(errs, runner.Errorf(runner.ErrInvalid, "invalid IP address in add-host: %q", ip))
		}
		hosts = append(hosts, name+"="+strings.Trim(ip, "[]"))
	}
	text("add-hosts", strings.Join(hosts, ","))
	var limits []string
	for _, u := range req.Ulimits {
		limits = append(limits, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	slices.Sort(limits)
	text("ulimit", strings.Join(limits, ","))
	return attrs, errors.Join(errs...)
}
