package runner

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// crew is a registry on a machine of its own, and nodes that follow a tag there.
type crew struct {
	t        *testing.T
	wire     *berthtest.Wire
	hub      *berthtest.Machine
	registry *berthtest.Server
	docker   string // configuration, with the login of who publishes
	dir      string // of the stack
	nodes    []*member
}

// member is a node of a crew.
type member struct {
	*berthtest.Runner
	name string
	web  *http.Client
}

// newCrew starts a registry that has the images of the acceptance test, and lets
// pusher push and node pull.
func newCrew(t *testing.T) *crew {
	t.Helper()
	c := &crew{t: t, wire: berthtest.NewWire(t), hub: berthtest.NewMachine(t, berthtest.MachineOptions{}), docker: t.TempDir(), dir: t.TempDir()}
	c.registry = berthtest.Start(t, berthtest.Options{Machine: c.hub, Addr: c.wire.Plug(c.hub) + ":5000", Env: []string{"BERTH_LOG_ACCESS=false"}, Config: `
policy:
- {who: [pusher], repos: ["**"], may: [pull, push]}
- {who: [node], repos: ["seedtest/*", "stacks/*"], may: [pull]}
`})
	for _, name := range []string{"pusher", "node"} {
		c.registry.Berth("user", "add", name, "--password-stdin").Input("the password of " + name + "\n").Run()
	}
	seed(t, c.hub, c.registry.Addr, "REGISTRY_USER=pusher", "REGISTRY_PASS=the password of pusher")
	login := base64.StdEncoding.EncodeToString([]byte("pusher:the password of pusher"))
	c.write(filepath.Join(c.docker, "config.json"), fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, c.registry.Addr, login))
	return c
}

func (c *crew) write(file, text string) {
	c.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crew) ref() string { return c.registry.Addr + "/stacks/shop:prod" }

// join starts a node that follows.
func (c *crew) join(name, labels string) *member {
	c.t.Helper()
	m := berthtest.NewMachine(c.t, berthtest.MachineOptions{})
	c.wire.Plug(m)
	dir := c.t.TempDir()
	c.write(filepath.Join(dir, "password"), "the password of node\n")
	c.write(filepath.Join(dir, "runner.yaml"), fmt.Sprintf("registries: {%q: {username: node, password_file: %s/password}}\n"+
		"report: {name: %s}\nnode: {labels: {%s}, interval: 1s}\nfollow: %s\n", c.registry.Addr, dir, name, labels, c.ref()))
	n := &member{name: name, web: m.Client(), Runner: berthtest.StartRunner(c.t, berthtest.RunnerOptions{
		Machine: m, Args: []string{"--config", filepath.Join(dir, "runner.yaml")},
	})}
	c.nodes = append(c.nodes, n)
	return n
}

// serves returns what users of a node get.
func (n *member) serves() string {
	resp, err := n.web.Get("http://127.0.0.1:8080/")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	defer n.web.CloseIdleConnections()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(body))
}

const fleetStack = `name: shop
services:
  web:
    image: %s/seedtest/web:%s
    ports: ["8080:8080"]
    command: %s
    deploy: {update_config: {monitor: 300ms}}
    stop_grace_period: 1s
`

// publish publishes a version of the stack, and returns its digest.
func (c *crew) publish(version, command string) string {
	c.t.Helper()
	file := filepath.Join(c.dir, "compose.yaml")
	c.write(file, fmt.Sprintf(fleetStack, c.registry.Addr, version, command))
	said := c.nodes[0].Berth(c.t, "publish", "--json", "-f", file, c.ref()).On(c.hub).Env("DOCKER_CONFIG=" + c.docker).Run()
	var out struct{ Digest string }
	if err := json.Unmarshal([]byte(said), &out); err != nil {
		c.t.Fatalf("publish says %s: %v", said, err)
	}
	return out.Digest
}

