package spec

import (
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// DefaultCaps lists the capabilities of a container that asks for none.
func DefaultCaps() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

const allCaps = "ALL"

// normalCaps brings names of capabilities into the form CAP_CHOWN or ALL.
func normalCaps(h Host, names []string) ([]string, error) {
	var normal []string
	for _, name := range names {
		name = strings.ToUpper(name)
		if name == allCaps {
			normal = append(normal, name)
			continue
		}
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		if !slices.ContainsFunc(capability.ListKnown(), func(c capability.Cap) bool {
			return "CAP_"+strings.ToUpper(c.String()) == name
		}) {
			return nil, runner.Errorf(runner.ErrInvalid, "unknown capability: %q", name)
		}
		if !slices.Contains(h.Caps, name) {
			return nil, runner.Errorf(runner.ErrInvalid,
				"capability not supported by your kernel or not available in the current environment: %q", name)
		}
		normal = append(normal, name)
	}
	return normal, nil
}

// boundingCaps lists the capabilities that processes of a container can get.
func boundingCaps(h Host, hc *container.HostConfig) ([]string, error) {
	if hc.Privileged {
		return h.Caps, nil
	}
	adds, err := normalCaps(h, hc.CapAdd)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "invalid CapAdd: %w", err)
	}
	drops, err := normalCaps(h, hc.CapDrop)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "invalid CapDrop: %w", err)
	}
	var caps []string
	switch {
	case slices.Contains(adds, allCaps):
		caps = slices.Clone(h.Caps)
	case slices.Contains(drops, allCaps):
		drops = nil // all of the defaults are gone, and what is added stays
		caps = adds
	default:
		caps = append(DefaultCaps(), adds...)
	}
	if slices.Contains(drops, allCaps) {
		return nil, nil
	}
	var kept []string
	for _, c := range caps {
		// What the runner itself does not have it cannot give.
		if !slices.Contains(drops, c) && !slices.Contains(kept, c) && slices.Contains(h.Caps, c) {
			kept = append(kept, c)
		}
	}
	return kept, nil
}

// userCaps are the capabilities of a process of the user: like execve(2), none
// but the bounding ones for others than root.
func userCaps(bounding []string, uid uint32) *specs.LinuxCapabilities {
	if uid != 0 {
		return &specs.LinuxCapabilities{Bounding: bounding}
	}
	return &specs.LinuxCapabilities{Bounding: bounding, Effective: bounding, Permitted: bounding}
}
