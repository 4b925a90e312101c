package berthtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// MachineOptions are what a machine can be made with.
type MachineOptions struct {
	// Unified gives the machine one hierarchy of cgroups, version 2, with the
	// controllers that this host's version 1 leaves to it. Otherwise it has the
	// hierarchies of this host.
	Unified bool
}

// Machine is a host of the test's own: it has the kernel and the disk of this
// one, and processes, network, mounts, cgroups and a /run of its own, so that
// all that a program makes of a host can be counted, and that it can lose its
// power. An init reaps what is orphaned.
//
// Address is where it can be reached beside the loopback, by itself alone.
type Machine struct {
	Address, Address6 string

	tb      testing.TB
	options MachineOptions
	cgroups cgroups
	init    *process
	ns      []*os.File // namespaces, in the order in which they are entered
}

// NewMachine starts a machine, which ends with the test and all that runs on it.
func NewMachine(tb testing.TB, o MachineOptions) *Machine {
	tb.Helper()
	Root(tb)
	tb.TempDir() // the first one makes the test remove it and all others, when the machine is down
	m := &Machine{Address: "192.168.213.2", Address6: "fd00:be:be::2", tb: tb, options: o}
	if err := m.cgroups.make(o.Unified); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		m.powerOff()
		if err := m.cgroups.remove(); err != nil {
			tb.Errorf("cgroups of the machine are left: %v", err)
		}
	})
	m.boot()
	return m
}

// Reboot ends all processes at once and starts anew: what is not on the disk is
// gone.
func (m *Machine) Reboot() {
	m.tb.Helper()
	m.powerOff()
	if err := m.cgroups.empty(); err != nil {
		m.tb.Fatal(err)
	}
	m.boot()
}

// Path is where this host finds a file of the machine.
func (m *Machine) Path(elem ...string) string {
	return filepath.Join(append([]string{fmt.Sprintf("/proc/%d/root", m.init.cmd.Process.Pid)}, elem...)...)
}

// Exists says whether the machine has a process with an id that it gave.
func (m *Machine) Exists(pid int) bool {
	_, err := os.Stat(m.Path("proc", strconv.Itoa(pid)))
	return err == nil
}

// bootScript makes of new namespaces a host like others: mounts are shared, as
// systemd does it. What other tests and engines have mounted is nothing to the
// machine, and must not be held by it.
const bootScript = `set -e
mount --make-rprivate /
tac /proc/self/mounts | while read -r _ dir _; do
	case $dir in "$TMP"/* | /proc/* | /sys/* | /run/* | /var/lib/*) umount -l "$dir" ;; esac
done
mount --make-rshared /
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs -o mode=755 none /run
if [ -z "$CGROUPS" ]; then
	mount -t cgroup2 none /sys/fs/cgroup
else
	mount -t tmpfs -o mode=755 none /sys/fs/cgroup
	for c in $CGROUPS; do
		mkdir "/sys/fs/cgroup/${c##*=}"
		case $c in
		unified) mount -t cgroup2 none /sys/fs/cgroup/unified ;;
		name=*) mount -t cgroup -o "none,$c" cgroup "/sys/fs/cgroup/${c##*=}" ;;
		*) mount -t cgroup -o "$c" cgroup "/sys/fs/cgroup/$c" ;;
		esac
	done
fi
ip link set lo up
ip link add eth0 type veth peer wire0
ip link set wire0 up
ip link set eth0 up
ip address add "$ADDRESS/24" dev eth0
ip -6 address add "$ADDRESS6/64" dev eth0 nodad
echo up
exec tini -- sleep infinity
`

// boot starts the init and waits until the machine is up.
func (m *Machine) boot() {
	m.tb.Helper()
	var said log
	// It waits until it is in its cgroups: they are to be the roots that it sees.
	cmd := exec.Command("sh", "-c", `read -r _ && exec unshare --cgroup sh -c "$BOOT"`)
	cmd.Env = append(os.Environ(), "BOOT="+bootScript, "TMP="+os.TempDir(), "ADDRESS="+m.Address, "ADDRESS6="+m.Address6, "CGROUPS="+m.cgroups.mounts(),
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		m.tb.Fatal(err)
	}
	if err := startBound(cmd); err != nil {
		m.tb.Fatalf("start a machine: %v", err)
	}
	m.init = watch(cmd)
	if err := m.cgroups.add(cmd.Process.Pid); err != nil {
		m.tb.Fatal(err)
	}
	_, _ = stdin.Write([]byte("go\n")) // if it has ended, it is not up
	for deadline := time.Now().Add(startTime); !strings.HasSuffix(said.String(), "up\n"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) || m.init.wait(0) == nil {
			m.tb.Fatalf("the machine does not come up: %s", said.String())
		}
	}
	m.open()
}

// namespaces are those of a machine, in the order in which they are entered.
var namespaces = []string{"mnt", "net", "ipc", "uts", "cgroup", "pid"}

// open opens the namespaces of the machine.
func (m *Machine) open() {
	m.tb.Helper()
	for _, name := range namespaces {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", m.init.cmd.Process.Pid, name))
		if err != nil {
			m.tb.Fatal(err)
		}
		m.ns = append(m.ns, f)
	}
}

// powerOff ends everything on the machine.
func (m *Machine) powerOff() {
	if m.init == nil {
		return
	}
	// The kernel ends all others of its namespace with it, but for those that
	// are frozen.
	_ = m.init.cmd.Process.Kill() // it may have ended
	for m.init.wait(10*time.Millisecond) != nil {
		if err := m.cgroups.thaw(); err != nil {
			m.tb.Errorf("thaw what is paused: %v", err)
			return
		}
	}
	for _, f := range m.ns {
		_ = f.Close()
	}
	m.ns, m.init = nil, nil
}

// start starts a command on the machine.
func (m *Machine) start(cmd *exec.Cmd) error {
	return onThread(func() error {
		if err := m.cgroups.addThread(unix.Gettid()); err != nil {
			return err
		}
		unified, err := m.cgroups.unified()
		if err != nil {
			return err
		}
		if unified != nil {
			defer unified.Close()
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(unified.Fd())}
		}
		if err := m.enter(); err != nil {
			return err
		}
		return cmd.Start()
	})
}

// enter brings the calling thread into the machine's namespaces.
func (m *Machine) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	for _, f := range m.ns {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("enter %s: %w", f.Name(), err)
		}
	}
	return nil
}

// Dial connects to an address, as a process of the machine; to a machine that is
// nil, as one of this host.
func (m *Machine) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	if m == nil {
		return d.DialContext(ctx, network, addr)
	}
	var c net.Conn
	err := onThread(func() (err error) {
		if err := m.enter(); err != nil {
			return err
		}
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Client returns an HTTP client on the machine, or with nil on this host.
func (m *Machine) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: m.Dial}, Timeout: time.Minute}
}

// onThread calls fn on a thread that ends with it, whatever it does to itself.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			// The first thread would stay, and be what /proc/self shows.
			defer runtime.UnlockOSThread()
			done <- onThread(fn)
			return
		}
		done <- fn()
	}()
	return <-done
}
