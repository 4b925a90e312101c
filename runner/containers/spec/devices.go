package spec

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// devices lists the devices that a container gets beside those that every
// runtime makes, and the rules for using devices.
func devices(in Input) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	hc := in.Container.HostConfig
	rules := defaultDeviceRules()
	var list []specs.LinuxDevice
	if hc.Privileged {
		all, err := in.Device("/dev")
		if err != nil {
			return nil, nil, runner.Errorf(runner.ErrPrecondition, "devices of the host: %w", err)
		}
		list = all
		rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	for _, m := range hc.Devices {
		if hc.Privileged && m.PathOnHost == m.PathInContainer {
			continue // it is there already
		}
		found, err := mappedDevices(in, m)
		if err != nil {
			return nil, nil, err
		}
		for _, d := range found {
			list = append(list, d)
			if !hc.Privileged {
				rules = append(rules, specs.LinuxDeviceCgroup{
					Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: m.CgroupPermissions,
				})
			}
		}
	}
	if hc.Privileged {
		return list, rules, nil
	}
	for _, text := range hc.DeviceCgroupRules {
		rule, err := parseDeviceRule(text)
		if err != nil {
			return nil, nil, err
		}
		rules = append(rules, rule)
	}
	return list, rules, nil
}

// mappedDevices finds the devices of --device, with their paths in the container.
func mappedDevices(in Input, m container.DeviceMapping) ([]specs.LinuxDevice, error) {
	found, err := in.Device(m.PathOnHost)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "error gathering device information while adding custom device %q: %w",
			m.PathOnHost, plainError(err))
	}
	target := m.PathInContainer
	if target == "" {
		target = m.PathOnHost
	}
	list := make([]specs.LinuxDevice, 0, len(found))
	for _, d := range found {
		// A device in a directory keeps its path below it.
		d.Path = filepath.Join(target, strings.TrimPrefix(d.Path, filepath.Clean(m.PathOnHost)))
		list = append(list, d)
	}
	return list, nil
}

// defaultDeviceRules allow what every container has: zero, null, urandom, random,
// tty, console and terminals.
func defaultDeviceRules() []specs.LinuxDeviceCgroup {
	rule := func(allow bool, major, minor int64) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: "c", Major: &major, Minor: &minor, Access: "rwm"}
	}
	return []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		rule(true, 1, 5), rule(true, 1, 3), rule(true, 1, 9), rule(true, 1, 8), rule(true, 5, 0), rule(true, 5, 1),
		rule(false, 10, 229), // fuse
	}
}

var deviceRule = regexp.MustCompile(`^([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$`)

// parseDeviceRule reads the value of --device-cgroup-rule.
func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	m := deviceRule.FindStringSubmatch(text)
	if m == nil {
		return specs.LinuxDeviceCgroup{}, runner.Errorf(runner.ErrInvalid, "invalid device cgroup rule format: '%s'", text)
	}
	rule := specs.LinuxDeviceCgroup{Allow: true, Type: m[1], Access: m[4]}
	for i, field := range []**int64{&rule.Major, &rule.Minor} {
		if m[2+i] == "*" {
			continue // nil is any: not every runtime knows -1 as that
		}
		n, err := strconv.ParseInt(m[2+i], 10, 32)
		if err != nil {
			return rule, runner.Errorf(runner.ErrInvalid, "invalid %s value in device cgroup rule format: '%s'",
				[]string{"major", "minor"}[i], text)
		}
		*field = &n
	}
	return rule, nil
}

// skippedDevices are the directories of /dev whose content a container has of
// its own.
func skippedDevices() []string {
	return []string{"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"}
}

// FindDevices finds the device at a path of the host or, if that is a directory,
// those below it. Symbolic links are followed at the path itself only.
func FindDevices(path string) ([]specs.LinuxDevice, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(target)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		d, err := findDevice(target)
		if err != nil {
			return nil, err
		}
		d.Path = filepath.Clean(path)
		return []specs.LinuxDevice{d}, nil
	}
	var list []specs.LinuxDevice
	err = filepath.WalkDir(target, func(p string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // devices come and go while they are looked at
		case entry.IsDir() && p != target && slices.Contains(skippedDevices(), entry.Name()):
			return filepath.SkipDir
		case entry.IsDir() || entry.Name() == "console":
			return nil
		}
		if d, err := findDevice(p); err == nil && d.Type != "p" {
			d.Path = filepath.Clean(path) + strings.TrimPrefix(p, target)
			list = append(list, d)
		}
		return nil
	})
	if err == nil && len(list) == 0 {
		err = errNotADevice
	}
	return list, err
}

var errNotADevice = errors.New("not a device node")

// findDevice describes the device node at a path, which is no link.
func findDevice(path string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return specs.LinuxDevice{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	kinds := map[uint32]string{unix.S_IFBLK: "b", unix.S_IFCHR: "c", unix.S_IFIFO: "p"}
	kind, ok := kinds[st.Mode&unix.S_IFMT]
	if !ok {
		return specs.LinuxDevice{}, errNotADevice
	}
	mode := os.FileMode(st.Mode &^ unix.S_IFMT)
	return specs.LinuxDevice{
		Type: kind, Path: path, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}, nil
}

// plainError cuts the error of a file down to what is wrong with it.
func plainError(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
