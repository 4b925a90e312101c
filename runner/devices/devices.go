// Package devices gives containers the devices that others describe by the
// Container Device Interface (CDI): nodes, mounts, variables and hooks, by names
// such as vendor.com/class=name. docker run --device takes such names, and --gpus
// is served by them too.
//
// It promises that what is asked for is given whole or refused: a name that no
// description has is an error, and so is a graphics card where none is described.
// The descriptions are read anew each time, so one that comes, changes or goes
// counts from the next start of a container on. One that is broken does not hide
// the others.
//
// It makes no descriptions: vendors' tools do (nvidia-ctk cdi generate), and it
// looks for no devices by itself.
package devices

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/berth-registry/berth/runner"
)

// cdiDriver is the driver of a request for devices by their CDI names.
const cdiDriver = "cdi"

// Registry finds devices in directories of descriptions. It is safe for
// concurrent use.
type Registry struct {
	dirs  []string
	cache *cdi.Cache // nil without directories
}

// Open returns a registry of the descriptions in dirs, of which those in later
// ones win. Directories may be missing; with none at all there are no devices.
func Open(dirs []string) (*Registry, error) {
	r := &Registry{dirs: slices.Clone(dirs)}
	if len(dirs) == 0 {
		return r, nil
	}
	var err error
	r.cache, err = cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	return r, err
}

// Dirs returns the directories of descriptions.
func (r *Registry) Dirs() []string { return slices.Clone(r.dirs) }

// List returns the names of all devices, sorted, and what is wrong with
// descriptions, a text each.
func (r *Registry) List() (names, problems []string) {
	if r.cache == nil {
		return nil, nil
	}
	_ = r.cache.Refresh() // problems has it
	found := r.cache.GetErrors()
	for _, path := range slices.Sorted(maps.Keys(found)) {
		for _, err := range found[path] {
			if !errors.Is(err, fs.ErrNotExist) {
				problems = append(problems, "CDI: "+path+": "+err.Error())
			}
		}
	}
	return r.cache.ListDevices(), problems
}

// Check returns an error of runner.ErrInvalid for a request that can never be
// fulfilled, in Docker's words.
func Check(requests []container.DeviceRequest) error {
	for _, req := range requests {
		switch {
		case req.Driver == cdiDriver && req.Count != 0:
			return runner.Errorf(runner.ErrInvalid, "unexpected count in CDI device request")
		case req.Driver == cdiDriver && len(req.Options) > 0:
			return runner.Errorf(runner.ErrInvalid, "unexpected options in CDI device request")
		case req.Driver == cdiDriver:
		case !isGPU(req):
			return noDriver(req)
		case req.Count != 0 && len(req.DeviceIDs) > 0:
			return runner.Errorf(runner.ErrInvalid, "cannot set both Count and DeviceIDs on device request")
		case req.Count > maxCount:
			return runner.Errorf(runner.ErrInvalid, "invalid count in device request: %d", req.Count)
		}
	}
	return nil
}

// maxCount is more graphics cards than a host can have.
const maxCount = 1024

// Inject adds what the devices of all requests consist of to a specification. It
// returns runner.ErrInvalid if one of them is not there.
func (r *Registry) Inject(s *specs.Spec, requests []container.DeviceRequest) error {
	if len(requests) == 0 {
		return nil
	}
	if err := Check(requests); err != nil {
		return err
	}
	if r.cache == nil {
		return noDriver(requests[0])
	}
	// Broken descriptions are told of if a device is missing.
	problems := r.cache.Refresh()
	var names []string
	for _, req := range requests {
		if req.Driver == cdiDriver {
			names = append(names, req.DeviceIDs...)
			continue
		}
		cards, err := r.gpus(req)
		if err != nil {
			return err
		}
		names = append(names, cards...)
	}
	if missing, err := r.cache.InjectDevices(s, unique(names)...); err != nil {
		if len(missing) > 0 && problems != nil {
			return runner.Errorf(runner.ErrInvalid, "CDI device injection failed: %w (%w)", err, problems)
		}
		return runner.Errorf(runner.ErrInvalid, "CDI device injection failed: %w", err)
	}
	return nil
}

// unique leaves the first of equal names.
func unique(names []string) []string {
	var list []string
	for _, name := range names {
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// gpuVendors are those whose tools describe graphics cards as VENDOR/gpu=N, by the
// name of their driver in a request.
func gpuVendors() []struct{ driver, kind string } {
	return []struct{ driver, kind string }{{"nvidia", "nvidia.com/gpu"}, {"amd", "amd.com/gpu"}}
}

// gpus returns the CDI names of the graphics cards of --gpus: all, a number of
// them, or those with certain names.
func (r *Registry) gpus(req container.DeviceRequest) ([]string, error) {
	known := r.cache.ListDevices()
	kind := ""
	for _, v := range gpuVendors() {
		has := slices.ContainsFunc(known, func(name string) bool { return strings.HasPrefix(name, v.kind+"=") })
		if has && (req.Driver == "" || req.Driver == v.driver) && suits(req, v.driver) {
			kind = v.kind
			break
		}
	}
	if kind == "" {
		return nil, noDriver(req)
	}
	ids := req.DeviceIDs
	if req.Count < 0 {
		ids = []string{"all"}
	}
	for n := range max(req.Count, 0) {
		ids = append(ids, strconv.Itoa(n))
	}
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = kind + "=" + id
	}
	return names, nil
}

// isGPU says whether a request is for graphics cards.
func isGPU(req container.DeviceRequest) bool {
	return slices.ContainsFunc(gpuVendors(), func(v struct{ driver, kind string }) bool {
		return (req.Driver == "" || req.Driver == v.driver) && suits(req, v.driver)
	})
}

// suits says whether a driver has all capabilities of one of the sets that are
// asked for.
func suits(req container.DeviceRequest, driver string) bool {
	has := []string{"gpu", driver}
	if driver == "nvidia" {
		has = append(has, "compute", "compat32", "graphics", "utility", "video", "display")
	}
	if len(req.Capabilities) == 0 {
		return req.Driver != ""
	}
	return slices.ContainsFunc(req.Capabilities, func(set []string) bool {
		return !slices.ContainsFunc(set, func(c string) bool { return !slices.Contains(has, c) })
	})
}

func noDriver(req container.DeviceRequest) error {
	return runner.Errorf(runner.ErrInvalid, "could not select device driver %q with capabilities: %v", req.Driver, req.Capabilities)
}
