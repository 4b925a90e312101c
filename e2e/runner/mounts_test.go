package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestMountsAreLetGo unmounts a file system of the host that was mounted when a
// container started: neither the container nor its monitor holds it, so that its
// disk can be taken out. And the host sees no mount of the container.
func TestMountsAreLetGo(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	h.usedCensus()
	sh := berthtest.NewCommand(t, "sh", "-c").On(h.Machine)
	sh.Run("mkdir /run/disk && mount -t tmpfs disk /run/disk && touch /run/disk/file")
	before := mountsOf(t, h.Machine, "1")
	if _, err := h.api.run(t.Context(), spec{"sleeper", h.image("busybox"), []string{"sleep", "1000"}, nil}); err != nil {
		t.Fatal(err)
	}
	if after := mountsOf(t, h.Machine, "1"); after != before {
		t.Errorf("the host's mounts were\n%sand with a container are\n%s", before, after)
	}
	sh.Run("umount /run/disk")
	tables, err := filepath.Glob(h.Machine.Path("proc/[0-9]*/mountinfo"))
	if err != nil || len(tables) < 3 {
		t.Fatalf("%d processes on the machine: %v", len(tables), err)
	}
	for _, table := range tables {
		pid := filepath.Base(filepath.Dir(table))
		if strings.Contains(mountsOf(t, h.Machine, pid), " /run/disk ") {
			line, _ := os.ReadFile(h.Machine.Path("proc", pid, "cmdline")) // it has not ended since
			t.Errorf("process %s holds a mount that the host has undone: %s", pid, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
}

// mountsOf is the table of mounts of a process, or nothing if it has ended.
func mountsOf(t *testing.T, m *berthtest.Machine, pid string) string {
	t.Helper()
	text, err := os.ReadFile(m.Path("proc", pid, "mountinfo"))
	if err != nil {
		return ""
	}
	return string(text)
}
