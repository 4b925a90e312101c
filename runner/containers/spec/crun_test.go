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
	mounts, err := ParseBinds(&cfg, &hc)
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
	bundle := t.TempDir()
	s.Root.Path = root
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(bundle, "config.json"), string(text), 0o600)
	id := filepath.Base(cgroups)
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "slave", "sh", "-c",
		`mount --make-rprivate /sys/fs/cgroup; umount /sys/fs/cgroup/unified 2>/dev/null; exec crun --root "$0" run --bundle "$1" "$2"`,
		filepath.Join(bundle, "state"), bundle, id)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
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
	yes := true
	for _, c := range []struct {
		name   string
		script string
		cfg    container.Config
		hc     container.HostConfig
		want   string
	}{
		{name: "caps", script: "grep Cap /proc/self/status | cut -f2", want: "0000000000000000\n00000000a80425fb\n00000000a80425fb\n00000000a80425fb\n0000000000000000\n"},
		{name: "user", script: "id; grep CapEff /proc/self/status; pwd; echo $HOME", cfg: container.Config{User: "alice", WorkingDir: "/new"},
			hc:   container.HostConfig{GroupAdd: []string{"audio", "77"}},
			want: "uid=1000(alice) gid=1001(alice) groups=29(audio),44(video),77,1001(alice)\nCapEff:\t0000000000000000\n/new\n/home/alice\n"},
		{name: "seccomp", script: "grep -e Seccomp: -e NoNewPrivs /proc/self/status", hc: container.HostConfig{SecurityOpt: []string{"no-new-privileges"}},
			want: "NoNewPrivs:\t1\nSeccomp:\t2\n"},
		{name: "names", script: "hostname; cat /proc/sys/kernel/domainname; echo $HOSTNAME; echo $PATH", cfg: container.Config{Domainname: "example.org"},
			want: "testhost\nexample.org\ntesthost\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"},
		{name: "init", script: "cat /proc/1/comm", hc: container.HostConfig{Init: &yes}, want: "docker-init\n"},
		{name: "binds", script: "cat /c/file; touch /c/x 2>&1; touch /r/x 2>&1; cat /t/x 2>&1; df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2; touch /run/x 2>&1; true",
			hc: container.HostConfig{
				Binds: []string{dir + ":/c", dir + ":/r:ro"}, Tmpfs: map[string]string{"/t": "size=1m"}, ReadonlyRootfs: true,
				Mounts: []mount.Mount{{Type: mount.TypeTmpfs, Target: "/run", ReadOnly: true}},
			},
			want: "content\ntouch: /r/x: Read-only file system\ncat: can't open '/t/x': No such file or directory\n1024\ntouch: /run/x: Read-only file system\n"},
		{name: "ulimits", script: "ulimit -n; ulimit -Hn", hc: container.HostConfig{Resources: container.Resources{
			Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 123, Hard: 456}},
		}}, want: "123\n456\n"},
		{name: "shm", script: "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f1,2", hc: container.HostConfig{ShmSize: 8 << 20}, want: "shm 8192\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := run(t, c.script, c.cfg, c.hc); got != c.want {
				t.Errorf("wrote\n%swant\n%s", got, c.want)
			}
		})
	}
}
