package spec

import (
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/moby/moby/api/types/mount"
)

// The checks of a mount return what is wrong with it, or nothing.

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
	case m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" && anonymous:
		return "must not set Subpath when using anonymous volumes"
	case m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" && !filepath.IsLocal(m.VolumeOptions.Subpath):
		return "subpath must be a relative path within the volume"
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

func checkImage(m mount.Mount) string {
	switch {
	case m.BindOptions != nil:
		return "field BindOptions must not be specified"
	case m.VolumeOptions != nil:
		return "field VolumeOptions must not be specified"
	case m.TmpfsOptions != nil:
		return "field TmpfsOptions must not be specified"
	case m.Source == "":
		return "field Source must not be empty"
	case m.ImageOptions != nil && m.ImageOptions.Subpath != "" && !filepath.IsLocal(m.ImageOptions.Subpath):
		return "subpath must be a relative path within the image"
	}
	return ""
}
