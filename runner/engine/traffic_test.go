package engine

import (
	"bufio"
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

// Traffic goes where it is told to, over restarts of the engine and of containers,
// and not to one that was removed.
func TestTraffic(t *testing.T) {
	h := newHost(t)
	serving := func(name string) string {
		req := script("exec nc -ll -p 80 -e /bin/echo "+name, named(name))
		req.HostConfig.NetworkMode = "bridge"
		return h.run(req)
	}
	blue, green := serving("blue"), serving("green")
	web := runner.Service{Name: "web", Ports: portOf(t, "80/tcp", ""), Backends: []runner.Backend{{Container: blue, Weight: 1}}}
	set := func() string {
		t.Helper()
		given, err := h.SetTraffic(t.Context(), "stack/shop", []runner.Service{web})
		h.must(err)
		for _, bindings := range given["web"] {
			return net.JoinHostPort("127.0.0.1", bindings[0].HostPort)
		}
		t.Fatal("no port")
		return ""
	}
	addr := set()
	answers := func(want string) {
		t.Helper()
		h.eventually("an answer of "+want, func() bool {
			c, err := net.DialTimeout("tcp", addr, time.Second)
			if err != nil {
				return false
			}
			defer c.Close()
			h.must(c.SetDeadline(time.Now().Add(5 * time.Second)))
			line, _ := bufio.NewReader(c).ReadString('\n')
			return strings.TrimSpace(line) == want
		})
	}
	answers("blue")
	web.Backends = []runner.Backend{{Container: blue, Weight: 0}, {Container: green, Weight: 1}}
	if got := set(); got != addr {
		t.Errorf("the service is at %s, was at %s", got, addr)
	}
	answers("green")
	h.reopen()
	answers("green")
	if got, err := h.Traffic(t.Context(), "stack/shop"); err != nil || !reflect.DeepEqual(got, []runner.Service{web}) {
		t.Errorf("the traffic is %+v (%v), was %+v", got, err, web)
	}
	at := 0
	h.must(h.StopContainer(t.Context(), green, runner.StopOptions{Signal: "SIGKILL", Timeout: &at}))
	if c, err := net.Dial("tcp", addr); err == nil {
		t.Error("one that has ended is reached")
		_ = c.Close()
	}
	h.must(h.StartContainer(t.Context(), green))
	answers("green")
	if n, err := h.Connections(t.Context(), blue); n != 0 || err != nil {
		t.Errorf("%d connections (%v)", n, err)
	}
	h.must(h.RemoveContainer(t.Context(), blue, runner.RemoveOptions{Force: true}))
	if got, err := h.Traffic(t.Context(), "stack/shop"); err != nil || !reflect.DeepEqual(got[0].Backends, web.Backends[1:]) {
		t.Errorf("one is removed: %+v (%v)", got, err)
	}
	if _, err := h.SetTraffic(t.Context(), "stack/shop", []runner.Service{web}); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("a backend that is not there: %v", err)
	}
	answers("green")
}

// A check is run at once, and says nothing of the container's health.
func TestProbeContainer(t *testing.T) {
	h := newHost(t)
	id := h.run(script("exec sleep 1000", func(req *runner.CreateRequest) {
		req.Healthcheck = &container.HealthConfig{
			Test: []string{"CMD-SHELL", "echo asked; test -e /tmp/fine"}, Interval: time.Hour, Timeout: time.Second,
		}
	}))
	probe := func(want int) {
		t.Helper()
		code, output, err := h.ProbeContainer(t.Context(), id)
		if code != want || output != "asked\n" || err != nil {
			t.Errorf("the check answers %d %q (%v), want %d", code, output, err, want)
		}
	}
	probe(1)
	h.exec(id, "touch", "/tmp/fine")
	probe(0)
	if c, err := h.InspectContainer(t.Context(), id, false); err != nil || c.State.Health.Status != container.Starting || len(c.State.Health.Log) != 0 {
		t.Errorf("the health is %+v (%v)", c.State.Health, err)
	}
	h.must(h.StopContainer(t.Context(), id, runner.StopOptions{Signal: "SIGKILL"}))
	if _, _, err := h.ProbeContainer(t.Context(), id); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("one that does not run: %v", err)
	}
	none := h.run(script("exec sleep 1000"))
	for _, ref := range []string{none, "nobody"} {
		if _, _, err := h.ProbeContainer(t.Context(), ref); !errors.Is(err, runner.ErrNotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}
