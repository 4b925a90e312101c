package shim

import (
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// deviceLimits takes the limits of block devices out of an update, to be set here:
// runc leaves them as they are, and crun writes 0 for none, which the kernel takes
// in cgroups of version 1 only.
func (s *Shim) deviceLimits(limits *specs.LinuxResources) (*specs.LinuxResources, spared) {
	if limits == nil || limits.BlockIO == nil {
		return limits, nil
	}
	var taken spared
	rest, io := *limits, *limits.BlockIO
	for _, t := range []struct {
		file, key string // of version 1, and in that of version 2
		list      *[]specs.LinuxThrottleDevice
	}{
		{"read_bps", "rbps", &io.ThrottleReadBpsDevice},
		{"write_bps", "wbps", &io.ThrottleWriteBpsDevice},
		{"read_iops", "riops", &io.ThrottleReadIOPSDevice},
		{"write_iops", "wiops", &io.ThrottleWriteIOPSDevice},
	} {
		for _, d := range *t.list {
			file, value := "blkio.throttle."+t.file+"_device", strconv.FormatUint(d.Rate, 10)
			if s.cgroups.unified {
				file, value = "io.max", t.key+"="+orWord(value, "max")
			}
			taken = append(taken, setting{[]string{file}, s.cgroups.blkio, fmt.Sprintf("%d:%d %s", d.Major, d.Minor, value)})
		}
		*t.list = nil
	}
	for _, d := range io.WeightDevice {
		if d.Weight == nil {
			continue
		}
		files, value := []string{"blkio.bfq.weight_device", "blkio.weight_device"}, strconv.FormatUint(uint64(*d.Weight), 10)
		if s.cgroups.unified {
			files, value = []string{"io.bfq.weight"}, orWord(value, "default")
		}
		taken = append(taken, setting{files, s.cgroups.blkio, fmt.Sprintf("%d:%d %s", d.Major, d.Minor, value)})
	}
	io.WeightDevice = nil
	rest.BlockIO = &io
	return &rest, taken
}

// orWord is a number as version 2 has it: for 0 there is a word.
func orWord(number, word string) string {
	if number == "0" {
		return word
	}
	return number
}
