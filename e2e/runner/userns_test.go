package runner

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// The users of the host that containers of a remapped host are.
const firstUser, firstGroup = 200000, 300000

// remappedHost starts a host whose containers have user namespaces of their own,
// in which root is firstUser and firstGroup of the host.
func remappedHost(t *testing.T, o berthtest.MachineOptions, args ...string) *host {
	t.Helper()
	m := berthtest.NewMachine(t, o)
	for file, entries := range map[string]string{
		"/etc/subuid": "other:100000:65536\nberth:200000:65536\n", "/etc/subgid": "berth:300000:65536\n",
	} {
		with := filepath.Join(t.TempDir(), "ids")
		if err := os.WriteFile(with, []byte(entries), 0o644); err != nil {
			t.Fatal(err)
		}
		berthtest.NewCommand(t, "mount").On(m).Run("--bind", with, file)
	}
	config := filepath.Join(t.TempDir(), "runner.yaml")
	if err := os.WriteFile(config, []byte("userns_remap: default\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return newHostOn(t, m, append([]string{"--config", config}, args...)...)
}

// TestUserNamespaces runs containers whose users are others on the host, and looks
// from both sides at every way that files take.
func TestUserNamespaces(t *testing.T) {
	t.Parallel()
	for _, runtime := range []string{"crun", "runc"} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			u := userns{remappedHost(t, berthtest.MachineOptions{}, "--runtime", runtime), t}
			if got := u.docker.Run("info", "--format", "{{.SecurityOptions}}"); !strings.Contains(got, "name=userns") {
				t.Errorf("docker info names security options %s", got)
			}
			u.docker.Run("pull", "-q", u.image("bash"))
			before := owner(t, u.Machine.Path("dev/null"))
			clean := u.usedCensus()
			u.docker.Run("run", "-d", "--name", "one", "-p", "127.0.0.1:8099:80", "-v", "vol:/vol", u.image("bash"), "sleep", "1000")
			u.processes()
			u.streams()
			u.files()
			u.volumes()
			u.images()
			u.refused()
			u.accepted()
			u.joined()
			u.restarted()
			u.docker.Run("rm", "-fv", "one")
			u.docker.Run("volume", "rm", "vol")
			u.docker.Run("rmi", "committed")
			u.Settle(t, clean)
			if after := owner(t, u.Machine.Path("dev/null")); after != before {
				t.Errorf("/dev/null of the host is of %v: was of %v", after, before)
			}
		})
	}
}

type userns struct {
	*host
	t *testing.T
}

// in runs a script in the container one.
func (u userns) in(script string) string {
	u.t.Helper()
	return strings.TrimSpace(u.docker.Run("exec", "one", "bash", "-c", script))
}

