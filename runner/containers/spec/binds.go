package spec

import (
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/berth-registry/berth/runner"
)

// ParseBinds returns the mount points that --volume, --mount and the volumes of
// the configuration ask for. The Source of a volume, and the Name of one without,
// are left to whoever makes volumes; VolumeOptions tells what else was said about
// it. --tmpfs is not among them, as it is none for Docker.
//
// That the source of a --mount is there is checked, unless it is to be made; that
// of a --volume is to be made where it is missing.
func ParseBinds(cfg *container.Config, hc *container.HostConfig) ([]container.MountPoint, error) {
	var list []container.MountPoint
	taken := func(destination string) bool {
		if slices.ContainsFunc(list, func(m container.MountPoint) bool { return m.Destination == destination }) {
			return true
		}
		for p := range hc.Tmpfs {
			if path.Clean(p) == destination {
				return true
			}
		}
		return false
	}
	add := func(m container.MountPoint, err error) error {
		if err != nil {
			return err
		}
		if taken(m.Destination) {
			return runner.Errorf(runner.ErrInvalid, "Duplicate mount point: %s", m.Destination)
		}
		list = append(list, m)
		return nil
	}
	for _, bind := range hc.Binds {
		if err := add(parseBind(bind, hc.VolumeDriver)); err != nil {
			return nil, err
		}
	}
	for _, m := range hc.Mounts {
		if err := add(fromMount(m, true)); err != nil {
			return nil, err
		}
	}
	for _, destination := range slices.Sorted(maps.Keys(cfg.Volumes)) {
		if taken(path.Clean(destination)) {
			continue
		}
		if strings.Contains(destination, ":") {
			return nil, invalidVolume(destination)
		}
		if err := add(fromMount(mount.Mount{Type: mount.TypeVolume, Target: destination}, false)); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// VolumeOptions tells what was said about the volume of a mount point.
func VolumeOptions(hc *container.HostConfig, m container.MountPoint) mount.VolumeOptions {
	if asked := askedMount(hc, m.Destination); asked != nil && asked.VolumeOptions != nil {
		return *asked.VolumeOptions
	}
	return mount.VolumeOptions{NoCopy: slices.Contains(strings.Split(m.Mode, ","), "nocopy")}
}

func invalidVolume(text string) error {
	return runner.Errorf(runner.ErrInvalid, "invalid volume specification: '%s'", text)
}

// parseBind reads the value of --volume.
func parseBind(text, driver string) (container.MountPoint, error) {
	parts := strings.SplitN(text, ":", 4)
	if parts[0] == "" || len(parts) > 3 || len(parts) == 2 && validMode(parts[1]) {
		return container.MountPoint{}, invalidVolume(text)
	}
	var m mount.Mount
	var mode string
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2:
		m.Source, m.Target = parts[0], parts[1]
	default:
		m.Source, m.Target, mode = parts[0], parts[1], parts[2]
	}
	if !validMode(mode) {
		return container.MountPoint{}, runner.Errorf(runner.ErrInvalid, "invalid mode: %s", mode)
	}
	m.Type = mount.TypeVolume
	if path.IsAbs(m.Source) {
		m.Type = mount.TypeBind
	}
	for option := range strings.SplitSeq(mode, ",") {
		switch {
		case option == "ro":
			m.ReadOnly = true
		case option == "nocopy":
			m.VolumeOptions = &mount.VolumeOptions{NoCopy: true}
		case slices.Contains(mount.Propagations, mount.Propagation(option)):
			m.BindOptions = &mount.BindOptions{Propagation: mount.Propagation(option)}
		}
	}
	if driver != "" && m.Type == mount.TypeVolume {
		if m.VolumeOptions == nil {
			m.VolumeOptions = &mount.VolumeOptions{}
		}
		m.VolumeOptions.DriverConfig = &mount.Driver{Name: driver}
	}
	parsed, err := fromMount(m, false)
	if err != nil {
		return container.MountPoint{}, runner.Errorf(runner.ErrInvalid, "invalid volume specification: '%s': %w", text, err)
	}
	parsed.Mode = mode
	return parsed, nil
}

// validMode says whether text is the last part of a --volume. There may be one
// option of each kind.
func validMode(text string) bool {
	if text == "" {
		return true
	}
	kinds := map[string]string{
		"rw": "access", "ro": "access", "z": "label", "Z": "label", "nocopy": "copy",
		"consistent": "consistency", "cached": "consistency", "delegated": "consistency",
	}
	for _, p := range mount.Propagations {
		kinds[string(p)] = "propagation"
	}
	seen := map[string]bool{}
	for option := range strings.SplitSeq(text, ",") {
		kind, ok := kinds[option]
		if !ok || seen[kind] {
			return false
		}
		seen[kind] = true
	}
	return true
}

// fromMount checks a mount and makes a mount point of it.
func fromMount(m mount.Mount, sourceExists bool) (container.MountPoint, error) {
	problem := checkTarget(m.Target)
	if problem == "" {
		switch m.Type {
		case mount.TypeBind:
			problem = checkBind(m, sourceExists)
		case mount.TypeVolume:
			problem = checkVolume(m)
		case mount.TypeTmpfs:
			problem = checkTmpfs(m)
		case mount.TypeImage, mount.TypeCluster, mount.TypeNamedPipe:
			return container.MountPoint{}, runner.Errorf(runner.ErrInvalid, "mounts of type %q are not supported", m.Type)
		default:
			problem = "mount type unknown"
		}
	}
	if problem != "" {
		return container.MountPoint{}, runner.Errorf(runner.ErrInvalid, "invalid mount config for type %q: %s", m.Type, problem)
	}
	p := container.MountPoint{Type: m.Type, Destination: path.Clean(m.Target), RW: !m.ReadOnly}
	switch m.Type {
	case mount.TypeBind:
		p.Source, p.Propagation = path.Clean(m.Source), mount.PropagationRPrivate
		if m.BindOptions != nil && m.BindOptions.Propagation != "" {
			p.Propagation = m.BindOptions.Propagation
		}
	case mount.TypeVolume:
		p.Name, p.Driver = m.Source, "local"
		if m.VolumeOptions != nil && m.VolumeOptions.DriverConfig != nil && m.VolumeOptions.DriverConfig.Name != "" {
			p.Driver = m.VolumeOptions.DriverConfig.Name
		}
	default: // a tmpfs needs no more
	}
	return p, nil
}

func checkTarget(target string) string {
	switch {
	case target == "":
		return "field Target must not be empty"
	case path.Clean(target) == "/":
		return "invalid specification: destination can't be '/'"
	case !path.IsAbs(target):
		return "invalid mount path: '" + target + "' mount path must be absolute"
	}
	return ""
}

func checkBind(m mount.Mount, sourceExists bool) string {
	o := m.BindOptions
	if o == nil {
		o = &mount.BindOptions{}
	}
	switch {
	case m.Source == "":
		return "field Source must not be empty"
	case o.Propagation != "" && !slices.Contains(mount.Propagations, o.Propagation):
		return "invalid propagation mode: " + string(o.Propagation)
	case m.VolumeOptions != nil:
		return "field VolumeOptions must not be specified"
	case m.TmpfsOptions != nil:
		return "field TmpfsOptions must not be specified"
	case !path.IsAbs(m.Source):
		return "invalid mount path: '" + m.Source + "' mount path must be absolute"
	case (o.ReadOnlyNonRecursive || o.ReadOnlyForceRecursive) && !m.ReadOnly:
		return "a mount that is not read-only cannot be recursively so"
	case o.ReadOnlyForceRecursive && (o.ReadOnlyNonRecursive || o.NonRecursive):
		return "options about recursion contradict each other"
	}
	if sourceExists && !o.CreateMountpoint {
		if _, err := os.Stat(m.Source); err != nil {
			if os.IsNotExist(err) {
				return "bind source path does not exist: " + m.Source
			}
			return err.Error()
		}
	}
	return ""
}

func checkVolume(m mount.Mount) string {
	anonymous := m.Source == ""
	switch {
	case m.BindOptions != nil:
		return "field BindOptions must not be specified"
	case m.TmpfsOptions != nil:
		return "field TmpfsOptions must not be specified"
	case m.VolumeOptions != nil && m.VolumeOptions.Subpath != "":
		return "volume-subpath is not supported"
	case m.ReadOnly && anonymous:
		return "must not set ReadOnly mode when using anonymous volumes"
	}
	return ""
}

func checkTmpfs(m mount.Mount) string {
	switch {
	case m.BindOptions != nil:
		return "field BindOptions must not be specified"
	case m.VolumeOptions != nil:
		return "field VolumeOptions must not be specified"
	case m.Source != "":
		return "field Source must not be specified"
	}
	if _, err := tmpfsOptions(m.TmpfsOptions, m.ReadOnly); err != nil {
		return err.Error()
	}
	return ""
}

// ParseVolumesFrom reads the value of --volumes-from: the name of a container,
// and ro or rw.
func ParseVolumesFrom(text string) (name, mode string, err error) {
	if text == "" {
		return "", "", runner.Errorf(runner.ErrInvalid, "volumes-from specification cannot be an empty string")
	}
	name, mode, _ = strings.Cut(text, ":")
	if mode == "" {
		return name, "rw", nil
	}
	for option := range strings.SplitSeq(mode, ",") {
		if !validMode(mode) || option == "nocopy" || slices.Contains(mount.Propagations, mount.Propagation(option)) {
			return "", "", runner.Errorf(runner.ErrInvalid, "invalid mode: %s", mode)
		}
	}
	return name, mode, nil
}
