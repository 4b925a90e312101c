package spec

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

func TestValidateErrors(t *testing.T) {
	type C = container.Config
	type H = container.HostConfig
	limits := func(r container.Resources) H { return H{Resources: r} }
	swappiness := int64(101)
	for _, c := range []struct {
		cfg  C
		hc   H
		want string
	}{
		{cfg: C{WorkingDir: "w"}, want: "the working directory 'w' is invalid, it needs to be an absolute path"},
		{cfg: C{StopSignal: "NOPE"}, want: "invalid signal: NOPE"},
		{cfg: C{Env: []string{"=a"}}, want: "invalid environment variable: =a"},
		{cfg: C{Healthcheck: &container.HealthConfig{Interval: time.Microsecond}}, want: "Interval in Healthcheck cannot be less than 1ms"},
		{cfg: C{Healthcheck: &container.HealthConfig{Retries: -1}}, want: "Retries in Healthcheck cannot be negative"},

		{hc: H{StorageOpt: map[string]string{"size": "1"}}, want: "--storage-opt is not supported"},
		{hc: H{Isolation: "hyperv"}, want: "invalid isolation 'hyperv' on linux"},

		{cfg: C{Hostname: "h"}, hc: H{UTSMode: "host"}, want: "conflicting options: hostname and the UTS mode"},
		{cfg: C{Hostname: "h"}, hc: H{NetworkMode: "container:x"}, want: "conflicting options: hostname and the network mode"},
		{hc: H{NetworkMode: "container:"}, want: "invalid network mode: invalid container format container:<name|id>"},
		{hc: H{NetworkMode: "container:x", DNS: []netip.Addr{{}}}, want: "conflicting options: dns and the network mode"},
		{hc: H{NetworkMode: "container:x", PublishAllPorts: true}, want: "conflicting options: port publishing and the container type network mode"},
		{hc: H{ExtraHosts: []string{"x"}}, want: `bad format for add-host: "x"`},
		{hc: H{ExtraHosts: []string{"x:1.2.3"}}, want: `invalid IP address in add-host: "1.2.3"`},
		{
			hc:   H{PortBindings: network.PortMap{network.MustParsePort("80"): {{HostPort: "x"}}}},
			want: `invalid port specification: "x"`,
		},

		{hc: H{IpcMode: "nope"}, want: "invalid IPC mode: nope"},
		{hc: H{PidMode: "container:"}, want: "invalid PID mode: container:"},
		{hc: H{UTSMode: "x"}, want: "invalid UTS mode: x"},
		{hc: H{UsernsMode: "x"}, want: "invalid userns mode: x"},
		{hc: H{CgroupnsMode: "x"}, want: "invalid cgroup namespace mode: x"},

		{hc: H{AutoRemove: true, RestartPolicy: container.RestartPolicy{Name: "always"}}, want: "can't create 'AutoRemove' container with restart policy"},
		{
			hc:   H{RestartPolicy: container.RestartPolicy{Name: "x"}},
			want: "invalid restart policy: unknown policy 'x'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
		},
		{hc: H{ShmSize: -1}, want: "SHM size can not be less than 0"},
		{hc: H{OomScoreAdj: 1001}, want: "Invalid value 1001, range for oom score adj is [-1000, 1000]"},
		{hc: H{Runtime: "nope"}, want: "unknown or invalid runtime name: nope"},
		{hc: H{Annotations: map[string]string{"": "x"}}, want: "invalid Annotations: the empty string is not permitted as an annotation key"},
		{hc: H{Tmpfs: map[string]string{"/": ""}}, want: "invalid specification: destination can't be '/'"},
		{hc: H{Tmpfs: map[string]string{"x": ""}}, want: "invalid mount path: 'x' mount path must be absolute"},
		{hc: H{Tmpfs: map[string]string{"/x": "foo"}}, want: `invalid tmpfs option "foo"`},
		{hc: limits(container.Resources{DeviceCgroupRules: []string{"z 1:1 rwm"}}), want: "invalid device cgroup rule format: 'z 1:1 rwm'"},
		{hc: limits(container.Resources{Devices: []container.DeviceMapping{{PathOnHost: "/dev/x", CgroupPermissions: "q"}}}), want: "invalid device: /dev/x:/dev/x:q"},
		{hc: limits(container.Resources{Ulimits: []*container.Ulimit{{Name: "nope"}}}), want: "invalid ulimit type: nope"},
		{
			hc:   limits(container.Resources{Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}}}),
			want: "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
		},

		{hc: H{CapAdd: []string{"nope"}}, want: `invalid CapAdd: unknown capability: "CAP_NOPE"`},
		{hc: H{CapDrop: []string{"CAP_NOPE"}, Privileged: true}, want: `invalid CapDrop: unknown capability: "CAP_NOPE"`},
		{
			hc:   H{CapAdd: []string{"BPF"}},
			want: `invalid CapAdd: capability not supported by your kernel or not available in the current environment: "CAP_BPF"`,
		},
		{hc: H{SecurityOpt: []string{"nope"}}, want: `invalid --security-opt 1: "nope"`},
		{hc: H{SecurityOpt: []string{"nope=1"}}, want: `invalid --security-opt 2: "nope=1"`},
		{hc: H{SecurityOpt: []string{"no-new-privileges=x"}}, want: `invalid --security-opt 2: "no-new-privileges=x"`},
		{hc: H{SecurityOpt: []string{"label=type:x"}}, want: "--security-opt label=type:x is not supported: Berth sets no SELinux labels"},
		{hc: H{SecurityOpt: []string{"apparmor=x"}}, want: "AppArmor is not enabled on this host, cannot apply the profile x"},
		{hc: H{SecurityOpt: []string{"writable-cgroups"}}, want: `invalid --security-opt 1: "writable-cgroups"`},
		{hc: H{SecurityOpt: []string{"writable-cgroups=true"}}, want: "option 'writable-cgroups' requires a host with cgroup v2"},
		{hc: H{SecurityOpt: []string{"seccomp={"}}, want: "Decoding seccomp profile failed: unexpected end of JSON input"},
		{hc: H{Sysctls: map[string]string{"kernel.panic": "1"}}, want: `sysctl "kernel.panic" is not in a separate kernel namespace`},
		{hc: H{Sysctls: map[string]string{"net.x": "1"}, NetworkMode: "host"}, want: `sysctl "net.x" not allowed in host network namespace`},
		{hc: H{Sysctls: map[string]string{"kernel.sem": "1"}, IpcMode: "host"}, want: `sysctl "kernel.sem" is not allowed in the hosts ipc namespace`},

		{hc: limits(container.Resources{Memory: 1 << 20}), want: "Minimum memory limit allowed is 6MB"},
		{hc: limits(container.Resources{Memory: 1 << 24, MemorySwap: 1 << 23}), want: "Minimum memoryswap limit should be larger than memory limit, see usage"},
		{hc: limits(container.Resources{MemorySwap: 1 << 23}), want: "You should always set the Memory limit when using Memoryswap limit, see usage"},
		{hc: limits(container.Resources{MemorySwappiness: &swappiness}), want: "Invalid value: 101, valid memory swappiness range is 0-100"},
		{hc: limits(container.Resources{MemoryReservation: 1}), want: "Minimum memory reservation allowed is 6MB"},
		{
			hc:   limits(container.Resources{Memory: 1 << 23, MemoryReservation: 1 << 24}),
			want: "Minimum memory limit can not be less than memory reservation limit, see usage",
		},
		{hc: limits(container.Resources{NanoCPUs: 1e9, CPUPeriod: 5000}), want: "Conflicting options: Nano CPUs and CPU Period cannot both be set"},
		{hc: limits(container.Resources{NanoCPUs: 1e9, CPUQuota: 5000}), want: "Conflicting options: Nano CPUs and CPU Quota cannot both be set"},
		{hc: limits(container.Resources{NanoCPUs: 5e9}), want: "Range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available"},
		{hc: limits(container.Resources{CPUPeriod: 1}), want: "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"},
		{hc: limits(container.Resources{CPUQuota: 1}), want: "CPU cfs quota can not be less than 1ms (i.e. 1000)"},
		{hc: limits(container.Resources{CpusetCpus: "1-9"}), want: "Requested CPUs are not available - requested 1-9, available: 0-3"},
		{hc: limits(container.Resources{CpusetCpus: "x"}), want: "Invalid value x for cpuset cpus: the format is 0-3,7"},
		{hc: limits(container.Resources{CpusetMems: "1"}), want: "Requested memory nodes are not available - requested 1, available: 0"},
		{hc: limits(container.Resources{BlkioWeight: 5}), want: "Range of blkio weight is from 10 to 1000"},
		{hc: limits(container.Resources{BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{nil}}), want: "invalid limit of a device: null"},
	} {
		_, err := Validate(testHost(false), &c.cfg, &c.hc, nil)
		if err == nil || err.Error() != c.want {
			t.Errorf("Validate = %v, want %s", err, c.want)
		} else if !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%v is not of the kind ErrInvalid", err)
		}
	}
	_, err := Validate(testHost(false), &C{}, &H{}, &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"n": nil}})
	if err == nil || err.Error() != "no EndpointSettings for n" {
		t.Errorf("an endpoint without settings: %v", err)
	}
}

