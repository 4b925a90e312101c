package devices_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/devices"
)

const cards = `{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [
	{"name": "0", "containerEdits": {"env": ["CARD0=yes"], "deviceNodes": [{"path": "/dev/null"}]}},
	{"name": "1", "containerEdits": {"env": ["CARD1=yes"]}},
	{"name": "all", "containerEdits": {"env": ["CARDS=all"]}}
]}`

const things = `
cdiVersion: "0.6.0"
kind: "example.com/thing"
containerEdits: {env: ["KIND=thing"]}
devices:
  - name: one
    containerEdits:
      env: ["ONE=1"]
      deviceNodes: [{path: /dev/berth-zero, hostPath: /dev/zero, permissions: rw}]
      mounts: [{hostPath: /etc/hostname, containerPath: /opt/name, options: [ro, bind]}]
      hooks: [{hookName: createContainer, path: /bin/true, args: ["true"]}]
`

func open(t *testing.T, files map[string]string) *devices.Registry {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := devices.Open([]string{filepath.Join(dir, "missing"), dir})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newSpec() *specs.Spec {
	return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
}

func gpu(count int, ids ...string) container.DeviceRequest {
	return container.DeviceRequest{Count: count, DeviceIDs: ids, Capabilities: [][]string{{"gpu"}}}
}

func cdi(names ...string) container.DeviceRequest {
	return container.DeviceRequest{Driver: "cdi", DeviceIDs: names}
}

func TestGPUs(t *testing.T) {
	t.Parallel()
	r := open(t, map[string]string{"nvidia.json": cards})
	for _, test := range []struct {
		req  container.DeviceRequest
		want []string // variables, or the error
		fail string
	}{
		{req: gpu(-1), want: []string{"CARDS=all"}},
		{req: gpu(2), want: []string{"CARD0=yes", "CARD1=yes"}},
		{req: gpu(0, "1"), want: []string{"CARD1=yes"}},
		{req: gpu(0)},
		{req: container.DeviceRequest{Driver: "nvidia", Count: 1}, want: []string{"CARD0=yes"}},
		{req: container.DeviceRequest{Count: 1, Capabilities: [][]string{{"tpu"}, {"gpu", "utility"}}}, want: []string{"CARD0=yes"}},
		{req: gpu(3), fail: "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=2"},
		{req: gpu(1, "0"), fail: "cannot set both Count and DeviceIDs on device request"},
		{req: gpu(1 << 30), fail: "invalid count in device request: 1073741824"},
		{req: container.DeviceRequest{Count: 1, Capabilities: [][]string{{"tpu"}}}, fail: `could not select device driver "" with capabilities: [[tpu]]`},
		{req: container.DeviceRequest{Driver: "amd", Count: 1, Capabilities: [][]string{{"gpu"}}}, fail: `could not select device driver "amd" with capabilities: [[gpu]]`},
	} {
		s := newSpec()
		err := r.Inject(s, []container.DeviceRequest{test.req})
		switch {
		case test.fail != "":
			if err == nil || err.Error() != test.fail || !errors.Is(err, runner.ErrInvalid) {
				t.Errorf("%+v: %v, want %q", test.req, err, test.fail)
			}
		case err != nil || !slices.Equal(s.Process.Env, test.want):
			t.Errorf("%+v: environment %v, %v, want %v", test.req, s.Process.Env, err, test.want)
		}
	}
}

func TestInject(t *testing.T) {
	t.Parallel()
	r := open(t, map[string]string{"things.yaml": things, "nvidia.json": cards, "broken.json": "{"})
	names, problems := r.List()
	if want := []string{"example.com/thing=one", "nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=all"}; !slices.Equal(names, want) {
		t.Errorf("devices %v, want %v", names, want)
	}
	if len(problems) != 1 || !strings.Contains(problems[0], "broken.json") {
		t.Errorf("problems %v, want that of broken.json", problems)
	}
	s := newSpec()
	if err := r.Inject(s, []container.DeviceRequest{cdi("example.com/thing=one", "example.com/thing=one"), gpu(1)}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"KIND=thing", "ONE=1", "CARD0=yes"}; !slices.Equal(s.Process.Env, want) {
		t.Errorf("environment %v, want %v", s.Process.Env, want)
	}
	if len(s.Linux.Devices) != 2 || s.Linux.Devices[0].Path != "/dev/berth-zero" || s.Linux.Devices[0].Minor != 5 {
		t.Errorf("devices %+v", s.Linux.Devices)
	}
	if rules := s.Linux.Resources.Devices; len(rules) != 2 || rules[0].Access != "rw" {
		t.Errorf("rules of devices %+v", rules)
	}
	if len(s.Mounts) != 1 || s.Hooks == nil || len(s.Hooks.CreateContainer) != 1 {
		t.Errorf("mounts %+v, hooks %+v", s.Mounts, s.Hooks)
	}
	err := r.Inject(newSpec(), []container.DeviceRequest{cdi("example.com/thing=two")})
	if err == nil || !strings.Contains(err.Error(), "unresolvable CDI devices example.com/thing=two") || !strings.Contains(err.Error(), "broken.json") {
		t.Errorf("a device that is not there: %v", err)
	}
}

// TestChanges changes the descriptions behind the registry's back.
func TestChanges(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cdi")
	r, err := devices.Open([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	one := []container.DeviceRequest{cdi("example.com/thing=one")}
	if err := r.Inject(newSpec(), one); err == nil {
		t.Fatal("a device out of nothing")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "things.yaml"), []byte(things), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Inject(newSpec(), one); err != nil {
		t.Errorf("a device whose description has come: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := r.Inject(newSpec(), one); err == nil {
		t.Error("a device whose description has gone")
	}
}

func TestNone(t *testing.T) {
	t.Parallel()
	r, err := devices.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Inject(newSpec(), nil); err != nil {
		t.Error(err)
	}
	for _, req := range []container.DeviceRequest{cdi("example.com/thing=one"), gpu(-1)} {
		if err := r.Inject(newSpec(), []container.DeviceRequest{req}); !errors.Is(err, runner.ErrInvalid) ||
			!strings.HasPrefix(err.Error(), "could not select device driver") {
			t.Errorf("%+v: %v", req, err)
		}
	}
	for _, req := range []container.DeviceRequest{{Driver: "cdi", Count: 1}, {Driver: "cdi", Options: map[string]string{"a": "b"}}} {
		if err := devices.Check([]container.DeviceRequest{req}); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%+v: %v", req, err)
		}
	}
}
