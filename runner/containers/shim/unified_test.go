package shim

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// unifiedEnv, in the environment, makes the test program see cgroups of version 2
// only.
const unifiedEnv = "BERTH_TEST_SHIM_UNIFIED"

// mountUnified replaces the cgroups by one hierarchy of version 2, in a mount
// namespace that is the test program's own.
func mountUnified() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(cgroupRoot))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		err = errors.Join(err, unix.Unmount(m.Mountpoint, unix.MNT_DETACH))
	}
	return errors.Join(err, unix.Mount("cgroup2", cgroupRoot, "cgroup2", 0, ""))
}

// TestUnified runs other tests on cgroups of version 2, which on a host with
// version 1 have no controllers, but can freeze and kill.
func TestUnified(t *testing.T) {
	if os.Getenv(unifiedEnv) != "" {
		return // this is the test program below
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run",
		"^(TestLife|TestSignals|TestPauseOften|TestExec|TestMonitorKilled|TestHostPIDs|TestForkBomb|TestKilled)$")
	cmd.Env = append(os.Environ(), unifiedEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "--- PASS: TestLife"); n != 3 {
		t.Errorf("%d of 3 tests ran\n%s", n, out)
	}
}
