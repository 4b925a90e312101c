package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

func writeFiles(t *testing.T, files map[string]string) {
	t.Helper()
	for path, text := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func readAt(t *testing.T, dir *os.File, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func TestOpenRootfs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `a,b:c\d`) // what overlayfs takes for separators
	r := Rootfs{Lower: []string{dir + "/2", dir + "/1"}, Upper: dir + "/upper", Work: dir + "/work"}
	writeFiles(t, map[string]string{dir + "/1/a": "1", dir + "/1/b": "1", dir + "/2/b": "2", dir + "/upper/c": "3", dir + "/work/x": ""})
	if err := os.Remove(dir + "/work/x"); err != nil {
		t.Fatal(err)
	}
	root, err := OpenRootfs(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := readAt(t, root, "a") + readAt(t, root, "b") + readAt(t, root, "c"); got != "123" {
		t.Errorf("files: %s", got)
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/new", root.Fd()), []byte("new"), 0o600); err != nil {
		t.Error(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), filepath.Dir(dir)) {
		t.Errorf("the mount is seen: %v", err)
	}
	if err := root.Close(); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(dir + "/upper/new"); string(text) != "new" {
		t.Error(string(text), err)
	}
	for _, lower := range [][]string{r.Lower, r.Lower[:1]} {
		root, err := OpenRootfs(Rootfs{Lower: lower, ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := readAt(t, root, "b"); got != "2" {
			t.Errorf("read-only: %s", got)
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/b", root.Fd()), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("written to a read-only tree: %v", err)
		}
		_ = root.Close()
	}
	// Once no descriptor is left the directories are free.
	if root, err = OpenRootfs(r); err != nil {
		t.Fatal(err)
	}
	_ = root.Close()
}

func TestManyLayers(t *testing.T) {
	dir := t.TempDir()
	r := Rootfs{ReadOnly: true}
	for i := range 1000 {
		layer := filepath.Join(dir, fmt.Sprintf("snapshots/%d/fs", i))
		writeFiles(t, map[string]string{filepath.Join(layer, "f"): fmt.Sprint(i)})
		r.Lower = append(r.Lower, layer)
	}
	many := r
	many.Lower = r.Lower[:400] // 30 kB as absolute paths
	root, err := OpenRootfs(many)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if got := readAt(t, root, "f"); got != "0" {
		t.Errorf("top layer: %s", got)
	}
	if _, err := OpenRootfs(r); !errors.Is(err, runner.ErrInvalid) {
		t.Errorf("1000 layers: %v", err)
	}
	for _, bad := range []Rootfs{
		{},
		{Lower: []string{"relative"}, ReadOnly: true},
		{Lower: r.Lower, Upper: "/x/../y", Work: "/w"},
		{Lower: r.Lower, Upper: "/x", Work: "/w", ReadOnly: true},
	} {
		if _, err := OpenRootfs(bad); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, err := OpenRootfs(Rootfs{Lower: []string{"/nosuch/1", "/nosuch/2"}, ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("layers that are not there: %v", err)
	}
}

// TestMountsStayHidden checks that a running container shows in no mount table but
// its own, also if all of the host's mounts are shared, and that a shared bind
// propagates to the host all the same.
func TestMountsStayHidden(t *testing.T) {
	dir := shortTemp(t)
	if err := unix.Mount("shared", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, layers: t.TempDir(), cgroup: "/berth-shim-test-" + randomID()[:8]}
	busybox(t, filepath.Join(h.layers, "lower"))
	h.open("crun")
	defer func() {
		if err := errors.Join(h.Delete(h.ctx(), h.ids()[0]), h.Close(), h.cgroups.remove(h.ctx(), h.cgroup)); err != nil {
			t.Error(err)
		}
	}()
	bind := filepath.Join(dir, "bind")
	if err := os.MkdirAll(filepath.Join(bind, "point"), 0o755); err != nil {
		t.Fatal(err)
	}
	req := h.request("sh", "-c", "busybox mount -t tmpfs inside /mnt/point && sleep 1000")
	req.Spec.Linux.RootfsPropagation = "shared"
	all := []string{"CAP_SYS_ADMIN"}
	req.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	req.Spec.Mounts = append(req.Spec.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: bind, Options: []string{"rbind", "rshared"}})
	p := h.create(req)
	h.start(req.ID)
	var table string
	waitFor(t, func() bool {
		text, _ := os.ReadFile("/proc/self/mountinfo")
		table = string(text)
		return strings.Contains(table, filepath.Join(bind, "point"))
	})
	if strings.Contains(table, h.rootfs()) {
		t.Errorf("the container's tree is in the host's table:\n%s", table)
	}
	monitor, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", p.MonitorPID))
	if err != nil || !strings.Contains(string(monitor), h.rootfs()) {
		t.Errorf("the container's tree is not in its monitor's table: %v", err)
	}
	root, err := OpenRunningRoot(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if got := readAt(t, root, "etc/plain"); got != "text" {
		t.Errorf("file of the running container: %q", got)
	}
	if _, err := os.Stat(hybridCgroup2 + "/cgroup.procs"); h.cgroups.hybrid && err != nil {
		t.Errorf("the host's cgroups were touched: %v", err)
	}
}

func (h *host) ids() []string {
	ids, err := h.List()
	if err != nil {
		h.t.Fatal(err)
	}
	return ids
}
