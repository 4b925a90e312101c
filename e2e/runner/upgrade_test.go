package runner

import (
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestUpgrade puts another version of the runner in the place of one whose
// containers run: they are taken over, and whoever uses them does not notice.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	next := berthtest.Version(t, "berth-runner", "next")
	h.docker.Run("pull", "-q", h.image("busybox"))
	h.docker.Run("network", "create", "between")
	port := network.MustParsePort("80/tcp")
	script := "echo before; echo page >/page; httpd -p 80 -h /; while read line; do echo $line; done"
	id, err := h.api.run(t.Context(), spec{"web", h.image("busybox"), []string{"sh", "-c", script}, func(c *container.Config, hc *container.HostConfig) {
		c.OpenStdin, c.ExposedPorts = true, network.PortSet{port: {}}
		hc.PortBindings, hc.NetworkMode = network.PortMap{port: {{HostPort: "8080"}}}, "between"
	}})
	if err != nil {
		t.Fatal(err)
	}
	client := h.docker.Run("run", "-d", "--network", "between", h.image("busybox"), "sleep", "1000")
	if err := eventually(func() error { return fetch(h.Machine, "http://127.0.0.1:8080/page", "page\n") }); err != nil {
		t.Fatal(err)
	}
	was := h.processes(t.Context(), "web")
	answers := h.asks(t)

	h.Stop()
	h.Upgrade(next)
	h.Restart()

	if n := answers(); n < 10 {
		t.Errorf("the port was asked %d times only", n)
	}
	if got := h.docker.Run("version", "--format", "{{.Server.Version}}"); got != "next\n" {
		t.Errorf("the version is %q", got)
	}
	if now := h.processes(t.Context(), "web"); now != was {
		t.Errorf("%s has become %s", was, now)
	}
	if err := h.api.talk(t.Context(), id, "after\n", "after\n"); err != nil {
		t.Error(err)
	}
	if got := h.docker.Run("logs", "web"); got != "before\nafter\n" {
		t.Errorf("the log is %q", got)
	}
	if got := h.docker.Run("exec", strings.TrimSpace(client), "wget", "-qO-", "http://web/page"); got != "page\n" {
		t.Errorf("by its name it serves %q", got)
	}
	if got := h.docker.Run("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "web"); got != "web 2\n" {
		t.Errorf("the statistics are %q", got)
	}
	h.docker.Run("stop", "-t", "0", "web")
	if c, err := h.api.inspect(t.Context(), "web"); err != nil || c.State.ExitCode != 137 {
		t.Errorf("it has ended with %+v: %v", c.State, err)
	}
}

// asks has the port asked again and again, until what it returns is called, which
// says how often.
func (h *host) asks(t *testing.T) (end func() int) {
	var work sync.WaitGroup
	stop, asked := make(chan struct{}), 0
	work.Go(func() {
		for ; ; asked++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := fetch(h.Machine, "http://127.0.0.1:8080/page", "page\n"); err != nil {
				t.Errorf("answer %d: %v", asked, err)
			}
		}
	})
	return func() int {
		close(stop)
		work.Wait()
		return asked
	}
}
