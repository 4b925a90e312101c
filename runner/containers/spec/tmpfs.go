package spec

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// tmpfsMount is a tmpfs with the options of --tmpfs, which beat the defaults.
func tmpfsMount(destination, options string) (specs.Mount, error) {
	list := []string{"noexec", "nosuid", "nodev", "rprivate"}
	if options != "" {
		list = append(list, strings.Split(options, ",")...)
	}
	merged, err := mergeTmpfs(list)
	return specs.Mount{Destination: path.Clean(destination), Type: "tmpfs", Source: "tmpfs", Options: merged}, err
}

// tmpfsFlags maps the flags of a tmpfs to what they are about: of two flags
// about one thing the later one holds.
func tmpfsFlags() map[string]string {
	flags := map[string]string{}
	for _, pair := range [][2]string{
		{"ro", "rw"},
		{"suid", "nosuid"},
		{"dev", "nodev"},
		{"exec", "noexec"},
		{"sync", "async"},
		{"dirsync", ""},
		{"mand", "nomand"},
		{"atime", "noatime"},
		{"diratime", "nodiratime"},
		{"relatime", "norelatime"},
		{"strictatime", "nostrictatime"},
	} {
		flags[pair[0]] = pair[0]
		if pair[1] != "" {
			flags[pair[1]] = pair[0]
		}
	}
	for _, p := range append([]mount.Propagation{"unbindable", "runbindable"}, mount.Propagations...) {
		flags[string(p)] = "propagation"
	}
	return flags
}

// mergeTmpfs leaves the last of the options about one thing.
func mergeTmpfs(options []string) ([]string, error) {
	flags := tmpfsFlags()
	data := []string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"}
	seen := map[string]bool{}
	var merged []string
	for _, o := range slices.Backward(options) {
		about, isFlag := flags[o]
		if o == "defaults" {
			continue
		}
		if !isFlag {
			name, value, hasValue := strings.Cut(o, "=")
			if !hasValue || value == "" || !slices.Contains(data, name) {
				return nil, runner.Errorf(runner.ErrInvalid, "invalid tmpfs option %q", o)
			}
			about = name
		}
		if !seen[about] {
			seen[about] = true
			merged = append(merged, o)
		}
	}
	slices.Reverse(merged)
	return merged, nil
}

// tmpfsOptions writes the options of --mount type=tmpfs like those of --tmpfs.
func tmpfsOptions(o *mount.TmpfsOptions, readOnly bool) (string, error) {
	var list []string
	if readOnly {
		list = append(list, "ro")
	}
	if o == nil {
		return strings.Join(list, ","), nil
	}
	if o.Mode != 0 {
		list = append(list, fmt.Sprintf("mode=%o", o.Mode))
	}
	if o.SizeBytes != 0 {
		list = append(list, fmt.Sprintf("size=%d", o.SizeBytes))
	}
	for _, option := range o.Options {
		switch {
		case len(option) < 1 || len(option) > 2:
			return "", errors.New("invalid option array length")
		case option[0] != "exec" && option[0] != "noexec":
			return "", errors.New("invalid option: " + option[0])
		}
		list = append(list, strings.Join(option, "="))
	}
	return strings.Join(list, ","), nil
}
