package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/berth-registry/berth/internal/freeaddr"
	"github.com/berth-registry/berth/runner"
)

// put writes a file of a container, and get reads it.
func (h *host) put(id, dir, name, content string) error {
	return h.WriteContainerArchive(h.t.Context(), id, dir, runner.ArchiveOptions{}, tarOf(h.t, name, content))
}

func (h *host) get(id, name string) string {
	h.t.Helper()
	r, _, err := h.ReadContainerArchive(h.t.Context(), id, name)
	h.must(err)
	defer r.Close()
	data, err := io.ReadAll(r)
	h.must(err)
	return string(data)
}

// Files are copied, compared, exported and committed whatever the container does.
func TestFilesInEveryState(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.create(script("exec sleep 1000"))
	check := func(state string) {
		t.Helper()
		h.must(h.put(id, "/tmp", state, "text of "+state))
		if got := h.get(id, "/tmp/"+state); !strings.Contains(got, "text of "+state) {
			t.Errorf("%s: read %q", state, got)
		}
		changes, err := h.ContainerChanges(t.Context(), id)
		h.must(err)
		found := false
		for _, c := range changes {
			found = found || c.Path == "/tmp/"+state && c.Kind == container.ChangeAdd
		}
		var export buffer
		h.must(h.ExportContainer(t.Context(), id, &export))
		image, err := h.CommitContainer(t.Context(), runner.CommitRequest{Container: id, Repo: "of", Tag: state, Pause: true})
		h.must(err)
		if !found || !strings.Contains(export.String(), "text of "+state) || image == "" {
			t.Errorf("%s: changes %v, %d bytes exported, image %q", state, changes, len(export.String()), image)
		}
	}
	check("created")
	h.must(h.StartContainer(t.Context(), id))
	check("running")
	if code, _ := h.exec(id, "/bin/true"); code != 0 {
		t.Error("it does not go on after the commit")
	}
	h.must(h.PauseContainer(t.Context(), id))
	check("paused")
	if st := h.state(id); st.Status != container.StatePaused {
		t.Errorf("after the commit it is %s", st.Status)
	}
	h.must(h.StopContainer(t.Context(), id, runner.StopOptions{Timeout: new(0)}))
	check("exited")
	if err := h.put(id, "/no/such", "x", ""); !errors.Is(err, runner.ErrNotFound) || !strings.Contains(err.Error(), "Could not find the file /no/such in container "+id) {
		t.Errorf("into nothing: %v", err)
	}
}

