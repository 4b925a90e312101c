package spec

import (
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// DefaultAppArmor is the name of the profile that containers get on a host with
// AppArmor. LoadAppArmor loads it.
const DefaultAppArmor = "berth-default"

const unconfined = "unconfined"

// securityOptions are what --security-opt asks for.
type securityOptions struct {
	noNewPrivileges bool
	seccomp         string // a profile as JSON, unconfined, or empty for the default
	appArmor        string // the name of a profile, or empty for the default
	writableCgroups bool
}

// parseSecurity reads the values of --security-opt. The docker command puts the
// content of a seccomp profile in the place of its path.
func parseSecurity(options []string) (securityOptions, error) {
	var o securityOptions
	for _, opt := range options {
		if opt == "no-new-privileges" {
			o.noNewPrivileges = true
			continue
		}
		if opt == "disable" { // of an old client: label=disable
			continue
		}
		key, value, ok := strings.Cut(opt, "=")
		if !ok {
			key, value, ok = strings.Cut(opt, ":")
		}
		if !ok {
			return o, runner.Errorf(runner.ErrInvalid, "invalid --security-opt 1: %q", opt)
		}
		if err := o.set(opt, key, value); err != nil {
			return o, err
		}
	}
	return o, nil
}

func (o *securityOptions) set(opt, key, value string) (err error) {
	invalid := runner.Errorf(runner.ErrInvalid, "invalid --security-opt 2: %q", opt)
	switch key {
	case "apparmor":
		o.appArmor = value
	case "seccomp":
		o.seccomp = value
		if value == "builtin" {
			o.seccomp = ""
		}
	case "no-new-privileges":
		if o.noNewPrivileges, err = strconv.ParseBool(value); err != nil {
			return invalid
		}
	case "writable-cgroups":
		if o.writableCgroups, err = strconv.ParseBool(value); err != nil {
			return invalid
		}
	case "label":
		if value != "disable" {
			return runner.Errorf(runner.ErrInvalid, "--security-opt %s is not supported: Berth sets no SELinux labels", opt)
		}
	default:
		return invalid
	}
	return nil
}

// appArmorProfile is the profile of a container's processes, if any.
func (o securityOptions) appArmorProfile(h Host, privileged bool) string {
	switch {
	case !h.AppArmor:
		return ""
	case o.appArmor != "":
		return o.appArmor
	case privileged:
		return unconfined
	}
	return DefaultAppArmor
}

// AppArmorProfile is the name of the profile of a container's processes, or "" on
// a host without AppArmor.
func AppArmorProfile(h Host, hc *container.HostConfig) string {
	o, err := parseSecurity(hc.SecurityOpt)
	if err != nil { // Validate has refused it
		return ""
	}
	return o.appArmorProfile(h, hc.Privileged)
}

// seccompProfile is the filter for a container whose capabilities are in s.
func (o securityOptions) seccompProfile(h Host, privileged bool, s *specs.Spec) (*specs.LinuxSeccomp, error) {
	switch {
	case o.seccomp == unconfined || o.seccomp == "" && (privileged || !h.Seccomp):
		return nil, nil
	case !h.Seccomp:
		return nil, runner.Errorf(runner.ErrInvalid, "seccomp is not enabled in your kernel, cannot run a custom seccomp profile")
	case o.seccomp == "":
		return seccomp.GetDefaultProfile(s)
	}
	profile, err := seccomp.LoadProfile(o.seccomp, s)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	return profile, nil
}
