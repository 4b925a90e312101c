package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// rootfs makes a file tree of busybox with a few users.
func rootfs(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "sbin"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "bin/busybox"), string(busybox), 0o755)
	if out, err := exec.CommandContext(t.Context(), "chroot", root, "/bin/busybox", "--install", "-s", "/bin").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n", 0o644)
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\nalice:x:1001:\nvideo:x:44:alice\naudio:x:29:\n", 0o644)
	return root
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// record is a container as Validate and ParseBinds leave it.
func record(t *testing.T, h Host, cfg container.Config, hc container.HostConfig) *runner.Container {
	t.Helper()
	if _, err := Validate(h, &cfg, &hc, nil); err != nil {
		t.Fatal(err)
	}
	merged, path, args, err := MergeImage(&cfg, dockerspec.DockerOCIImageConfig{})
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := ParseBinds(&cfg, &hc, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &runner.Container{
		ID: strings.Repeat("0a", 32), Path: path, Args: args, Config: merged, HostConfig: &hc, Mounts: mounts,
	}
}

func detect(t *testing.T) Host {
	t.Helper()
	h, err := DetectHost()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// input is that of a container on this machine with the root's files.
func input(h Host, root string, c *runner.Container) Input {
	file := func(name string) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return os.Open(filepath.Join(root, name)) }
	}
	return Input{
		Host: h, Container: c, CgroupsPath: CgroupsPath(fmt.Sprintf("/berth-test-%d", os.Getpid()), c),
		Passwd: file("etc/passwd"), Group: file("etc/group"), Device: FindDevices, Propagation: FindPropagation,
		Files: Files{Init: "/usr/bin/docker-init"},
	}
}

// run runs a command in a container by crun, and returns what it writes.
func run(t *testing.T, script string, cfg container.Config, hc container.HostConfig) string {
	t.Helper()
	out, err := tryRun(t, script, cfg, hc)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return out
}

func tryRun(t *testing.T, script string, cfg container.Config, hc container.HostConfig) (string, error) {
	t.Helper()
	h, root := detect(t), rootfs(t)
	cfg.Cmd = []string{"/bin/sh", "-c", script}
	if cfg.Hostname == "" {
		cfg.Hostname = "testhost"
	}
	in := input(h, root, record(t, h, cfg, hc))
	s, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	return crun(t, root, s, in.CgroupsPath)
}

// crun runs a specification in a mount namespace without the part of a hybrid
// machine's cgroups that crun does not understand.
func crun(t *testing.T, root string, s *specs.Spec, cgroups string) (string, error) {
	t.Helper()
	return crunScript(t, root, s, nil, cgroups, `exec crun --root "$0" run --bundle "$1" "$2"`)
}

// crunScript runs a script in that namespace: $0 is crun's --root, $1 the bundle,
// with process.json of p in it, and $2 the container's ID.
func crunScript(t *testing.T, root string, s *specs.Spec, p *specs.Process, cgroups, script string) (string, error) {
	t.Helper()
	bundle := t.TempDir()
	s.Root.Path = root
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(bundle, "config.json"), string(text), 0o600)
	if text, err = json.Marshal(p); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(bundle, "process.json"), string(text), 0o600)
	id := filepath.Base(cgroups)
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "slave", "sh", "-c",
		`mount --make-rprivate /sys/fs/cgroup; umount /sys/fs/cgroup/unified 2>/dev/null; `+script,
		filepath.Join(bundle, "state"), bundle, id)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Stdin = strings.NewReader("") // not /dev/null, which crun would give to the user
	err = cmd.Run()
	t.Cleanup(func() { // crun leaves the parent
		parents, _ := filepath.Glob("/sys/fs/cgroup/*" + filepath.Dir(cgroups))
		for _, p := range append(parents, "/sys/fs/cgroup"+filepath.Dir(cgroups)) {
			_ = os.Remove(p)
		}
	})
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return out.String(), err
}