// Who reads slowly from a container that does not run is in nobody's way: it is
// written to, started and removed meanwhile.
func TestReadingBlocksNobody(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.create(script("exec sleep 1000"))
	h.must(h.put(id, "/tmp", "big", strings.Repeat("x", 1<<20)))
	r, _, err := h.ReadContainerArchive(t.Context(), id, "/tmp/big")
	h.must(err)
	defer r.Close()
	_, err = io.ReadFull(r, make([]byte, 1024))
	h.must(err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h.must(h.WriteContainerArchive(ctx, id, "/mnt", runner.ArchiveOptions{}, tarOf(t, "copy", "text")))
	h.must(h.StartContainer(ctx, id))
	if rest, err := io.ReadAll(r); err != nil || len(rest) < 1<<20 {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
}

func TestVolumesAndBinds(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	req := script("cat /ro/file /data/file; echo x > /ro/file || echo refused; echo mine > /data/file; exec sleep 1000", func(req *runner.CreateRequest) {
		req.HostConfig.Mounts = []mount.Mount{
			{Type: mount.TypeBind, Source: source, Target: "/ro", ReadOnly: true},
			{Type: mount.TypeVolume, Target: "/data"},
		}
	})
	id := h.create(req)
	if err := h.put(id, "/ro", "x", ""); !errors.Is(err, runner.ErrForbidden) {
		t.Errorf("written to a read-only mount: %v", err)
	}
	h.must(h.put(id, "/data", "early", "text"))
	h.must(h.StartContainer(t.Context(), id))
	h.eventually("it has written", func() bool { return strings.Contains(h.get(id, "/data/file"), "mine") })
	h.eventually("its log says what it saw", func() bool {
		out := h.logs(id)
		return strings.HasPrefix(out, "of the hostof the image") && strings.Contains(out, "refused")
	})
	// The anonymous volume goes with the container if that is asked for.
	list, err := h.ListVolumes(t.Context(), nil)
	h.must(err)
	if len(list.Volumes) != 1 || list.Volumes[0].Labels["com.docker.volume.anonymous"] != "" {
		t.Errorf("volumes: %+v", list.Volumes)
	}
	h.must(h.RemoveContainer(t.Context(), id, runner.RemoveOptions{Force: true, Volumes: true}))
	if list, err := h.ListVolumes(t.Context(), nil); err != nil || len(list.Volumes) != 0 {
		t.Errorf("left: %+v, %v", list.Volumes, err)
	}
}

// A daemon that is killed while it makes a container leaves no volume that nobody
// knows of.
func TestInterruptedCreate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	rec := &runner.Container{ID: newID(), HostConfig: &container.HostConfig{}, Mounts: []container.MountPoint{
		{Type: mount.TypeVolume, Destination: "/data", Driver: "local", RW: true},
		{Type: mount.TypeVolume, Name: "mine", Destination: "/mine", Driver: "local", RW: true},
	}}
	c, err := h.find(h.create(script("true")))
	h.must(err)
	like, _ := c.snapshot()
	rec.Lower = like.Lower
	_, err = h.makeVolumes(t.Context(), rec)
	h.must(err)
	h.reopen()
	list, err := h.ListVolumes(t.Context(), nil)
	h.must(err)
	if len(list.Volumes) != 1 || list.Volumes[0].Name != "mine" {
		t.Errorf("there are %+v", list.Volumes)
	}
	if half, _ := filepath.Glob(h.store.Dir(".*")); len(half) != 0 {
		t.Errorf("left: %v", half)
	}
}

// An image that is removed by force lives as long as its containers; then its
// disk is given back.
func TestImageRemovedByForce(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.create(script("exit 8"))
	_, err := h.RemoveImage(t.Context(), busybox, runner.ImageRemoveOptions{Force: true})
	h.must(err)
	h.must(h.StartContainer(t.Context(), id))
	if r := h.wait(id, container.WaitConditionNotRunning); r.StatusCode != 8 {
		t.Errorf("exit code %d", r.StatusCode)
	}
	if _, err := h.CreateContainer(t.Context(), script("true")); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("made of it: %v", err)
	}
	h.must(h.RemoveContainer(t.Context(), id, runner.RemoveOptions{}))
	if left, _ := os.ReadDir(filepath.Join(h.opts.Data, "containers")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestUpdateLimits(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	req := script("exec sleep 1000", restarted("always", 0))
	req.HostConfig.Memory, req.HostConfig.MemorySwap = 64<<20, 64<<20
	id := h.run(req)
	update := func(r container.Resources) error {
		_, err := h.UpdateContainer(t.Context(), id, container.UpdateConfig{Resources: r})
		return err
	}
	limit := func(hierarchy, file, unified string) string {
		if h.host.CgroupV2 {
			hierarchy, file = "", unified
		}
		data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", hierarchy, h.cgroupParent(), id, file))
		h.must(err)
		first, _, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
		return first
	}
	if err := update(container.Resources{Memory: 128 << 20}); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("more memory than memory with swap: %v", err)
	}
	if err := update(container.Resources{Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 1}}}); !errors.Is(err, runner.ErrNotImplemented) {
		t.Errorf("what cannot be changed: %v", err)
	}
	h.must(update(container.Resources{Memory: 32 << 20, PidsLimit: new(int64(77)), NanoCPUs: 5e8}))
	if m, p, c := limit("memory", "memory.limit_in_bytes", "memory.max"), limit("pids", "pids.max", "pids.max"), limit("cpu", "cpu.cfs_quota_us", "cpu.max"); m != strconv.Itoa(32<<20) || p != "77" || c != "50000" {
		t.Errorf("the kernel has memory %s, processes %s, CPU %s", m, p, c)
	}
	if err := update(container.Resources{CPUQuota: 10000}); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("a quota beside CPUs: %v", err)
	}
	h.must(h.RestartContainer(t.Context(), id, runner.StopOptions{Timeout: new(0)}))
	if p := limit("pids", "pids.max", "pids.max"); p != "77" {
		t.Errorf("after a restart it has %s processes", p)
	}
	_, err := h.UpdateContainer(t.Context(), id, container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: "no"}})
	h.must(err)
	h.reopen()
	got, err := h.InspectContainer(t.Context(), id, false)
	h.must(err)
	if got.HostConfig.RestartPolicy.Name != "no" || got.HostConfig.Memory != 32<<20 || got.HostConfig.MemorySwap != 64<<20 {
		t.Errorf("it shows %+v", got.HostConfig.Resources)
	}
}