// rolled is what the registry knows of a rollout.
type rolled struct {
	Digest, Bad, State, Reason string
	Nodes                      []struct {
		Name, Running, State, Error string
		Failed                      bool
		Log                         []string
	}
}

func (c *crew) rollout(args ...string) rolled {
	c.t.Helper()
	args = append(append([]string{"rollout"}, args...), "--json", "--plain-http", c.ref())
	said := c.registry.Berth(args...).Env("DOCKER_CONFIG=" + c.docker).Run()
	var r rolled
	if err := json.Unmarshal([]byte(said), &r); err != nil {
		c.t.Fatalf("rollout says %s: %v", said, err)
	}
	return r
}

// converges waits until all nodes run a digest and serve a version of it, and the
// registry knows.
func (c *crew) converges(d, version string) {
	c.t.Helper()
	err := eventually(func() error {
		r := c.rollout("status")
		for _, n := range r.Nodes {
			if n.Running != d || n.State != "running" {
				return fmt.Errorf("%s is not at %s: %+v", n.Name, d, r)
			}
		}
		for _, n := range c.nodes {
			if got := n.serves(); len(r.Nodes) != len(c.nodes) || got != "seedtest web "+version {
				return fmt.Errorf("%s serves %q: %+v", n.name, got, r)
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// TestFleet has nodes follow a tag: through a version that fails, while the registry is
// away, and while a node is.
func TestFleet(t *testing.T) {
	t.Parallel()
	c := newCrew(t)
	one := c.join("one", "role: web")
	first := c.publish("v1", "[/usr/bin/web]") // the node is there already: it is told
	two := c.join("two", "role: web")
	c.converges(first, "v1")
	if again := c.publish("v1", "[/usr/bin/web]"); again != first {
		t.Errorf("the same stack is %s, and was %s", again, first)
	}

	second := c.publish("v2", "[/usr/bin/web]")
	c.converges(second, "v2")

	// One that fails stops at the first, and they all return.
	bad := c.publish("v1", `[sh, -c, "echo there is no database >&2; exit 3"]`)
	var r rolled
	err := eventually(func() error {
		if r = c.rollout("status"); r.Bad != bad || r.Digest != second {
			return fmt.Errorf("the rollout is %+v", r)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.converges(second, "v2")
	deployed := 0
	for _, n := range c.nodes {
		if history := n.Berth(t, "history", "shop").Run(); strings.Contains(history, bad[len("sha256:"):][:12]) {
			deployed++
			if log := n.Log(); !strings.Contains(log, "the version has failed") || !strings.Contains(log, "ended with 3") && !strings.Contains(log, "exit") {
				t.Errorf("%s logs %s", n.name, log)
			}
		}
	}
	if deployed != 1 {
		t.Errorf("%d nodes have deployed what fails", deployed)
	}

	// Without the registry all goes on; whoever restarts serves again what it had.
	c.registry.Kill()
	c.wire.Unplug(two.Machine)
	one.Kill()
	one.Restart()
	for _, n := range c.nodes {
		if got := n.serves(); got != "seedtest web v2" {
			t.Errorf("without the registry, %s serves %q", n.name, got)
		}
	}
	c.registry.Restart()
	third := c.publish("v1", "[/usr/bin/web]")
	if third != first {
		t.Errorf("the first stack is %s now, and was %s", third, first)
	}
	err = eventually(func() error {
		if got := one.serves(); got != "seedtest web v1" {
			return fmt.Errorf("one serves %q", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := two.serves(); got != "seedtest web v2" {
		t.Errorf("unplugged, two serves %q", got)
	}
	c.wire.Plug(two.Machine)
	c.converges(first, "v1")

	// A tag that moves is acted on at once.
	c.publish("v2", "[/usr/bin/web]")
	began := time.Now()
	c.converges(second, "v2")
	t.Logf("two nodes took the version, one after the other, in %s", time.Since(began))
}
