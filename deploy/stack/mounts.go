package stack

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/moby/api/types/mount"
)

// mounts are the volumes of a service: as strings where docker compose has them so,
// which makes a missing source of a bind, and as mounts for what strings cannot say.
func (t *translation) mounts(p keys, s types.ServiceConfig) (binds []string, mounts []mount.Mount) {
	for i, v := range s.Volumes {
		at := p.at("volumes").index(i)
		switch v.Type {
		case types.VolumeTypeBind:
			if !filepath.IsAbs(v.Source) {
				t.addf(at, "%q is relative to the Compose file, and a published one is in no directory", v.Source)
				continue
			}
		case types.VolumeTypeVolume, types.VolumeTypeTmpfs, types.VolumeTypeImage:
		default:
			t.unsupportedf(at, "volumes of type %s", v.Type)
			continue
		}
		t.checkOptions(at, v)
		m := t.mount(v)
		if bind, ok := asBind(v, m); ok {
			binds = append(binds, bind)
			continue
		}
		mounts = append(mounts, m)
	}
	slices.Sort(binds)
	slices.SortFunc(mounts, func(a, b mount.Mount) int { return cmp.Compare(a.Target, b.Target) })
	return binds, mounts
}

// checkOptions refuses options of another type of volume, which would be lost.
func (t *translation) checkOptions(p keys, v types.ServiceVolumeConfig) {
	for kind, stated := range map[string]bool{
		types.VolumeTypeBind: v.Bind != nil, types.VolumeTypeVolume: v.Volume != nil,
		types.VolumeTypeTmpfs: v.Tmpfs != nil, types.VolumeTypeImage: v.Image != nil,
	} {
		if stated && kind != v.Type {
			t.addf(p.at(kind), "the volume is of type %s", v.Type)
		}
	}
	if v.Bind == nil {
		return
	}
	if _, ok := asBind(v, mount.Mount{}); v.Type == types.VolumeTypeBind && v.Bind.SELinux != "" && !ok {
		t.unsupportedf(p.at("bind", "selinux"), "it does not go with propagation, recursive and create_host_path: false")
	}
	switch v.Bind.Recursive {
	case "", "enabled", "disabled", "writable", "readonly":
	default:
		t.addf(p.at("bind", "recursive"), "%q is none of enabled, disabled, writable and readonly", v.Bind.Recursive)
	}
}

func (t *translation) mount(v types.ServiceVolumeConfig) mount.Mount {
	m := mount.Mount{
		Type: mount.Type(v.Type), Source: v.Source, Target: v.Target,
		ReadOnly: v.ReadOnly, Consistency: mount.Consistency(v.Consistency),
	}
	switch {
	case v.Type == types.VolumeTypeBind:
		b := v.Bind
		if b == nil {
			b = &types.ServiceVolumeBind{CreateHostPath: true}
		}
		m.BindOptions = &mount.BindOptions{
			Propagation:            mount.Propagation(b.Propagation),
			CreateMountpoint:       bool(b.CreateHostPath),
			NonRecursive:           b.Recursive == "disabled",
			ReadOnlyNonRecursive:   b.Recursive == "writable",
			ReadOnlyForceRecursive: b.Recursive == "readonly",
		}
	case v.Type == types.VolumeTypeVolume:
		if named, ok := t.project.Volumes[v.Source]; ok {
			m.Source = named.Name
		}
		if v.Volume != nil {
			m.VolumeOptions = &mount.VolumeOptions{NoCopy: v.Volume.NoCopy, Subpath: v.Volume.Subpath, Labels: v.Volume.Labels}
		}
	case v.Type == types.VolumeTypeTmpfs && v.Tmpfs != nil:
		m.TmpfsOptions = &mount.TmpfsOptions{SizeBytes: int64(v.Tmpfs.Size), Mode: os.FileMode(v.Tmpfs.Mode)}
	case v.Type == types.VolumeTypeImage && v.Image != nil:
		m.ImageOptions = &mount.ImageOptions{Subpath: v.Image.SubPath}
	}
	return m
}

// asBind returns SOURCE:TARGET:OPTIONS, if it says all that the mount does.
func asBind(v types.ServiceVolumeConfig, m mount.Mount) (string, bool) {
	switch {
	case strings.Contains(v.Source+v.Target, ":"): // which separates them in a string
		return "", false
	case v.Type == types.VolumeTypeBind:
		if b := v.Bind; b != nil && (!bool(b.CreateHostPath) || b.Propagation != "" || b.Recursive != "") {
			return "", false
		}
	case v.Type == types.VolumeTypeVolume && v.Source != "":
		if o := v.Volume; o != nil && (len(o.Labels) > 0 || o.Subpath != "" || o.NoCopy) {
			return "", false
		}
	default:
		return "", false
	}
	options := []string{"rw"}
	if v.ReadOnly {
		options[0] = "ro"
	}
	if v.Bind != nil && v.Bind.SELinux != "" {
		options = append(options, v.Bind.SELinux)
	}
	return m.Source + ":" + v.Target + ":" + strings.Join(options, ","), true
}
