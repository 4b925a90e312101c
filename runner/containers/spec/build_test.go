package spec

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var rewrite = flag.Bool("rewrite", false, "write the files of testdata anew")

// testHost is a machine on which all is there.
func testHost(v2 bool) Host {
	caps := append(DefaultCaps(), "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_TIME")
	return Host{
		CgroupV2: v2, Kernel: "6.1.0", Seccomp: true, Caps: caps, CPUs: 4, CPUSet: "0-3", MemSet: "0",
		CgroupNamespaces: true, IPv4Forwarding: true, PingGroupRange: true, UnprivilegedPorts: true, RecursiveReadOnly: true,
		ThermalThrottle: []int{0, 1}, Runtimes: []string{"crun", "runc"},
		Cgroup: CgroupFeatures{
			Memory: true, Swap: true, Reservation: true, Swappiness: !v2, OOMKillDisable: !v2, CPUShares: true, CPUQuota: true,
			CPURealtime: !v2, CPUSet: true, BlkioWeight: true, BlkioWeightDevice: true,
			ReadBps: true, WriteBps: true, ReadIOps: true, WriteIOps: true, Pids: true,
		},
	}
}

const (
	testPasswd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n"
	testGroup  = "root:x:0:\nalice:x:1001:\nvideo:x:44:alice\naudio:x:29:\n"
)

func text(s string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
}

// testDevice knows a disk, a character device and a directory of two.
func testDevice(path string) ([]specs.LinuxDevice, error) {
	device := func(kind, path string, major, minor int64) specs.LinuxDevice {
		return specs.LinuxDevice{Type: kind, Path: path, Major: major, Minor: minor}
	}
	switch path {
	case "/dev/sda":
		return []specs.LinuxDevice{device("b", path, 8, 0)}, nil
	case "/dev/fuse":
		return []specs.LinuxDevice{device("c", path, 10, 229)}, nil
	case "/dev/snd", "/dev":
		return []specs.LinuxDevice{device("c", path+"/a", 116, 1), device("c", path+"/by/b", 116, 2)}, nil
	}
	return nil, &os.PathError{Op: "lstat", Path: path, Err: os.ErrNotExist}
}

func testInput(t *testing.T, h Host, cfg container.Config, hc container.HostConfig) Input {
	t.Helper()
	if len(cfg.Cmd) == 0 {
		cfg.Cmd = []string{"sh", "-c", "true"}
	}
	if cfg.Hostname == "" && !hc.UTSMode.IsHost() && !hc.NetworkMode.IsContainer() {
		cfg.Hostname = "0a0a0a0a0a0a"
	}
	c := record(t, h, cfg, hc)
	return Input{
		Host: h, Container: c, CgroupsPath: CgroupsPath("/berth-1a2b3c", c), NetNSPath: "/proc/7/fd/9",
		Files:   Files{Hosts: "/c/hosts", Hostname: "/c/hostname", ResolvConf: "/c/resolv.conf", Init: "/usr/bin/tini"},
		JoinPID: "/proc/8/ns/pid", JoinNet: "/proc/8/ns/net", JoinIPC: "/proc/8/ns/ipc",
		Passwd: text(testPasswd), Group: text(testGroup), Device: testDevice,
		Propagation: func(path string) (Propagation, error) {
			return Propagation{MountPoint: "/", Shared: strings.HasPrefix(path, "/shared"), Slave: strings.HasPrefix(path, "/slave")}, nil
		},
	}
}

