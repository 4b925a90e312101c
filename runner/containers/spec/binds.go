package spec

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/berth-registry/berth/runner"
)

// ParseBinds returns the mount points that --volume, --mount and the volumes of
// the configuration ask for. Those that --volumes-from has brought are given: the
// others beat them, but the configuration's volumes. The Source of a volume, and
// the Name of one without, are left to whoever makes volumes, those of an image to
// whoever finds it; Asked tells what else was said. --tmpfs is not among them, as
// it is none for Docker.
//
// That the source of a --mount is there is checked, unless it is to be made; that
// of a --volume is to be made where it is missing.
func ParseBinds(cfg *container.Config, hc *container.HostConfig, inherited []container.MountPoint) ([]container.MountPoint, error) {
	p := mountPoints{tmpfs: hc.Tmpfs}
	for _, bind := range hc.Binds {
		if err := p.add(parseBind(bind, hc.VolumeDriver)); err != nil {
			return nil, err
		}
	}
	for _, m := range hc.Mounts {
		if err := p.add(fromMount(m, true)); err != nil {
			return nil, err
		}
	}
	for _, m := range inherited {
		if !p.taken(m.Destination) {
			p.list = append(p.list, m)
		}
	}
	for _, destination := range slices.Sorted(maps.Keys(cfg.Volumes)) {
		if p.taken(path.Clean(destination)) {
			continue
		}
		if strings.Contains(destination, ":") {
			return nil, invalidVolume(destination)
		}
		if err := p.add(fromMount(mount.Mount{Type: mount.TypeVolume, Target: destination}, false)); err != nil {
			return nil, err
		}
	}
	return p.list, nil
}

// mountPoints are those of a container, and the places of its tmpfs.
type mountPoints struct {
	list  []container.MountPoint
	tmpfs map[string]string
}

func (p *mountPoints) taken(destination string) bool {
	if slices.ContainsFunc(p.list, func(m container.MountPoint) bool { return m.Destination == destination }) {
		return true
	}
	for place := range p.tmpfs {
		if path.Clean(place) == destination {
			return true
		}
	}
	return false
}

func (p *mountPoints) add(m container.MountPoint, err error) error {
	if err != nil {
		return err
	}
	if p.taken(m.Destination) {
		return runner.Errorf(runner.ErrInvalid, "Duplicate mount point: %s", m.Destination)
	}
	p.list = append(p.list, m)
	return nil
}

// Asked returns what a container's mount point was made of: its own --mount or
// --volume, or that of the container which it has it from. Of a volume of the
// configuration nothing was said.
func Asked(c *runner.Container, destination string) mount.Mount {
	at := func(m mount.Mount) bool { return path.Clean(m.Target) == destination }
	if i := slices.IndexFunc(c.HostConfig.Mounts, at); i >= 0 {
		return c.HostConfig.Mounts[i]
	}
	for _, bind := range c.HostConfig.Binds {
		if m, _, err := splitBind(bind, c.HostConfig.VolumeDriver); err == nil && at(m) {
			return m
		}
	}
	if i := slices.IndexFunc(c.Inherited, at); i >= 0 {
		return c.Inherited[i]
	}
	return mount.Mount{Target: destination}
}

// Subpath is the part of a volume or of an image that is mounted, or empty for all
// of it.
func Subpath(m mount.Mount) string {
	switch {
	case m.VolumeOptions != nil:
		return m.VolumeOptions.Subpath
	case m.ImageOptions != nil:
		return m.ImageOptions.Subpath
	default:
		return ""
	}
}

func invalidVolume(text string) error {
	return runner.Errorf(runner.ErrInvalid, "invalid volume specification: '%s'", text)
}

// parseBind makes a mount point of the value of --volume.
func parseBind(text, driver string) (container.MountPoint, error) {
	m, mode, err := splitBind(text, driver)
	if err != nil {
		return container.MountPoint{}, err
	}
	parsed, err := fromMount(m, false)
	if err != nil {
		return container.MountPoint{}, runner.Errorf(runner.ErrInvalid, "invalid volume specification: '%s': %w", text, err)
	}
	parsed.Mode = mode
	return parsed, nil
}

// splitBind writes the value of --volume as a --mount, and returns its last part.
func splitBind(text, driver string) (m mount.Mount, mode string, err error) {
	parts := strings.SplitN(text, ":", 4)
	if parts[0] == "" || len(parts) > 3 || len(parts) == 2 && validMode(parts[1]) {
		return m, "", invalidVolume(text)
	}
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2:
		m.Source, m.Target = parts[0], parts[1]
	default:
		m.Source, m.Target, mode = parts[0], parts[1], parts[2]
	}
	if !validMode(mode) {
		return m, "", runner.Errorf(runner.ErrInvalid, "invalid mode: %s", mode)
	}
	m.Type = mount.TypeVolume
	if path.IsAbs(m.Source) {
		m.Type, m.BindOptions = mount.TypeBind, &mount.BindOptions{CreateMountpoint: true}
	}
	for option := range strings.SplitSeq(mode, ",") {
		switch {
		case option == "ro":
			m.ReadOnly = true
		case option == "nocopy":
			m.VolumeOptions = &mount.VolumeOptions{NoCopy: true}
		case slices.Contains(mount.Propagations, mount.Propagation(option)):
			if m.BindOptions == nil {
				m.BindOptions = &mount.BindOptions{}
			}
			m.BindOptions.Propagation = mount.Propagation(option)
		}
	}
	if driver != "" && m.Type == mount.TypeVolume {
		if m.VolumeOptions == nil {
			m.VolumeOptions = &mount.VolumeOptions{}
		}
		m.VolumeOptions.DriverConfig = &mount.Driver{Name: driver}
	}
	return m, mode, nil
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
		case mount.TypeImage:
			problem = checkImage(m)
		case mount.TypeCluster, mount.TypeNamedPipe:
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
	case mount.TypeImage:
		p.Source, p.RW = m.Source, false
	default: // a tmpfs needs no more
	}
	return p, nil
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
