package runner

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// steady are containers that run all the time, whatever happens to the runner:
// one that counts, one that serves a page and one that answers.
type steady struct {
	host    *host
	ids     map[string]string // by name
	pids    map[string]int
	url     string
	counted int // what the counter is known to have said
	talked  int
}

const (
	steadyCounter = "steady-counter"
	steadyWeb     = "steady-web"
	steadyCat     = "steady-cat"
	steadyNetwork = "steady" // of the first two
)

func startSteady(h *host) *steady {
	h.t.Helper()
	s := &steady{host: h, ids: map[string]string{}, pids: map[string]int{}}
	if _, err := h.api.NetworkCreate(h.t.Context(), steadyNetwork, client.NetworkCreateOptions{}); err != nil {
		h.t.Fatal(err)
	}
	port := network.MustParsePort("80/tcp")
	for _, c := range []spec{
		{steadyCounter, "", []string{"sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"}, func(_ *container.Config, hc *container.HostConfig) { hc.NetworkMode = steadyNetwork }},
		{steadyWeb, "", []string{"sh", "-c", "echo page >/index.html; exec httpd -f -p 80 -h /"}, func(c *container.Config, hc *container.HostConfig) {
			c.ExposedPorts = network.PortSet{port: {}}
			hc.NetworkMode = steadyNetwork
			hc.PortBindings = network.PortMap{port: {{}}}
		}},
		{steadyCat, "", []string{"cat"}, func(c *container.Config, _ *container.HostConfig) { c.OpenStdin = true }},
	} {
		c.image = h.image("busybox")
		id, err := h.api.run(h.t.Context(), c)
		if err != nil {
			h.t.Fatal(err)
		}
		info, err := h.api.inspect(h.t.Context(), id)
		if err != nil {
			h.t.Fatal(err)
		}
		s.ids[c.name], s.pids[c.name] = id, info.State.Pid
		if c.name == steadyWeb {
			s.url = "http://127.0.0.1:" + info.NetworkSettings.Ports[port][0].HostPort + "/"
		}
	}
	s.unattended()
	return s
}

// has says whether a container is one of them.
func (s *steady) has(id string) bool {
	for _, own := range s.ids {
		if own == id {
			return true
		}
	}
	return false
}

// unattended checks what needs no runner: the page is served at the host's port.
func (s *steady) unattended() {
	s.host.t.Helper()
	if err := eventually(func() error { return fetch(s.host.Machine, s.url, "page\n") }); err != nil {
		s.host.t.Error(err)
	}
}

// check checks that nothing has happened to the containers, and that they can
// be talked to.
func (s *steady) check(ctx context.Context) {
	t, e := s.host.t, s.host.api
	t.Helper()
	for name, id := range s.ids {
		c, err := e.inspect(ctx, name)
		if err != nil || c.ID != id || c.State.Status != container.StateRunning || c.State.Pid != s.pids[name] {
			t.Errorf("%s is %+v: %v", name, c.State, err)
		}
	}
	s.unattended()
	if err := s.count(ctx); err != nil {
		t.Error(err)
	}
	s.talked++
	if err := e.talk(ctx, steadyCat, fmt.Sprintf("hello %d\n", s.talked), fmt.Sprintf("hello %d\n", s.talked)); err != nil {
		t.Error(err)
	}
	out, code, err := e.exec(ctx, steadyCounter, "sh", "-c", "cat /proc/1/comm; wget -q -O - http://"+steadyWeb+"; exit 9")
	if err != nil || code != 9 || out != "sh\npage\n" {
		t.Errorf("exec wrote %q and ended with %d: %v", out, code, err)
	}
}

// count checks that the log of the counter has every number from 1 on.
func (s *steady) count(ctx context.Context) error {
	text, err := s.host.api.logs(ctx, steadyCounter)
	if err != nil {
		return err
	}
	want := 0
	for line := range strings.Lines(text) {
		want++
		if line != strconv.Itoa(want)+"\n" {
			return fmt.Errorf("the log has %q where %d is to be", line, want)
		}
	}
	if want <= s.counted {
		return fmt.Errorf("the log ends at %d, and had %d before", want, s.counted)
	}
	s.counted = want
	return nil
}

// end removes the containers and their network.
func (s *steady) end() {
	for _, id := range s.ids {
		if err := s.host.api.remove(s.host.t.Context(), id); err != nil {
			s.host.t.Error(err)
		}
	}
	if _, err := s.host.api.NetworkRemove(s.host.t.Context(), steadyNetwork, client.NetworkRemoveOptions{}); err != nil {
		s.host.t.Error(err)
	}
}

// census is that of the host without what changes while the containers run:
// their logs are turned over, there are records of what was run in them, and
// the counter sleeps or not.
func (s *steady) census() berthtest.Census {
	s.host.t.Helper()
	return slices.DeleteFunc(s.host.Census(s.host.t), func(line string) bool {
		for _, id := range s.ids {
			if strings.Contains(line, "/"+id+"/logs/") || strings.HasSuffix(line, "/"+id+"/exec") {
				return true
			}
		}
		return ofLastStep(line) || strings.HasPrefix(line, "file "+s.host.Run+"/execs/") || line == "process sleep 0.02" || line == "zombie sleep" || strings.HasPrefix(line, "process sh -c i=0;")
	})
}

// fetch fetches a page on the machine.
func fetch(m *berthtest.Machine, url, want string) error {
	c := m.Client()
	defer c.CloseIdleConnections()
	res, err := c.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err == nil && string(got) != want {
		err = fmt.Errorf("%s is %q: want %q", url, got, want)
	}
	return err
}

// eventually calls fn until it succeeds, and returns its last error if it does
// not in a while.
func eventually(fn func() error) error { return within(15*time.Second, fn) }

// within is eventually with another patience.
func within(patience time.Duration, fn func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := fn()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