// TestGolden compares whole specifications with those in testdata.
func TestGolden(t *testing.T) {
	yes, swappiness, pids, umask := true, int64(10), int64(77), uint32(0o27)
	for _, c := range []struct {
		name string
		v2   bool
		cfg  container.Config
		hc   container.HostConfig
	}{
		{name: "default_v1"},
		{name: "default_v2", v2: true},
		{name: "privileged", hc: container.HostConfig{Privileged: true, Resources: container.Resources{
			Devices: []container.DeviceMapping{{PathOnHost: "/dev/fuse", PathInContainer: "/dev/f", CgroupPermissions: "r"}},
		}}},
		{name: "host", hc: container.HostConfig{PidMode: "host", IpcMode: "host", UTSMode: "host", NetworkMode: "host", CgroupnsMode: "private"}},
		{name: "joined", hc: container.HostConfig{PidMode: "container:x", NetworkMode: "container:x"}},
		{
			name: "process",
			cfg: container.Config{
				User: "alice:video", WorkingDir: "/w/", Env: []string{"PATH=/bin", "A=1", "TERM", "HOSTNAME=other"}, Tty: true,
				Domainname: "example.org", Entrypoint: []string{"/e", "x"}, Cmd: []string{"y"},
			},
			hc: container.HostConfig{
				GroupAdd: []string{"audio", "77"}, Init: &yes, ConsoleSize: [2]uint{25, 80}, OomScoreAdj: -5, Umask: &umask,
				SecurityOpt: []string{"no-new-privileges", "seccomp=unconfined"}, CapAdd: []string{"net_admin"}, CapDrop: []string{"CAP_CHOWN"},
				Sysctls: map[string]string{"net.ipv4.ip_default_ttl": "77", "net.ipv4.ip_unprivileged_port_start": "1024"},
				Resources: container.Resources{
					Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}, {Name: "core", Soft: -1, Hard: -1}},
				},
				Annotations: map[string]string{"a": "b"},
			},
		},
		{
			name: "mounts",
			hc: container.HostConfig{
				Binds:          []string{"/shared/x:/a/b:ro,shared", "/slave:/s:rslave", "/host:/dev/shm"},
				Tmpfs:          map[string]string{"/run": "rw,exec,size=1m", "/a": ""},
				ReadonlyRootfs: true, ShmSize: 1 << 20, MaskedPaths: []string{}, ReadonlyPaths: []string{},
				Mounts: []mount.Mount{
					{Type: mount.TypeTmpfs, Target: "/t", ReadOnly: true, TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 1 << 20, Mode: 0o700}},
					{Type: mount.TypeBind, Source: "/", Target: "/n", ReadOnly: true, BindOptions: &mount.BindOptions{NonRecursive: true}},
				},
			},
		},
		{
			name: "limits",
			hc: container.HostConfig{Resources: container.Resources{
				Memory: 64 << 20, MemoryReservation: 32 << 20, MemorySwappiness: &swappiness, OomKillDisable: &yes, PidsLimit: &pids,
				CPUShares: 300, NanoCPUs: 5e8, CpusetCpus: "1,3", CpusetMems: "0", BlkioWeight: 300,
				BlkioWeightDevice:    []*blkiodev.WeightDevice{{Path: "/dev/sda", Weight: 200}},
				BlkioDeviceReadBps:   []*blkiodev.ThrottleDevice{{Path: "/dev/sda", Rate: 1}},
				BlkioDeviceWriteBps:  []*blkiodev.ThrottleDevice{{Path: "/dev/sda", Rate: 2}},
				BlkioDeviceReadIOps:  []*blkiodev.ThrottleDevice{{Path: "/dev/sda", Rate: 3}},
				BlkioDeviceWriteIOps: []*blkiodev.ThrottleDevice{{Path: "/dev/sda", Rate: 4}},
				DeviceCgroupRules:    []string{"c 42:* rwm"},
				Devices:              []container.DeviceMapping{{PathOnHost: "/dev/snd"}, {PathOnHost: "/dev/fuse", PathInContainer: "/f", CgroupPermissions: "rw"}},
			}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Build(testInput(t, testHost(c.v2), c.cfg, c.hc))
			if err != nil {
				t.Fatal(err)
			}
			if s.Linux.Seccomp != nil { // of which the module has tests
				s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: s.Linux.Seccomp.DefaultAction}
			}
			got, err := json.MarshalIndent(s, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", c.name+".json")
			if *rewrite {
				write(t, path, string(got)+"\n", 0o644)
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(bytes.TrimSpace(want), got) {
				t.Errorf("%s differs; go test . -rewrite, then git diff, shows how:\n%s", path, got)
			}
		})
	}
}

func TestBuildErrors(t *testing.T) {
	for _, c := range []struct {
		cfg  container.Config
		hc   container.HostConfig
		want string
	}{
		{cfg: container.Config{User: "bob"}, want: "unable to find user bob: no matching entries in passwd file"},
		{cfg: container.Config{User: "alice:nogroup"}, want: "unable to find group nogroup: no matching entries in group file"},
		{hc: container.HostConfig{GroupAdd: []string{"nogroup"}}, want: "unable to find group nogroup: no matching entries in group file"},
		{
			hc:   container.HostConfig{Resources: container.Resources{Devices: []container.DeviceMapping{{PathOnHost: "/dev/nope"}}}},
			want: `error gathering device information while adding custom device "/dev/nope": file does not exist`,
		},
		{hc: container.HostConfig{Binds: []string{"/x:/x:shared"}}, want: "path /x is mounted on / but it is not a shared mount"},
		{hc: container.HostConfig{Binds: []string{"/x:/x:slave"}}, want: "path /x is mounted on / but it is not a shared or slave mount"},
		{hc: container.HostConfig{IpcMode: "container:y"}, want: "can't join IPC of container y: non-shareable IPC"},
		{
			hc:   container.HostConfig{Resources: container.Resources{BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{{Path: "/dev/fuse"}}}},
			want: "/dev/fuse is not a block device",
		},
	} {
		_, err := Build(testInput(t, testHost(false), c.cfg, c.hc))
		if err == nil || err.Error() != c.want {
			t.Errorf("Build: %v, want %s", err, c.want)
		}
	}
}

