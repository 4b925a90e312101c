package api

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/runner"
)

// registryConfigHeader has credentials by registry.
const registryConfigHeader = "X-Registry-Config"

// buildRequest reads what is to be built, and how, without the context.
//
// There are no containers between the steps of a build, so rm and forcerm have
// nothing to do.
func (x *exchange) buildRequest() (runner.BuildRequest, error) {
	req := runner.BuildRequest{
		ID: x.q.Get("buildid"), Session: x.q.Get("session"), Remote: x.q.Get("remote"), Dockerfile: x.q.Get("dockerfile"),
		Target: x.q.Get("target"), NoCache: x.isSet("nocache"), Pull: x.isSet("pull"),
		NetworkMode: x.q.Get("networkmode"), ExtraHosts: x.q["extrahosts"], CgroupParent: x.q.Get("cgroupparent"),
		CPUSetCPUs: x.q.Get("cpusetcpus"), CPUSetMems: x.q.Get("cpusetmems"),
		Auth: x.registryConfig(),
	}
	switch {
	case x.isSet("squash"):
		return req, runner.Errorf(runner.ErrInvalid, "squash is only supported with experimental mode")
	case x.q.Has("securityopt"):
		return req, runner.Errorf(runner.ErrInvalid, "security options are not supported on linux")
	case !container.Isolation(x.q.Get("isolation")).IsDefault():
		return req, runner.Errorf(runner.ErrInvalid, "unsupported isolation: %q", x.q.Get("isolation"))
	}
	var err error
	if x.v.buildPlatform() {
		if req.Platform, err = x.namedPlatform(); err != nil {
			return req, err
		}
	}
	if req.Names, err = buildNames(x.q["t"]); err != nil {
		return req, err
	}
	if err := x.buildLimits(&req); err != nil {
		return req, err
	}
	err = x.buildValues(&req)
	return req, err
}

// buildLimits reads what the steps of the build may take.
func (x *exchange) buildLimits(req *runner.BuildRequest) error {
	for key, to := range map[string]*int64{
		"memory": &req.Memory, "memswap": &req.MemorySwap, "cpushares": &req.CPUShares,
		"cpuperiod": &req.CPUPeriod, "cpuquota": &req.CPUQuota, "shmsize": &req.ShmSize,
	} {
		n, err := x.bytes(key)
		if err != nil {
			return err
		}
		*to = n
	}
	return nil
}

// bytes reads a whole number of the query, which is 0 if it is not given.
func (x *exchange) bytes(key string) (int64, error) {
	s := x.q.Get(key)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, runner.Errorf(runner.ErrInvalid, "invalid value for %s: %w", key, err)
	}
	return n, nil
}

// buildValues reads what the query has as JSON.
func (x *exchange) buildValues(req *runner.BuildRequest) error {
	values := []struct {
		key, what string
		into      any
	}{
		{"ulimits", "error reading ulimit settings", &req.Ulimits},
		{"buildargs", "error reading build args", &req.Args},
		{"labels", "error reading labels", &req.Labels},
		{"cachefrom", "error reading cache-from", &req.CacheFrom},
	}
	if x.v.buildOutputs() {
		values = append(values, struct {
			key, what string
			into      any
		}{"outputs", "invalid outputs specified", &req.Outputs})
	}
	for _, v := range values {
		s := x.q.Get(v.key)
		if s == "" {
			continue
		}
		if err := json.Unmarshal([]byte(s), v.into); err != nil {
			return runner.Errorf(runner.ErrInvalid, "%s: %w", v.what, err)
		}
	}
	for i, u := range req.Ulimits {
		if u == nil {
			return runner.Errorf(runner.ErrInvalid, "error reading ulimit settings: number %d is null", i)
		}
	}
	return nil
}

// buildNames checks the names that an image is to get, and leaves out those that
// say the same. What a short one means is the engine's to say.
func buildNames(given []string) ([]string, error) {
	var names []string
	seen := map[string]bool{}
	for _, name := range given {
		if name == "" {
			continue
		}
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return nil, runner.Errorf(runner.ErrInvalid, "%w", err)
		}
		if _, ok := ref.(reference.Digested); ok {
			return nil, runner.Errorf(runner.ErrInvalid, "build tag cannot contain a digest")
		}
		if full := reference.TagNameOnly(ref).String(); !seen[full] {
			seen[full] = true
			names = append(names, name)
		}
	}
	return names, nil
}

// registryConfig are the credentials by registry that come with the request. Those
// that cannot be read are none, as in Docker.
func (x *exchange) registryConfig() map[string]registry.AuthConfig {
	header := x.r.Header.Get(registryConfigHeader)
	if header == "" {
		return nil
	}
	var auth map[string]registry.AuthConfig
	decoder := base64.NewDecoder(base64.URLEncoding, strings.NewReader(header))
	if json.NewDecoder(decoder).Decode(&auth) != nil {
		return nil
	}
	return auth
}