func (u userns) want(what, got, want string) {
	u.t.Helper()
	if strings.TrimSpace(got) != want {
		u.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// owners are a user and a group.
type owners struct{ uid, gid uint32 }

func owner(t *testing.T, path string) owners {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return owners{st.Uid, st.Gid}
}

// processes looks at who the processes are, and what root of the namespace may do.
func (u userns) processes() {
	u.t.Helper()
	pid := strings.TrimSpace(u.docker.Run("inspect", "--format", "{{.State.Pid}}", "one"))
	for what, path := range map[string]string{"the first process": "proc/" + pid} {
		if got := owner(u.t, u.Machine.Path(path)); got != (owners{firstUser, firstGroup}) {
			u.t.Errorf("%s is of %v on the host", what, got)
		}
	}
	u.want("the map", u.in("read -r a b c </proc/self/uid_map; echo $a $b $c; read -r a b c </proc/self/gid_map; echo $a $b $c"), "0 200000 65536\n0 300000 65536")
	u.want("interfaces", u.in("cd /sys/class/net && echo *"), "eth0 lo")
	u.want("the network is the namespace's", u.docker.Run("run", "--rm", "--cap-add", "NET_ADMIN", u.image("busybox"), "sh", "-c",
		"ip link set lo down && ip link set lo up && ping -c 1 -w 5 127.0.0.1 >/dev/null && echo up"), "up")
	u.want("ports and groups", u.in("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "0")
	for _, script := range []string{"hostname x", "mknod /tmp/z c 1 5", "echo 1 >/proc/sys/kernel/domainname", "date -s 12:00"} {
		if out, _, err := u.docker.Try("exec", "one", "bash", "-c", script); err == nil {
			u.t.Errorf("%s succeeds: %s", script, out)
		}
	}
	if _, _, err := u.docker.Try("run", "--rm", u.image("bash"), "mount", "-t", "tmpfs", "none", "/mnt"); err == nil {
		u.t.Error("root of a container mounts")
	}
	u.want("ulimits and scores", u.docker.Run("run", "--rm", "--ulimit", "nofile=2000:3000", "--oom-score-adj", "200", "-m", "64m", u.image("bash"),
		"bash", "-c", "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj"), "2000\n3000\n200")
	u.docker.Run("run", "--rm", "--init", u.image("bash"), "true")
	u.docker.Run("run", "--rm", "--read-only", "--tmpfs", "/scratch", u.image("bash"), "touch", "/scratch/x")
	u.docker.Run("run", "--rm", "--network", "none", u.image("busybox"), "ping", "-c", "1", "-w", "5", "127.0.0.1")
	u.want("--userns host", u.docker.Run("run", "--rm", "--userns", "host", "--privileged", u.image("bash"), "bash", "-c", "read -r a b c </proc/self/uid_map; echo $a $b $c"), "0 0 4294967295")
}

// streams opens the standard streams by name, as whoever writes to /dev/stderr
// does.
func (u userns) streams() {
	u.t.Helper()
	for _, args := range [][]string{
		{"exec", "one"},
		{"exec", "-u", "33:44", "one"},
		{"exec", "-i", "one"},
		{"exec", "-t", "one"},
		{"run", "--rm", u.image("bash")},
		{"run", "--rm", "-i", u.image("bash")},
		{"run", "--rm", "-u", "33:44", u.image("bash")},
		{"run", "--rm", "-t", u.image("bash")},
	} {
		u.want(strings.Join(args, " "), u.docker.Run(append(args, "bash", "-c", "echo hi >/dev/stdout; echo gone >/dev/null")...), "hi")
	}
	u.docker.Run("run", "-d", "--name", "logs", u.image("bash"), "bash", "-c", "echo logged >/dev/stdout")
	u.docker.Run("wait", "logs")
	u.want("the log", u.docker.Run("logs", "logs"), "logged")
	u.docker.Run("rm", "logs")
}

// files looks at owners in the container, on disk, and in archives both ways, while
// the container runs and when it does not.
func (u userns) files() {
	u.t.Helper()
	u.want("files of the image and of the engine", u.in("stat -c %u:%g / /etc/passwd /etc/hosts /etc/hostname /etc/resolv.conf | sort -u; echo '1.2.3.4 x' >>/etc/hosts"), "0:0")
	u.in("echo new >/new && install -d -o 7 -g 8 /dir && rm /etc/debian_version && chmod 600 /etc/group")
	u.want("docker diff", u.docker.Run("diff", "one"), "A /dir\nC /etc\nD /etc/debian_version\nC /etc/group\nA /new")
	upper := strings.TrimSpace(u.docker.Run("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", "one"))
	for name, want := range map[string]owners{"new": {0, 0}, "dir": {7, 8}, "etc/group": {0, 0}} {
		if got := owner(u.t, filepath.Join(upper, name)); got != want {
			u.t.Errorf("on disk, /%s is of %v, want %v", name, got, want)
		}
	}
	dir := u.t.TempDir()
	mine := filepath.Join(dir, "mine")
	if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
		u.t.Fatal(err)
	}
	if err := os.Chown(mine, 1234, 5678); err != nil {
		u.t.Fatal(err)
	}
	for _, running := range []bool{true, false} {
		if !running {
			u.docker.Run("stop", "-t", "0", "one")
		}
		u.docker.Run("cp", mine, "one:/root/mine")
		u.docker.Run("cp", "-a", mine, "one:/vol/archived")
		u.want("copied out", u.tar(u.docker.Run("cp", "one:/dir", "-")), "7/8 dir/")
		if !running {
			u.docker.Run("start", "one")
		}
		u.want("copied in", u.in("stat -c %u:%g /root/mine /vol/archived; rm /root/mine /vol/archived"), "1234:5678\n1234:5678")
	}
	u.want("exported", u.tar(u.docker.Run("export", "one"), "dir/", "new"), "7/8 dir/\n0/0 new")
}

// tar lists owners and names of the entries of an archive.
func (u userns) tar(archive string, names ...string) string {
	u.t.Helper()
	list := berthtest.NewCommand(u.t, "tar").Input(archive).Run(append([]string{"--numeric-owner", "-tvf", "-"}, names...)...)
	var lines []string
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		lines = append(lines, fields[1]+" "+fields[len(fields)-1])
	}
	return strings.Join(lines, "\n")
}

// volumes looks at files that containers share with each other and with the host.
func (u userns) volumes() {
	u.t.Helper()
	u.in("install -o 7 -g 8 /dev/null /vol/seven && touch /vol/root")
	u.want("another container", u.docker.Run("run", "--rm", "-v", "vol:/v", u.image("bash"), "stat", "-c", "%u:%g", "/v/seven", "/v/root"), "7:8\n0:0")
	u.want("without a namespace", u.docker.Run("run", "--rm", "--userns", "host", "-v", "vol:/v:ro", u.image("bash"), "stat", "-c", "%u:%g", "/v/seven", "/v/root"), "7:8\n0:0")
	dir := u.t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("of the host's root"), 0o600); err != nil {
		u.t.Fatal(err)
	}
	bind := []string{"run", "--rm", "-v", dir + ":/b", u.image("bash"), "bash", "-c"}
	u.want("a bind", u.docker.Run(append(bind, "stat -c %u:%g /b/secret; touch /b/new; cat /b/secret 2>/dev/null || echo denied")...), "65534:65534\ndenied")
	if got := owner(u.t, filepath.Join(dir, "new")); got != (owners{firstUser, firstGroup}) {
		u.t.Errorf("what root of a container makes on the host is of %v", got)
	}
	if _, _, err := u.docker.Try("run", "--rm", "-v", dir+":/b:ro", u.image("bash"), "touch", "/b/ro"); err == nil {
		u.t.Error("a read-only bind is written to")
	}
	for image, name := range map[string]string{"busybox": "usr/bin/busybox", "bash": "etc/passwd"} { // of one layer, and of several
		u.want("an image as a mount", u.docker.Run("run", "--rm", "--mount", "type=image,source="+u.image(image)+",target=/img", u.image("bash"),
			"bash", "-c", "stat -c %u:%g /img /img/"+name+"; touch /img/x 2>/dev/null || echo read-only"), "0:0\n0:0\nread-only")
	}
	u.want("a part of a volume", u.docker.Run("run", "--rm", "--mount", "type=volume,source=vol,target=/part,volume-subpath=seven", u.image("bash"),
		"stat", "-c", "%u:%g", "/part"), "7:8")
	// A volume that is somewhere else is the host's like a bind.
	u.docker.Run("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device="+dir, "elsewhere")
	u.want("a volume elsewhere", u.docker.Run("run", "--rm", "-v", "elsewhere:/b", u.image("bash"), "stat", "-c", "%u:%g", "/b/secret"), "65534:65534")
	u.docker.Run("volume", "rm", "elsewhere")
}

// images commits what the container changed.
func (u userns) images() {
	u.t.Helper()
	u.docker.Run("commit", "one", "committed")
	for _, mode := range []string{"", "host"} {
		u.want("committed, --userns "+mode, u.docker.Run("run", "--rm", "--userns", mode, "committed", "bash", "-c", "stat -c %u:%g /dir /new; ls /etc/debian_version 2>/dev/null"+" || true"), "7:8\n0:0")
	}
}

// accepted runs the check of the acceptance test that needs this.
func (u userns) accepted() {
	u.t.Helper()
	out, stderr, err := berthtest.NewCommand(u.t, "bash", acceptance(u.t, "seeds.sh")).On(u.Machine).
		Env("DOCKER_HOST=unix:///run/berth/runner.sock", "REGISTRY="+strings.TrimSuffix(u.repository(""), "/"), "STRICT=1").Try("-k", "user namespace")
	checks, whole := parseTAP(out)
	if len(checks) != 1 || !checks[0].ok || checks[0].skipped != "" {
		u.t.Errorf("the check of user namespaces: %+v", checks)
	}
	report(u.t, nil, whole, stderr, err)
}

// refused asks for what needs the host's users.
func (u userns) refused() {
	u.t.Helper()
	for option, want := range map[string]string{
		"--privileged":   "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
		"--network=host": "cannot share the host's network namespace when user namespaces are enabled",
		"--pid=host":     "cannot share the host PID namespace when user namespaces are enabled",
	} {
		if _, stderr, err := u.docker.Try("run", "--rm", option, u.image("bash"), "true"); err == nil || !strings.Contains(stderr, want) {
			u.t.Errorf("%s: %v %s", option, err, stderr)
		}
	}
	for _, option := range []string{"--ipc=host", "--uts=host", "--cgroupns=host"} {
		u.docker.Run("run", "--rm", option, u.image("bash"), "true")
	}
}

// joined runs containers in the namespaces of others.
func (u userns) joined() {
	u.t.Helper()
	u.docker.Run("run", "-d", "--name", "donor", "--ipc", "shareable", u.image("bash"), "bash", "-c", "echo shared >/dev/shm/x; exec sleep 1000")
	u.docker.Run("exec", "donor", "bash", "-c", "until [ -s /dev/shm/x ]; do :; done")
	u.want("all of another's", u.docker.Run("run", "--rm", "--ipc", "container:donor", "--pid", "container:donor", "--network", "container:donor",
		u.image("bash"), "bash", "-c", "cat /dev/shm/x; stat -c %u /dev/shm/x; cat /proc/1/comm"), "shared\n0\nsleep")
	for option, want := range map[string]string{
		"--ipc=container:one": "non-shareable IPC",
		"--pid=container:one": "each has a user namespace of its own",
	} {
		if _, stderr, err := u.docker.Try("run", "--rm", "--network", "container:donor", option, u.image("bash"), "true"); err == nil || !strings.Contains(stderr, want) {
			u.t.Errorf("%s: %v %s", option, err, stderr)
		}
	}
	u.docker.Run("rm", "-f", "donor")
	u.docker.Run("run", "-d", "--name", "donor", "--userns", "host", u.image("bash"), "sleep", "1000")
	if _, stderr, err := u.docker.Try("run", "--rm", "--pid", "container:donor", u.image("bash"), "true"); err == nil || !strings.Contains(stderr, "needs --userns host") {
		u.t.Errorf("in the processes of one without a user namespace: %v %s", err, stderr)
	}
	u.docker.Run("run", "--rm", "--userns", "host", "--pid", "container:donor", u.image("bash"), "true")
	u.docker.Run("run", "--rm", "--userns", "host", "--pid", "container:one", u.image("bash"), "true")
	u.docker.Run("rm", "-f", "donor")
}

// restarted kills the runner and starts it without the key: what runs is as it was,
// and what starts anew has the host's users over the same files.
func (u userns) restarted() {
	u.t.Helper()
	u.Kill()
	u.Setenv("BERTH_RUNNER_USERNS_REMAP=")
	u.Restart()
	u.want("after the runner was killed", u.in("stat -c %u:%g /dir; echo hi >/dev/stdout"), "7:8\nhi")
	u.docker.Run("cp", filepath.Join(berthtest.ModuleRoot(u.t), "go.mod"), "one:/go.mod")
	u.want("copied to what is remapped still", u.in("stat -c %u:%g /go.mod; read -r a b c </proc/self/uid_map; echo $b"), "0:0\n200000")
	u.docker.Run("restart", "-t", "0", "one")
	u.want("remapped no more", u.in("stat -c %u:%g /dir /go.mod /vol/seven; read -r a b c </proc/self/uid_map; echo $b"), "7:8\n0:0\n7:8\n0")
	u.Kill()
	closed := u.Machine.Path("run", "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		u.t.Fatal(err)
	}
	for _, test := range []struct{ user, run, want string }{
		{"stranger", u.Run, "/etc/subuid has no entry for stranger"},
		{"berth:stranger", u.Run, "/etc/subgid has no entry for stranger"},
		{"berth", "/run/closed/r", "cannot get through /run/closed"},
	} {
		u.Setenv("BERTH_RUNNER_USERNS_REMAP=" + test.user)
		u.Setenv("BERTH_RUNNER_RUN=" + test.run)
		if code := u.Refuses(); code == 0 || !strings.Contains(u.Log(), test.want) {
			u.t.Errorf("userns_remap %s, run %s: exit code %d; the log lacks %q", test.user, test.run, code, test.want)
		}
	}
	if err := os.RemoveAll(closed); err != nil {
		u.t.Fatal(err)
	}
	u.Setenv("BERTH_RUNNER_RUN=" + u.Run)
	u.Setenv("BERTH_RUNNER_USERNS_REMAP=berth:berth")
	u.Restart()
	u.docker.Run("restart", "-t", "0", "one")
	u.want("remapped again", u.in("stat -c %u:%g /dir /go.mod /vol/seven; read -r a b c </proc/self/uid_map; echo $b"), "7:8\n0:0\n7:8\n200000")
}