func TestCrun(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "content\n", 0o644)
	yes, swappiness, pids := true, int64(10), int64(77)
	for _, c := range []struct {
		name   string
		script string
		cfg    container.Config
		hc     container.HostConfig
		want   string
	}{
		{name: "caps", script: "grep Cap /proc/self/status | cut -f2", want: "0000000000000000\n00000000a80425fb\n00000000a80425fb\n00000000a80425fb\n0000000000000000\n"},
		{
			name: "user", script: "id; grep CapEff /proc/self/status; pwd; echo $HOME", cfg: container.Config{User: "alice", WorkingDir: "/new"},
			hc:   container.HostConfig{GroupAdd: []string{"audio", "77"}},
			want: "uid=1000(alice) gid=1001(alice) groups=29(audio),44(video),77,1001(alice)\nCapEff:\t0000000000000000\n/new\n/home/alice\n",
		},
		{
			name: "seccomp", script: "grep -e Seccomp: -e NoNewPrivs /proc/self/status", hc: container.HostConfig{SecurityOpt: []string{"no-new-privileges"}},
			want: "NoNewPrivs:\t1\nSeccomp:\t2\n",
		},
		{
			name: "names", script: "hostname; cat /proc/sys/kernel/domainname; echo $HOSTNAME; echo $PATH", cfg: container.Config{Domainname: "example.org"},
			want: "testhost\nexample.org\ntesthost\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
		},
		{name: "init", script: "cat /proc/1/comm", hc: container.HostConfig{Init: &yes}, want: "docker-init\n"},
		{
			name: "binds", script: "cat /c/file; touch /c/x 2>&1; touch /r/x 2>&1; cat /t/x 2>&1; df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2; touch /run/x 2>&1; true",
			hc: container.HostConfig{
				Binds: []string{dir + ":/c", dir + ":/r:ro"}, Tmpfs: map[string]string{"/t": "size=1m"}, ReadonlyRootfs: true,
				Mounts: []mount.Mount{{Type: mount.TypeTmpfs, Target: "/run", ReadOnly: true}},
			},
			want: "content\ntouch: /r/x: Read-only file system\ncat: can't open '/t/x': No such file or directory\n1024\ntouch: /run/x: Read-only file system\n",
		},
		{name: "ulimits", script: "ulimit -n; ulimit -Hn", hc: container.HostConfig{Resources: container.Resources{
			Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 123, Hard: 456}},
		}}, want: "123\n456\n"},
		{
			name: "devices", script: "ls -l /dev/f | cut -c1-10; grep -c 'c 42:.* rwm' /sys/fs/cgroup/devices/devices.list; : </dev/f && echo read; (: >/dev/f) 2>&1; true",
			hc: container.HostConfig{Resources: container.Resources{
				Devices:           []container.DeviceMapping{{PathOnHost: "/dev/fuse", PathInContainer: "/dev/f", CgroupPermissions: "r"}},
				DeviceCgroupRules: []string{"c 42:* rwm"},
			}},
			want: "crw-------\n1\nread\n/bin/sh: can't create /dev/f: Operation not permitted\n",
		},
		{
			name: "limits", script: `cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes \
				memory/memory.swappiness cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus pids/pids.max; cat /proc/self/oom_score_adj`,
			hc: container.HostConfig{OomScoreAdj: 100, Resources: container.Resources{
				Memory: 64 << 20, MemoryReservation: 32 << 20, MemorySwappiness: &swappiness, CPUShares: 300, NanoCPUs: 5e8, CpusetCpus: "0", PidsLimit: &pids,
			}},
			want: "67108864\n134217728\n33554432\n10\n300\n50000\n100000\n0\n77\n100\n",
		},
		{
			name: "privileged", script: "ls /dev/kmsg; test -w /sys/fs/cgroup/cpu && echo writable; cat /proc/self/status | grep Seccomp:; wc -c </proc/timer_list | grep -qvx 0 && echo seen",
			hc: container.HostConfig{Privileged: true}, want: "/dev/kmsg\nwritable\nSeccomp:\t0\nseen\n",
		},
		{
			name: "masked", script: "wc -c </proc/timer_list; ls /sys/firmware /proc/acpi | grep -v :; (echo x >/proc/sys/kernel/domainname) 2>/dev/null || echo read-only",
			want: "0\n\nread-only\n",
		},
		{
			name: "sysctls", script: "cd /proc/sys; cat net/ipv4/ip_default_ttl net/ipv4/ip_unprivileged_port_start kernel/msgmax",
			hc: container.HostConfig{Sysctls: map[string]string{"net.ipv4.ip_default_ttl": "77", "kernel.msgmax": "1234"}}, want: "77\n0\n1234\n",
		},
		{name: "shm", script: "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f1,2", hc: container.HostConfig{ShmSize: 8 << 20}, want: "shm 8192\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := run(t, c.script, c.cfg, c.hc); got != c.want {
				t.Errorf("wrote\n%swant\n%s", got, c.want)
			}
		})
	}
}

