package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// weights are those of block I/O that the runtime is spared: crun up to 1.8 looks
// for blkio.weight in cgroups of version 1, which kernels since 5.0 do not have;
// what they have is named after the scheduler, BFQ.
type weights []weight

type weight struct{ file, value string }

// takeWeights returns what a runtime is to be told of limits, and the weights that
// it is not.
func (s *Shim) takeWeights(r runtimeProgram, limits *specs.LinuxResources) (*specs.LinuxResources, weights) {
	if !r.direct() || s.cgroups.unified || s.cgroups.blkio == "" || limits == nil || limits.BlockIO == nil {
		return limits, nil
	}
	var taken weights
	rest, io := *limits, *limits.BlockIO
	if io.Weight != nil {
		taken = append(taken, weight{"weight", fmt.Sprint(*io.Weight)})
		io.Weight = nil
	}
	for _, d := range io.WeightDevice {
		if d.Weight != nil {
			taken = append(taken, weight{"weight_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight)})
		}
	}
	io.WeightDevice = nil
	rest.BlockIO = &io
	return &rest, taken
}

// setWeights gives a cgroup its weights.
func (c cgroups) setWeights(path string, all weights) error {
	for _, w := range all {
		var err error
		for _, prefix := range []string{"blkio.bfq.", "blkio."} {
			err = writeFile(filepath.Join(c.blkio, path, prefix+w.file), w.value)
			if !errors.Is(err, fs.ErrNotExist) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("set the weight %s of block I/O: %w", w.value, err)
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