// A container in the network of another has the other's name and files, and
// needs it to run.
func TestNetworkOfAnother(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	req := script("exec sleep 1000", named("first"))
	req.HostConfig.NetworkMode, req.Hostname = "bridge", "known"
	first := h.run(req)
	second := script("hostname; cat /etc/hosts", func(req *runner.CreateRequest) { req.HostConfig.NetworkMode = "container:first" })
	id := h.run(second)
	h.wait(id, container.WaitConditionNotRunning)
	own := h.state(first).Networks["bridge"].IPAddress.String()
	if out := h.logs(id); !strings.HasPrefix(out, "known\n") || !strings.Contains(out, own+"\tknown") {
		t.Errorf("it says %q", out)
	}
	h.must(h.StopContainer(t.Context(), first, runner.StopOptions{Timeout: new(0)}))
	err := h.StartContainer(t.Context(), id)
	if !errors.Is(err, runner.ErrConflict) || !strings.Contains(err.Error(), "cannot join network of a non running container: "+first) {
		t.Errorf("started without it: %v", err)
	}
}

// A stopped container's ports are free at once.
func TestPortsAreFreeAtOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	_, port, err := net.SplitHostPort(freeaddr.For(t))
	h.must(err)
	publish := func(req *runner.CreateRequest) {
		req.HostConfig.NetworkMode = "bridge"
		req.HostConfig.PortBindings = portOf(t, "80/tcp", port)
	}
	first, second := h.create(script("exec sleep 1000", publish)), h.create(script("exec sleep 1000", publish))
	for i := range 4 {
		a, b := first, second
		if i%2 == 1 {
			a, b = b, a
		}
		h.must(h.StartContainer(t.Context(), a))
		if err := h.StartContainer(t.Context(), b); err == nil || !strings.Contains(err.Error(), "port is already allocated") {
			t.Fatalf("a port was given twice: %v", err)
		}
		h.must(h.StopContainer(t.Context(), a, runner.StopOptions{Timeout: new(0)}))
	}
}

// What is asked of the engine for nothing is refused or let go in time.
func TestEventsAreBounded(t *testing.T) {
	l := newEventLog()
	for range 100 {
		m := event("create", "x")
		m.Actor.Attributes["label"] = strings.Repeat("x", 1<<20)
		l.publish(m)
	}
	past, _ := l.listen(time.Unix(1, 0))
	size := 0
	for _, m := range past {
		size += eventSize(m)
	}
	if size > eventsSize || len(past) == 0 {
		t.Errorf("%d events of %d bytes are remembered", len(past), size)
	}
	long := container.ExecCreateRequest{Cmd: []string{string(bytes.Repeat([]byte("ä"), 1<<20))}}
	if a := execAction("exec_create", long); len(a) > 5000 {
		t.Errorf("an event has %d bytes of a command", len(a))
	}
}
