package engine

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

// damage replaces a file of a container while no engine is there, and returns what puts
// it back.
func (h *host) damage(id, name, text string) (back func()) {
	h.t.Helper()
	path := filepath.Join(h.store.Dir(id), name)
	before, err := os.ReadFile(path)
	h.must(err)
	h.must(os.WriteFile(path, []byte(text), 0o600))
	return func() { h.must(os.WriteFile(path, before, 0o600)) }
}

// listed is a container of `docker ps -a`.
func (h *host) listed(id string) container.Summary {
	h.t.Helper()
	list, err := h.ListContainers(h.t.Context(), runner.ListOptions{All: true, Size: true})
	h.must(err)
	i := slices.IndexFunc(list, func(one container.Summary) bool { return one.ID == id })
	if i < 0 {
		h.t.Fatalf("it is not listed: %+v", list)
	}
	return list[i]
}

// fetch is what a server says.
func (h *host) fetch(url string) string {
	h.t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	h.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	h.must(err)
	return string(body)
}

// A container whose record is damaged runs on and keeps what it may need; it can be
// removed, or be as it was once the file is back.
func TestUnreadRecord(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	ctx := t.Context()
	for _, name := range []string{"mine", "others"} {
		_, err := h.CreateVolume(ctx, volume.CreateRequest{Name: name})
		h.must(err)
	}
	id := h.run(script("echo hello > /hello; httpd -p 80 -h /; echo ready; exec sleep 1000", named("web"), restarted("always", 0), func(req *runner.CreateRequest) {
		req.HostConfig.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: "mine", Target: "/mine"}}
		req.HostConfig.PortBindings = portOf(t, "80/tcp", "")
		req.HostConfig.NetworkMode = "bridge"
	}))
	h.saysReady(id)
	pid := h.state(id).PID
	address := "http://127.0.0.1:" + h.state(id).Ports[network.MustParsePort("80/tcp")][0].HostPort + "/hello"
	other := h.run(script("exec sleep 1000", named("other")))
	h.must(h.Close())
	back := h.damage(id, "record.json", `{"ID":"`+id+`","Name":"we`)
	h.open()

	if one := h.listed(id); one.State != container.StateDead || one.Status != "Dead" || one.Names[0] != "/"+id[:12] {
		t.Errorf("it is listed as %+v", one)
	}
	if _, err := os.Stat("/proc/" + itoa(pid)); err != nil {
		t.Errorf("what ran of it: %v", err)
	}
	if got := h.fetch(address); got != "hello\n" {
		t.Errorf("its port answers %q", got)
	}
	if st := h.state(other); st.Status != container.StateRunning {
		t.Errorf("the other is %s", st.Status)
	}
	_, inspected := h.InspectContainer(ctx, id[:12], false)
	for what, err := range map[string]error{
		"inspect": inspected,
		"start":   h.StartContainer(ctx, id),
		"stop":    h.StopContainer(ctx, id, runner.StopOptions{}),
		"rm":      h.RemoveContainer(ctx, id, runner.RemoveOptions{}),
	} {
		if !errors.Is(err, runner.ErrConflict) || !strings.Contains(err.Error(), "record.json cannot be read: unexpected end of JSON input; put the file back") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if u := h.users("sha256:another's"); len(u) != 1 || u[0].ContainerID != id {
		t.Errorf("an image that it may use is used by %+v", u)
	}
	_, err := h.PruneContainers(ctx, nil)
	h.must(err)
	pruned, err := h.PruneVolumes(ctx, runner.Filters{"all": {"true"}})
	if err != nil || len(pruned.VolumesDeleted) > 0 {
		t.Errorf("volumes that it may use: %+v, %v", pruned, err)
	}
	if err := h.RemoveVolume(ctx, "mine", true); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("a volume that it may use: %v", err)
	}

	// Its name is free meanwhile, and is not taken from who has it when the file is back.
	second := h.create(script("true", named("web")))
	h.must(h.Close())
	back()
	h.open()
	if st := h.state(id); st.Status != container.StateRunning || st.PID != pid {
		t.Errorf("with its file it is %+v", st)
	}
	if got := h.fetch(address); got != "hello\n" {
		t.Errorf("with its file its port answers %q", got)
	}
	if c, err := h.find("web"); err != nil || c.id != second {
		t.Errorf("web is %+v, %v", c, err)
	}
	if one := h.listed(id); one.Names[0] != "/"+id[:12] || len(one.Ports) != 2 {
		t.Errorf("it is listed as %+v", one)
	}
}

// A damaged container is removed by force, with its processes and its directory; then
// nothing is kept for it.
func TestUnreadIsRemoved(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	ctx := t.Context()
	_, err := h.CreateVolume(ctx, volume.CreateRequest{Name: "some"})
	h.must(err)
	h.must(h.TagImage(ctx, "busybox", "a.test/app", "v1"))
	ref, err := h.images.ParseRef("a.test/app:v1")
	h.must(err)
	sent, err := h.images.Export(ctx, ref, "")
	h.must(err)
	h.must(h.images.Pushed(ctx, ref, sent))
	id := h.run(script("exec sleep 1000", named("web")))
	pid := h.state(id).PID
	h.must(h.Close())
	h.damage(id, "record.json", "")
	h.damage(id, "state.json", "{")
	h.open()
	if used := h.ImagesInUse(ctx); len(used) != 1 || used[0].Name() != "a.test/app" {
		t.Errorf("in use is %v", used)
	}
	h.must(h.RemoveContainer(ctx, id, runner.RemoveOptions{Force: true}))
	if used := h.ImagesInUse(ctx); len(used) != 0 {
		t.Errorf("in use without it is %v", used)
	}
	if _, err := os.Stat("/proc/" + itoa(pid)); err == nil {
		t.Error("its process runs")
	}
	if _, err := os.Stat(h.store.Dir(id)); err == nil {
		t.Error("its directory is there")
	}
	h.must(h.RemoveVolume(ctx, "some", false))
	h.create(script("true", named(id[:12])))
}

// A container whose state is damaged is one whose host went down.
func TestUnreadState(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	again := h.run(script("exec sleep 1000", restarted("unless-stopped", 0)))
	once := h.run(script("exec sleep 1000"))
	pids := []int{h.state(again).PID, h.state(once).PID}
	h.must(h.Close())
	h.damage(again, "state.json", "\x00\x00\x00")
	h.damage(once, "state.json", "{}")
	h.open()
	for _, pid := range pids {
		if _, err := os.Stat("/proc/" + itoa(pid)); err == nil {
			t.Errorf("%d runs on without a place in a network", pid)
		}
	}
	h.eventually("the restart policy starts it", func() bool { return h.state(again).Status == container.StateRunning })
	if st := h.state(once); st.Status != container.StateExited || st.ExitCode != lostExit || !strings.Contains(st.Error, "state.json cannot be read") {
		t.Errorf("the other is %+v", st)
	}
	h.must(h.StartContainer(t.Context(), once))
}
