package shim

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// umlScript is the first process of a kernel that is a process of this one
// (User Mode Linux), with the files of this host, which it cannot change, and with
// cgroups of version 2 that have controllers.
const umlScript = `#!/bin/sh
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 none /sys/fs/cgroup
echo "+cpu +io +memory +pids" >/sys/fs/cgroup/cgroup.subtree_control
busybox insmod "$(ls /usr/lib/uml/modules/*/kernel/fs/overlayfs/overlay.ko)"
mkdir /run/tmp /sys/fs/cgroup/system.slice
%s
%s -test.v -test.timeout 60s -test.run '%s' -test.skip '%s' && echo all is well
halt -f
`

// onUnified runs tests of this program, by their names and but for some, on a kernel of their own
// that has cgroups of version 2 alone.
func onUnified(t *testing.T, names, but string) {
	t.Helper()
	const uml = "/usr/bin/linux.uml"
	if _, err := os.Stat(uml); err != nil {
		t.Fatal("this test needs user-mode-linux, which is not installed; run: make tools")
	}
	dir := t.TempDir()
	script, disk := filepath.Join(dir, "init"), filepath.Join(dir, "disk")
	env := "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run/tmp " + umlEnv + "=1"
	if err := os.WriteFile(script, fmt.Appendf(nil, umlScript, env, os.Args[0], names, but), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), uml, "mem=512M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
		"init="+script, "ubd0="+disk, "con=null", "con0=fd:0,fd:1", "quiet", "umid="+filepath.Base(filepath.Dir(dir)))
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "all is well") {
		t.Errorf("%v\n%s", err, out)
	}
}

// umlEnv, in the environment, says that the test program runs there.
const umlEnv = "BERTH_TEST_SHIM_UML"

// TestOnUnified runs tests of limits on cgroups of version 2.
func TestOnUnified(t *testing.T) {
	if os.Getenv(umlEnv) != "" || os.Getenv(unifiedEnv) != "" {
		return // this is the test program below
	}
	onUnified(t, "^(TestLimits|TestLimitsHold|TestOutOfMemory|TestOutOfMemoryBeside)$",
		"^(TestLimitsHold|TestOutOfMemory|TestOutOfMemoryBeside)$/^runc$") // which is slow there
}