func TestExec(t *testing.T) {
	in := testInput(t, testHost(false), container.Config{User: "alice", WorkingDir: "/w", Env: []string{"A=1", "B=2"}},
		container.HostConfig{
			CapDrop: []string{"ALL"}, CapAdd: []string{"KILL"}, SecurityOpt: []string{"no-new-privileges"}, GroupAdd: []string{"audio"},
			Resources: container.Resources{Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}},
		})
	p, err := Exec(in, container.ExecCreateRequest{Cmd: []string{"id"}, Env: []string{"B=3", "A"}, Tty: true, ConsoleSize: &[2]uint{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	checkJSON(t, p, `{"terminal":true,"consoleSize":{"height":1,"width":2},"user":{"uid":1000,"gid":1001,"additionalGids":[1001,44,29]},`+
		`"args":["id"],"env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","HOSTNAME=0a0a0a0a0a0a","TERM=xterm","B=3"],`+
		`"cwd":"/w","capabilities":{"bounding":["CAP_KILL"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":2,"soft":1}],"noNewPrivileges":true}`)
	p, err = Exec(in, container.ExecCreateRequest{Cmd: []string{"id"}, User: "0", WorkingDir: "/x", Privileged: true})
	if err != nil {
		t.Fatal(err)
	}
	if p.User.UID != 0 || p.Cwd != "/x" || len(p.Capabilities.Effective) != len(in.Host.Caps) {
		t.Errorf("privileged process of root: %+v, %+v", p, p.Capabilities)
	}
	if _, err := Exec(in, container.ExecCreateRequest{}); err == nil || err.Error() != "no exec command specified" {
		t.Errorf("without a command: %v", err)
	}
}

func checkJSON(t *testing.T, v any, want string) {
	t.Helper()
	got, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAppArmor(t *testing.T) {
	h := testHost(true)
	h.AppArmor = true
	for _, c := range []struct {
		hc   container.HostConfig
		want string
	}{
		{want: "berth-default"},
		{hc: container.HostConfig{Privileged: true}, want: "unconfined"},
		{hc: container.HostConfig{SecurityOpt: []string{"apparmor=mine"}}, want: "mine"},
		{hc: container.HostConfig{SecurityOpt: []string{"apparmor:unconfined"}}, want: "unconfined"},
	} {
		s, err := Build(testInput(t, h, container.Config{}, c.hc))
		if err != nil || s.Process.ApparmorProfile != c.want || AppArmorProfile(h, &c.hc) != c.want {
			t.Errorf("profile %+v, %v, want %s", s, err, c.want)
		}
	}
}

// TestShm checks who shares /dev/shm.
func TestShm(t *testing.T) {
	for _, c := range []struct {
		mode container.IpcMode
		path string
		want string
	}{
		{"private", "", "shm"},
		{"private", "/x", "shm"},
		{"none", "", ""},
		{"host", "", "/dev/shm"},
		{"host", "/x", "/x"},
		{"shareable", "", "shm"},
		{"shareable", "/x", "/x"},
		{"container:y", "/x", "/x"},
	} {
		in := testInput(t, testHost(true), container.Config{}, container.HostConfig{IpcMode: c.mode})
		in.Files.Shm = c.path
		s, err := Build(in)
		if err != nil {
			t.Fatal(err)
		}
		source := ""
		for _, m := range s.Mounts {
			if m.Destination == "/dev/shm" {
				source = m.Source
			}
		}
		if source != c.want {
			t.Errorf("%s with %q: %q is mounted, want %q", c.mode, c.path, source, c.want)
		}
	}
}

func TestCgroupsPath(t *testing.T) {
	in := testInput(t, testHost(true), container.Config{}, container.HostConfig{Resources: container.Resources{CgroupParent: "../../a"}})
	if want := "/a/" + in.Container.ID; in.CgroupsPath != want {
		t.Errorf("CgroupsPath = %s, want %s", in.CgroupsPath, want)
	}
}
