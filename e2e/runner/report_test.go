package runner

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestReport has the runner tell the registry on its machine what it runs: an image
// without a tag stays as long as a container of it runs, through a restart of the
// runner, and then goes.
func TestReport(t *testing.T) {
	t.Parallel()
	m := berthtest.NewMachine(t, berthtest.MachineOptions{})
	h := &host{t: t, registry: berthtest.Start(t, berthtest.Options{Machine: m, Config: `
gc: {grace: 1ms, lease: 1ms, history: 0s, interval: 1h}
policy:
- {who: [anonymous], repos: ["**"], may: [pull, delete]}
- {who: [pusher], repos: ["**"], may: [pull, push]}
- {who: [host], repos: ["seedtest/*"], may: [pull]}
`})}
	berth := h.registry.Berth
	for _, name := range []string{"host", "pusher"} {
		berth("user", "add", name, "--password-stdin").Input("the password of " + name + "\n").Run()
	}
	seed(t, m, h.repository(""), "REGISTRY_USER=pusher", "REGISTRY_PASS=the password of pusher")
	password, config := filepath.Join(t.TempDir(), "password"), filepath.Join(t.TempDir(), "runner.yaml")
	for file, text := range map[string]string{
		password: "the password of host\n",
		config: fmt.Sprintf("registries: {%q: {report: true, username: host, password_file: %s}}\n",
			net.JoinHostPort("localhost", h.registry.Port()), password),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.Runner = berthtest.StartRunner(t, berthtest.RunnerOptions{Machine: m, Args: []string{"--config", config}})
	h.docker = h.Docker(t)

	runs := func(want int) {
		t.Helper()
		if err := eventually(func() error {
			if said := berth("nodes", "--json").Run(); !strings.Contains(said, fmt.Sprintf(`"running": %d`, want)) {
				return fmt.Errorf("want %d manifests that run: %s", want, said)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	runs(0)
	pull := func(name string) error {
		_, stderr, err := berthtest.NewCommand(t, "skopeo").On(m).Try("copy", "-q", "--insecure-policy", "--src-tls-verify=false",
			"docker://"+name, "dir:"+t.TempDir())
		return wrap(err, "skopeo copy %s: %s", name, stderr)
	}
	// It is an index: this and the manifest that was chosen of it are reported.
	h.docker.Run("run", "-d", "--name", "one", h.image("multi"), "sleep", "1000")
	index := strings.TrimSpace(h.docker.Run("image", "inspect", "-f", "{{index .RepoDigests 0}}", h.image("multi")))
	one, err := h.Client(t).ContainerInspect(t.Context(), "one", client.ContainerInspectOptions{})
	if err != nil || one.Container.ImageManifestDescriptor == nil {
		t.Fatalf("inspect: %+v, %v", one, err)
	}
	manifest := h.image("multi@" + one.Container.ImageManifestDescriptor.Digest.String())
	runs(2)
	for tag := range strings.Lines(berth("tags", h.image("multi")).Run()) {
		berth("rm", h.image("multi:"+strings.TrimSpace(tag))).Run()
	}
	there := func(when string) {
		t.Helper()
		berth("gc").Run()
		for _, name := range []string{index, manifest} {
			if err := pull(name); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	there("while the container runs")
	h.Stop()
	there("while there is no runner")
	h.Restart()
	h.docker = h.Docker(t)
	h.docker.Run("pause", "one")
	there("after a restart")
	h.docker.Run("unpause", "one")
	h.docker.Run("restart", "-t", "0", "one")
	there("when it was restarted")

	gone := func(when, name string) {
		t.Helper()
		said := berth("gc").Run()
		if err := pull(name); err == nil || !strings.Contains(err.Error(), "manifest unknown") {
			t.Errorf("%s, %s is there: %v; gc says %s", when, name, err, said)
		}
	}
	// An image that has lost its name here is still known by what the container has.
	h.docker.Run("rmi", "-f", h.image("multi"))
	runs(1)
	gone("without the name", index)
	if err := pull(manifest); err != nil {
		t.Error(err)
	}
	h.docker.Run("rm", "-f", "one")
	runs(0)
	gone("without the container", manifest)
	if log := h.Log(); !strings.Contains(log, "the registry keeps what runs here") || strings.Contains(log, "password of host") {
		t.Errorf("the runner's log: %s", log)
	}
}