func TestDefaults(t *testing.T) {
	minus, zero, five := int64(-1), int64(0), int64(5)
	for _, v2 := range []bool{false, true} {
		hc := container.HostConfig{Isolation: "default", Resources: container.Resources{
			Memory: 1 << 30, MemorySwappiness: &minus, PidsLimit: &zero, CPUShares: 1,
			Devices: []container.DeviceMapping{{PathOnHost: "/dev/x"}},
		}}
		if _, err := Validate(testHost(v2), &container.Config{}, &hc, nil); err != nil {
			t.Fatal(err)
		}
		want := container.CgroupnsModeHost
		if v2 {
			want = container.CgroupnsModePrivate
		}
		if hc.MemorySwap != 2<<30 || hc.ShmSize != 64<<20 || hc.IpcMode != "private" || hc.CgroupnsMode != want || hc.Runtime != "crun" ||
			hc.NetworkMode != "bridge" || hc.MemorySwappiness != nil || hc.PidsLimit != nil || hc.CPUShares != 2 || hc.Isolation != "" ||
			(hc.OomKillDisable == nil) != v2 || len(hc.MaskedPaths) != 14 || len(hc.ReadonlyPaths) != 5 ||
			hc.Devices[0] != (container.DeviceMapping{PathOnHost: "/dev/x", PathInContainer: "/dev/x", CgroupPermissions: "rwm"}) {
			t.Errorf("v2 %v: %+v", v2, hc)
		}
	}
	hc := container.HostConfig{Privileged: true, Resources: container.Resources{PidsLimit: &five}}
	if _, err := Validate(testHost(true), &container.Config{}, &hc, nil); err != nil || hc.MaskedPaths != nil || hc.PidsLimit != &five {
		t.Errorf("privileged: %+v, %v", hc, err)
	}
}

