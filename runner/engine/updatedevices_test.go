package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

// disk is a disk of this machine, and its number.
func (h *host) disk() (path, number string) {
	h.t.Helper()
	found, err := filepath.Glob("/sys/block/*/size")
	h.must(err)
	for _, file := range found {
		dir := filepath.Dir(file)
		path := "/dev/" + filepath.Base(dir)
		size, err := os.ReadFile(file)
		h.must(err)
		number, err := os.ReadFile(filepath.Join(dir, "dev"))
		h.must(err)
		if _, err := os.Stat(path); err == nil && strings.TrimSpace(string(size)) != "0" {
			return path, strings.TrimSpace(string(number))
		}
	}
	h.t.Fatal("this machine has no disk")
	return "", ""
}

// TestUpdateDevices changes the limits of a device while a container runs, and while
// it does not. The kernel says what it has of them.
func TestUpdateDevices(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	path, number := h.disk()
	rate := func(n uint64) []*blkiodev.ThrottleDevice {
		return []*blkiodev.ThrottleDevice{{Path: path, Rate: n}}
	}
	id := h.run(script("echo ready; exec sleep 1000"))
	h.saysReady(id)
	update := func(r container.Resources) {
		t.Helper()
		_, err := h.UpdateContainer(t.Context(), id, container.UpdateConfig{Resources: r})
		h.must(err)
	}
	says := func(when, read, write string) {
		t.Helper()
		for file, want := range map[string]string{"read_bps": read, "write_iops": write} {
			if want != "" {
				want = number + " " + want
			}
			if got := h.kernel(id, "blkio/blkio.throttle."+file+"_device"); got != want {
				t.Errorf("%s: %s is %q, want %q", when, file, got, want)
			}
		}
	}
	update(container.Resources{BlkioDeviceReadBps: rate(1 << 20), BlkioDeviceWriteIOps: rate(100)})
	says("given", "1048576", "100")
	update(container.Resources{BlkioDeviceReadBps: rate(2 << 20)})
	says("one changed, the other left", "2097152", "100")
	update(container.Resources{BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{}})
	says("one cleared", "", "100")
	for _, wrong := range []container.Resources{
		{BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{nil}},
		{BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{{Path: "/dev/null", Rate: 1}}},
		{BlkioWeightDevice: []*blkiodev.WeightDevice{{Path: path, Weight: 5}}},
	} {
		if _, err := h.UpdateContainer(t.Context(), id, container.UpdateConfig{Resources: wrong}); err == nil {
			t.Errorf("%+v is taken", wrong)
		}
	}
	says("after what was refused", "", "100")
	h.must(h.StopContainer(t.Context(), id, runner.StopOptions{Timeout: new(0)}))
	update(container.Resources{BlkioDeviceReadBps: rate(4 << 20), BlkioDeviceWriteIOps: []*blkiodev.ThrottleDevice{}})
	h.must(h.StartContainer(t.Context(), id))
	says("updated while it did not run", "4194304", "")
}
