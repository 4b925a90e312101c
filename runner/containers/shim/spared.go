package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// spared are limits that crun up to 1.8 is spared, because it fails on them:
//
//   - the weights of block I/O in cgroups of version 1: it looks for blkio.weight,
//     which kernels since 5.0 do not have; what they have is named after the
//     scheduler, BFQ;
//   - no limit of processes, where there was one: it writes -1.
type spared []setting

// setting is a value for the first of some files that there is.
type setting struct {
	files []string // below the cgroup
	mount string
	value string
}

// spare returns what a runtime is to be told of limits, and what it is not.
func (s *Shim) spare(r runtimeProgram, limits *specs.LinuxResources) (*specs.LinuxResources, spared) {
	if !r.direct() || limits == nil {
		return limits, nil
	}
	var taken spared
	rest := *limits
	if p := limits.Pids; p != nil && p.Limit != nil && *p.Limit < 0 {
		taken = append(taken, setting{[]string{"pids.max"}, s.cgroups.pidsMount, "max"})
		rest.Pids = nil
	}
	if limits.BlockIO == nil || s.cgroups.unified {
		return &rest, taken
	}
	io := *limits.BlockIO
	weight := func(name, value string) {
		taken = append(taken, setting{[]string{"blkio.bfq." + name, "blkio." + name}, s.cgroups.blkio, value})
	}
	if io.Weight != nil {
		weight("weight", strconv.FormatUint(uint64(*io.Weight), 10))
	}
	for _, d := range io.WeightDevice {
		if d.Weight != nil {
			weight("weight_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight))
		}
	}
	io.Weight, io.WeightDevice = nil, nil
	rest.BlockIO = &io
	return &rest, taken
}

// set gives a cgroup the limits that the runtime was spared. What a version has no
// hierarchy for is no limit.
func (all spared) set(path string) error {
	for _, one := range all {
		if one.mount == "" {
			continue
		}
		var err error
		for _, file := range one.files {
			err = writeFile(filepath.Join(one.mount, path, file), one.value)
			if !errors.Is(err, fs.ErrNotExist) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("set the limit %s: %w", one.value, err)
		}
	}
	return nil
}

// writeFile writes to a file that is there.
func writeFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