// TestDiscard checks that what the kernel cannot do is taken out with a warning.
func TestDiscard(t *testing.T) {
	h := testHost(false)
	h.Cgroup, h.CgroupNamespaces, h.IPv4Forwarding = CgroupFeatures{}, false, false
	yes, n := true, int64(7)
	device := []*blkiodev.ThrottleDevice{{Path: "/dev/sda", Rate: 1}}
	hc := container.HostConfig{
		CgroupnsMode: "private", NetworkMode: "bridge",
		Resources: container.Resources{
			Memory: 1 << 30, MemoryReservation: 1 << 29, MemorySwappiness: &n, OomKillDisable: &yes, PidsLimit: &n, CPUShares: 5,
			CPUPeriod: 5000, CpusetCpus: "0", BlkioWeight: 10, BlkioWeightDevice: []*blkiodev.WeightDevice{{}},
			BlkioDeviceReadBps: device, BlkioDeviceWriteBps: device, BlkioDeviceReadIOps: device, BlkioDeviceWriteIOps: device,
		},
	}
	warnings, err := Validate(h, &container.Config{}, &hc, nil)
	if err != nil || len(warnings) != 16 || !slices.Contains(warnings, "IPv4 forwarding is disabled. Networking will not work.") {
		t.Errorf("warnings: %q, %v", warnings, err)
	}
	res, err := Resources(hc.Resources, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkJSON(t, res, "{}")
}

// TestUpdate checks that an update may change the swap limit alone.
func TestUpdate(t *testing.T) {
	r := container.Resources{MemorySwap: 1 << 30}
	if _, err := ValidateResources(testHost(false), &r, true); err != nil {
		t.Errorf("ValidateResources: %v", err)
	}
}

func TestCaps(t *testing.T) {
	h := testHost(true)
	for _, c := range []struct {
		add, drop []string
		want      []string
	}{
		{add: []string{"ALL"}, drop: []string{"CAP_SYS_TIME"}, want: h.Caps[:len(h.Caps)-1]},
		{add: []string{"all", "kill"}, want: h.Caps},
		{drop: []string{"ALL"}, want: nil},
		{add: []string{"ALL"}, drop: []string{"ALL"}, want: nil},
		{add: []string{"kill"}, drop: []string{"ALL"}, want: []string{"CAP_KILL"}},
		{add: []string{"kill"}, drop: []string{"kill"}, want: slices.DeleteFunc(DefaultCaps(), func(c string) bool { return c == "CAP_KILL" })},
	} {
		got, err := boundingCaps(h, &container.HostConfig{CapAdd: c.add, CapDrop: c.drop})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("add %v, drop %v: %v, %v, want %v", c.add, c.drop, got, err, c.want)
		}
	}
	h.Caps = []string{"CAP_KILL"}
	if got, err := boundingCaps(h, &container.HostConfig{}); err != nil || !slices.Equal(got, h.Caps) {
		t.Errorf("of a runner that has only CAP_KILL: %v, %v", got, err)
	}
}
