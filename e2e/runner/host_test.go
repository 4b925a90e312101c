package runner

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// host is a machine with a registry and a runner, as make run starts them.
type host struct {
	*berthtest.Runner
	t        *testing.T
	registry *berthtest.Server
	api      engine
	docker   *berthtest.Command
}

// newHost starts a host whose registry has the images of the acceptance test.
func newHost(t *testing.T, o berthtest.MachineOptions, args ...string) *host {
	t.Helper()
	return newHostOn(t, berthtest.NewMachine(t, o), args...)
}

// newHostOn is newHost on a machine that is there.
func newHostOn(t *testing.T, m *berthtest.Machine, args ...string) *host {
	t.Helper()
	h := &host{t: t, registry: berthtest.Start(t, berthtest.Options{Machine: m, Env: []string{"BERTH_LOG_ACCESS=false"}})}
	seed(t, m, h.repository(""))
	h.Runner = berthtest.StartRunner(t, berthtest.RunnerOptions{Machine: m, Args: args})
	h.api, h.docker = engine{h.Client(t)}, h.Docker(t)
	return h
}

// seed pushes the images of the acceptance test to a registry on the machine.
func seed(t *testing.T, m *berthtest.Machine, registry string, env ...string) {
	t.Helper()
	berthtest.NewCommand(t, "bash", acceptance(t, "seed-images.sh")).On(m).Env(env...).Run(strings.TrimSuffix(registry, "/"))
}

// acceptance is the path of a file of the acceptance test, which lies beside the
// source.
func acceptance(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(berthtest.ModuleRoot(t), "..", "shared", "acceptance", name)
}

// repository is the name of a repository of the host's registry.
func (h *host) repository(name string) string { return "localhost:" + h.registry.Port() + "/" + name }

// image is the name of one of the images of the acceptance test.
func (h *host) image(name string) string { return h.repository("seedtest/" + name) }
