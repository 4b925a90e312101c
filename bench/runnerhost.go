package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The works of the runner are done by this program on a host of their own: it
// has the kernel and the disk of this one, and processes, network, mounts,
// cgroups, /run and /dev/shm of its own. So the engines that are compared meet
// neither each other's traces nor those of the machine, and when its first
// process ends, at the end, on Ctrl-C or when this program is killed, all that
// runs there ends, and mounts, namespaces, interfaces and rules go with it. What is
// left are files and empty cgroups, which are removed, unless by kill -9.
const bootScript = `set -e
mount --make-rprivate /
tac /proc/self/mounts | while read -r _ dir _; do
	case $BENCH_DIR/ in "$dir"/*) continue ;; esac
	case $dir in /proc/* | /sys/* | /run/* | /tmp/* | /var/lib/* | /var/tmp/*) umount -l "$dir" ;; esac
done
mount --make-rshared /
mount -t proc none /proc
mount -t sysfs none /sys
for dir in /run /dev/shm $BENCH_HIDE; do mount -t tmpfs -o mode=755 none "$dir"; done
chmod 1777 /dev/shm
mkdir /run/lock
if [ "$BENCH_CGROUPS" = unified ]; then
	mount -t cgroup2 none /sys/fs/cgroup
	mkdir /sys/fs/cgroup/init # a cgroup with processes cannot give controllers to others
	echo 0 >/sys/fs/cgroup/init/cgroup.procs
else
	mount -t tmpfs -o mode=755 none /sys/fs/cgroup
	for c in $BENCH_CGROUPS; do
		mkdir "/sys/fs/cgroup/${c#name=}"
		case $c in
		name=*) mount -t cgroup -o "none,$c" cgroup "/sys/fs/cgroup/${c#name=}" ;;
		*) mount -t cgroup -o "$c" cgroup "/sys/fs/cgroup/$c" ;;
		esac
	done
fi
ip link set lo up
exec tini -- "$@" </dev/null`

// hidden are the directories, beside /run, that engines write to whatever they
// are told.
var hidden = []string{"/var/lib/cni", "/var/lib/containers", "/etc/docker"}

// errand is what the program on the other host is to do.
type errand struct {
	Work, Dir, Berth, Runner, Profiles string
	Runs                               int
	Quick, Full                        bool
}

// hostTimeout is how long the other host may take to end when it is told to.
const hostTimeout = 15 * time.Second

// onHost does the work of b on a host of its own and returns what it found.
func onHost(ctx context.Context, b *bench) (_ []*figure, err error) {
	groups, err := newCgroups(fmt.Sprintf("berth-bench-%d", os.Getpid()))
	defer func() { err = errors.Join(err, groups.remove()) }()
	if err != nil {
		return nil, err
	}
	task, found := filepath.Join(b.dir, "errand.json"), filepath.Join(b.dir, "figures.json")
	text, err := json.Marshal(errand{b.work, b.dir, b.binary, b.runner, b.profiles, b.runs, b.quick, b.full})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(task, text, 0o600); err != nil {
		return nil, err
	}
	unhide, err := makeDirs(hidden)
	defer unhide()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := boot(ctx, groups, b.dir, self, helperRunnerWork, task, found); err != nil {
		return nil, err
	}
	text, err = os.ReadFile(found)
	if err != nil {
		return nil, err
	}
	var figures []*figure
	err = json.Unmarshal(text, &figures)
	return figures, err
}

