package runner

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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
	parallel int    // nodes at a time
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
	c := &crew{t: t, wire: berthtest.NewWire(t), hub: berthtest.NewMachine(t, berthtest.MachineOptions{}), docker: t.TempDir(), dir: t.TempDir(), parallel: 1}
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
x-berth: {rollout: {parallel: %d}}
`

// publish publishes a version of the stack, and returns its digest.
func (c *crew) publish(version, command string) string {
	c.t.Helper()
	file := filepath.Join(c.dir, "compose.yaml")
	c.write(file, fmt.Sprintf(fleetStack, c.registry.Addr, version, command, c.parallel))
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
	LastFailure *struct {
		Digest, Reason string
		Nodes          []struct {
			Name, Error string
			Log         []string
		}
	} `json:"last_failure"`
}

// rollout is how the rollout is, or why there is none to be told of.
func (c *crew) rollout() (r rolled, err error) {
	said, why, err := c.registry.Berth("rollout", "status", "--json", "--plain-http", c.ref()).Env("DOCKER_CONFIG=" + c.docker).Try()
	if err != nil {
		return r, fmt.Errorf("%w: %s", err, why)
	}
	err = json.Unmarshal([]byte(said), &r)
	return r, err
}

// rolls waits until the rollout is as is says, which is asked again and again.
func (c *crew) rolls(is func(rolled) bool) {
	c.t.Helper()
	const patience = time.Minute // for twenty nodes on two processors
	var r rolled
	err := within(patience, func() (err error) {
		if r, err = c.rollout(); err == nil && !is(r) {
			err = fmt.Errorf("the rollout is %+v", r)
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// converges waits until all nodes run a digest and serve a version of it, and the
// registry knows; but for those that are dead.
func (c *crew) converges(d, version string, dead ...string) {
	c.t.Helper()
	c.rolls(func(r rolled) bool {
		for _, n := range r.Nodes {
			if !slices.Contains(dead, n.Name) && (n.Running != d || n.State != "running") {
				return false
			}
		}
		return len(r.Nodes) == len(c.nodes)
	})
	for _, n := range c.nodes {
		if got := n.serves(); !slices.Contains(dead, n.name) && got != "seedtest web "+version {
			c.t.Errorf("%s serves %q, want version %s", n.name, got, version)
		}
	}
}

// returns waits until a digest that fails has been given up, for the one before.
func (c *crew) returns(bad, before string) {
	c.t.Helper()
	c.rolls(func(r rolled) bool { return r.Bad == bad && r.Digest == before })
}

// deployed returns the nodes that have deployed a digest, whatever came of it.
func (c *crew) deployed(d string) (list []*member) {
	c.t.Helper()
	for _, n := range c.nodes {
		if history := n.Berth(c.t, "history", "shop").Run(); strings.Contains(history, d[len("sha256:"):][:12]) {
			list = append(list, n)
		}
	}
	return list
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
	c.returns(bad, second)
	c.converges(second, "v2")
	tried := c.deployed(bad)
	if len(tried) != 1 {
		t.Errorf("%d nodes have deployed what fails", len(tried))
	}
	if r, err := c.rollout(); err != nil || r.LastFailure == nil || r.LastFailure.Digest != bad || len(r.LastFailure.Nodes) != 1 {
		t.Errorf("what failed last: %+v, %v", r.LastFailure, err)
	} else if n := r.LastFailure.Nodes[0]; len(tried) == 1 && n.Name != tried[0].name || n.Error == "" || !strings.Contains(strings.Join(n.Log, "\n"), "there is no database") {
		t.Errorf("what failed last: %+v", n)
	}
	for _, n := range tried {
		if log := n.Log(); !strings.Contains(log, "the version has failed") || !strings.Contains(log, "ended with 3") && !strings.Contains(log, "exit") {
			t.Errorf("%s logs %s", n.name, log)
		}
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
	err := eventually(func() error {
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
	if r, err := c.rollout(); err != nil || r.LastFailure == nil || r.LastFailure.Digest != bad {
		t.Errorf("after a restart of the registry, what failed last: %+v, %v", r.LastFailure, err)
	}
	c.wire.Plug(two.Machine)
	c.converges(first, "v1")
	c.rolls(func(r rolled) bool { return r.State == "done" && r.LastFailure == nil })

	// A tag that moves is acted on at once.
	c.publish("v2", "[/usr/bin/web]")
	began := time.Now()
	c.converges(second, "v2")
	t.Logf("two nodes took the version, one after the other, in %s", time.Since(began))
}