// TestCrunExec runs a further process, in a container whose seccomp filter crun
// has compiled for another one.
func TestCrunExec(t *testing.T) {
	h, root := detect(t), rootfs(t)
	in := input(h, root, record(t, h, container.Config{Cmd: []string{"sleep", "60"}, Env: []string{"A=1"}}, container.HostConfig{}))
	p, err := Exec(in, container.ExecCreateRequest{
		Cmd: []string{"sh", "-c", "id -u; echo $A $B $HOME; pwd; grep -e Seccomp: -e CapEff /proc/self/status; unshare -r true"},
		Env: []string{"B=2"}, User: "alice", WorkingDir: "/tmp",
	})
	if err != nil {
		t.Fatal(err)
	}
	var filters Filters
	learnt := filepath.Join(t.TempDir(), "seccomp.bpf")
	for _, compiled := range []bool{false, true} {
		s, err := Build(in)
		if err != nil {
			t.Fatal(err)
		}
		key := filters.Use(s)
		if compiled != (s.Linux.Seccomp == nil) || compiled != (key == FilterKey{}) {
			t.Fatalf("compiled %v: section %v, key %x", compiled, s.Linux.Seccomp, key)
		}
		out, err := crunScript(t, root, s, p, in.CgroupsPath, `crun --root "$0" run --detach --bundle "$1" "$2" </dev/null >/dev/null 2>"$1/err" || { cat "$1/err"; exit 1; }
			cp "$0/$2/seccomp.bpf" `+learnt+`
			crun --root "$0" exec --process "$1/process.json" "$2" 2>&1
			crun --root "$0" delete --force "$2"`)
		if want := "1000\n1 2 /home/alice\n/tmp\nCapEff:\t0000000000000000\nSeccomp:\t2\nunshare: unshare(0x10000000): Operation not permitted\n"; err != nil || out != want {
			t.Errorf("compiled %v: %v, wrote\n%swant\n%s", compiled, err, out, want)
		}
		filters.Learn(key, learnt)
	}
}

// TestFilters checks what is no filter to keep.
func TestFilters(t *testing.T) {
	var filters Filters
	path := filepath.Join(t.TempDir(), "filter")
	s := func() *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}}}
	}
	for _, size := range []int{0, 7, maxFilter + 8} {
		write(t, path, strings.Repeat("x", size), 0o600)
		filters.Learn(filters.Use(s()), path)
		if filters.Use(s()) == (FilterKey{}) {
			t.Errorf("a filter of %d bytes is used", size)
		}
	}
	filters.Learn(filters.Use(s()), filepath.Join(path, "missing"))
	for i := range maxFilters + 1 {
		write(t, path, "12345678", 0o600)
		filters.Learn(FilterKey{byte(i), 1}, path)
	}
	if len(filters.known) != 1 {
		t.Errorf("%d filters are kept", len(filters.known))
	}
	with := s()
	with.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_LOG"}
	if filters.Use(with) != (FilterKey{}) || with.Linux.Seccomp == nil {
		t.Error("a profile with flags is taken for a mere filter")
	}
}

func TestDetectHost(t *testing.T) {
	h := detect(t)
	if h.CPUs < 1 || h.MemTotal < 1<<20 || !h.Seccomp || h.Kernel == "" || h.CPUSet == "" || !h.Cgroup.Memory || !h.Cgroup.Pids || !h.RecursiveReadOnly {
		t.Errorf("host: %+v", h)
	}
	if len(h.Caps) < 30 || h.Caps[0] != "CAP_CHOWN" {
		t.Errorf("capabilities: %v", h.Caps)
	}
}

func TestFindDevices(t *testing.T) {
	null, err := FindDevices("/dev/null")
	if err != nil || len(null) != 1 || null[0].Type != "c" || null[0].Major != 1 || null[0].Minor != 3 || *null[0].FileMode != 0o666 {
		t.Errorf("/dev/null: %+v, %v", null, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	if got, err := FindDevices(link); err != nil || got[0].Path != link {
		t.Errorf("a link to it: %+v, %v", got, err)
	}
	all, err := FindDevices("/dev")
	if err != nil || len(all) < 3 {
		t.Errorf("/dev: %+v, %v", all, err)
	}
	for _, d := range all {
		if !strings.HasPrefix(d.Path, "/dev/") || strings.HasPrefix(d.Path, "/dev/pts/") || d.Type == "p" {
			t.Errorf("/dev: %+v", d)
		}
	}
	for _, path := range []string{"/nope", "/etc/passwd", t.TempDir()} {
		if got, err := FindDevices(path); err == nil {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

func TestFindPropagation(t *testing.T) {
	p, err := FindPropagation("/proc/sys")
	if err != nil || p.MountPoint != "/proc" {
		t.Errorf("/proc/sys: %+v, %v", p, err)
	}
	if _, err := FindPropagation("/nope"); err == nil {
		t.Error("a path that is not there is found")
	}
}