// boot runs a command on a host of its own until it ends.
func boot(ctx context.Context, groups cgroups, dir string, command ...string) error {
	// It waits until it is in its cgroups: they are to be the roots that it sees.
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", `read -r _ && exec unshare --cgroup sh -c "$BENCH_BOOT" "$@"`, "sh", "sh"}, command...)...)
	cmd.Env = append(os.Environ(), "BENCH_BOOT="+bootScript, "BENCH_DIR="+dir, "BENCH_CGROUPS="+groups.names(), "BENCH_HIDE="+strings.Join(hidden, " "),
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Setpgid:    true,
		Pdeathsig:  syscall.SIGKILL,
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = hostTimeout
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := groups.add(cmd.Process.Pid); err == nil {
		_, _ = stdin.Write([]byte("go\n")) // if it has ended, Wait says so
	} else {
		_ = cmd.Process.Kill()
		return errors.Join(err, cmd.Wait())
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("on the host of its own: %w", err)
	}
	return nil
}

// runnerWork is a helper: it does the errand in a file, on the host that boot has
// made, and writes the figures to another file. What it starts need not be
// stopped: it ends with the host.
func runnerWork(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%w: want the files of an errand and of figures", errUsage)
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var e errand
	if err := json.Unmarshal(text, &e); err != nil {
		return err
	}
	o := options{runs: e.Runs, quick: e.Quick, full: e.Full, binary: e.Berth, runner: e.Runner, profiles: e.Profiles}
	b := &bench{options: o, scale: newScale(o), work: e.Work, dir: e.Dir}
	i := slices.IndexFunc(works, func(w work) bool { return w.name == e.Work })
	if i < 0 {
		return fmt.Errorf("%w: no work %q", errUsage, e.Work)
	}
	figures, err := works[i].run(ctx, b)
	if err != nil {
		return err
	}
	if text, err = json.Marshal(figures); err != nil {
		return err
	}
	return os.WriteFile(args[1], text, 0o600)
}

// makeDirs makes the directories that are missing; undo removes those.
func makeDirs(dirs []string) (undo func(), err error) {
	var made []string
	undo = func() {
		for _, dir := range slices.Backward(made) {
			_ = os.Remove(dir) // somebody else may use it now
		}
	}
	for _, dir := range dirs {
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			made = append(made, dir)
		} else if !errors.Is(err, fs.ErrExist) {
			return undo, err
		}
	}
	return undo, nil
}

// cgroups are the directories of a host of its own in the hierarchies of this
// one, by the names of these.
type cgroups map[string]string

const (
	cgroupRoot = "/sys/fs/cgroup"
	unified    = "unified" // the hierarchy of version 2
)

// newCgroups makes a directory in each hierarchy, but in one of version 2 only
// where there are none of version 1: crun, which podman and the works take, runs
// beside one kind. It returns what it made also when it fails.
func newCgroups(name string) (cgroups, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	c := cgroups{}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		var hierarchy string
		switch {
		case f[2] == "cgroup" && filepath.Dir(f[1]) == cgroupRoot:
			hierarchy = controllers(f[3])
		case f[2] == "cgroup2" && f[1] == cgroupRoot:
			hierarchy = unified
		default:
			continue
		}
		dir := filepath.Join(f[1], name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return c, err
		}
		c[hierarchy] = dir
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(f[1], file))
			if err != nil || hierarchy == unified {
				continue // it is another controller's, or inherited
			}
			if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// controllers returns those among the options of a mount, or the hierarchy's
// name.
func controllers(mountOptions string) string {
	var found []string
	for o := range strings.SplitSeq(mountOptions, ",") {
		if strings.HasPrefix(o, "name=") {
			return o
		}
		if !slices.Contains([]string{"rw", "ro", "nosuid", "nodev", "noexec", "relatime", "noatime", "xattr"}, o) && !strings.Contains(o, "=") {
			found = append(found, o)
		}
	}
	return strings.Join(found, ",")
}

// names are what the script mounts.
func (c cgroups) names() string {
	var names []string
	for hierarchy := range c {
		names = append(names, hierarchy)
	}
	return strings.Join(names, " ")
}

// add moves a process into the cgroups.
func (c cgroups) add(pid int) error {
	for _, dir := range c {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// remove removes the directories and those below them, in which nothing runs
// any more.
func (c cgroups) remove() error {
	var errs []error
	for _, root := range c {
		var dirs []string
		errs = append(errs, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return ignore(err, fs.ErrNotExist)
		}))
		for _, dir := range slices.Backward(dirs) {
			errs = append(errs, removeCgroup(dir))
		}
	}
	return errors.Join(errs...)
}

// removeCgroup removes a cgroup, for which the kernel may still count processes
// that have ended.
func removeCgroup(dir string) error {
	for limit := time.Now().Add(hostTimeout); ; time.Sleep(5 * time.Millisecond) {
		err := ignore(os.Remove(dir), fs.ErrNotExist)
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(limit) {
			return err
		}
	}
}

func ignore(err, ignored error) error {
	if errors.Is(err, ignored) {
		return nil
	}
	return err
}
