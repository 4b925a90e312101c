package runner

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/e2e/berthtest"
)

// steadyStack is a stack of the program steady: what it says is its VERSION.
const steadyStack = `name: steady
services:
  web:
    image: ${IMAGE}
    environment: {VERSION: "${VERSION}", FAULT: "${FAULT}"}
    ports: ["8080:8080", "8081:8081"]
    healthcheck: {test: [CMD, /steady, health], interval: 500ms, timeout: 10s, retries: 3}
    stop_grace_period: 30s
    x-berth: {drain: 2s}
    labels: {berth.edge.host: steady.test, berth.edge.port: "8080", berth.edge.tls: "off"}
    deploy:
      replicas: 2
      update_config: {monitor: "${MONITOR}"}
`

// loaded is that stack on a host, with clients that go on all the time.
type loaded struct {
	*host

	dir, image string
	clients    []*clients
}

// newLoaded has a host whose registry has the program steady in an image.
func newLoaded(t *testing.T) *loaded {
	t.Helper()
	config := filepath.Join(t.TempDir(), "runner.yaml")
	if err := os.WriteFile(config, []byte("edge: {http: \":8000\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	berthtest.Binary(t, "berth-edge") // is looked for beside the runner
	s := &loaded{host: newHost(t, berthtest.MachineOptions{}, "--config", config), dir: t.TempDir()}
	s.image = s.repository("steady")
	program := berthtest.Program(t, "e2e/steady")
	berthtest.NewCommand(t, "cp").Run(program, filepath.Join(s.dir, "steady"))
	for name, content := range map[string]string{
		"Dockerfile": "FROM scratch\nCOPY steady /\nCMD [\"/steady\"]\n", "compose.yaml": steadyStack,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.docker.Run("build", "--quiet", "--tag", s.image, s.dir)
	s.docker.Run("push", "--quiet", s.image)
	return s
}

// clients are a process of the machine that asks, as "steady load" does.
type clients struct {
	name, summary string
	stop          func(os.Signal) int
}

// load starts clients; they are expected to see no failure.
func (s *loaded) load(name string, args ...string) {
	s.t.Helper()
	c := &clients{name: name, summary: filepath.Join(s.t.TempDir(), "summary")}
	c.stop = berthtest.NewCommand(s.t, filepath.Join(s.dir, "steady"), "load", "-summary", c.summary).On(s.Machine).Service(func(log string) error {
		if !strings.Contains(log, "load begins") {
			return fmt.Errorf("it says %q", log)
		}
		return nil
	}, args...)
	s.clients = append(s.clients, c)
}

// end ends all clients, and fails the test if a request of one failed.
func (s *loaded) end() {
	s.t.Helper()
	for _, c := range s.clients {
		code := c.stop(syscall.SIGTERM)
		said, err := os.ReadFile(c.summary)
		if code != 0 || err != nil {
			s.t.Errorf("clients %s end with %d, %v: %s", c.name, code, err, said)
		}
		s.t.Logf("clients %s: %s", c.name, said)
	}
}

// command is the berth-runner command for a version of the stack.
func (s *loaded) command(version, fault, monitor string, args ...string) *berthtest.Command {
	return s.Berth(s.t, args...).Dir(s.dir).Env("IMAGE="+s.image, "VERSION="+version, "FAULT="+fault, "MONITOR="+monitor)
}

// deploy deploys a version, after which only that answers.
func (s *loaded) deploy(version string) {
	s.t.Helper()
	s.command(version, "", "100ms", "deploy").Run()
	s.serves(version)
}

// serves fails the test if anything but one version answers those who come now.
func (s *loaded) serves(want string) {
	s.t.Helper()
	c := s.Machine.Client()
	for range 5 {
		for _, port := range []string{"8080", "8000"} {
			if got := s.ask(c, port); got != want {
				s.t.Errorf("port %s is answered by version %q, want %q", port, got, want)
			}
		}
		c.CloseIdleConnections()
	}
}

// status is how the stack is.
func (s *loaded) status() (st deploy.Status) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.command("", "", "1s", "status", "steady", "--json").Run()), &st); err != nil {
		s.t.Fatal(err)
	}
	return st
}

// TestDeployUnderLoad deploys a stack again and again, back, broken, and with a daemon
// that is killed at any time, while clients ask it without pause: none is failed.
func TestDeployUnderLoad(t *testing.T) {
	t.Parallel()
	s := newLoaded(t)
	s.deploy("v0")
	s.begin()
	for i := range 20 {
		s.deploy(fmt.Sprintf("v%d", i+1))
	}
	s.command("", "", "1s", "rollback", "steady").Run()
	s.serves("v19")
	s.broken()
	s.end()
	s.begin()
	s.killed()
	s.end()
}

// begin starts the clients.
func (s *loaded) begin() {
	s.t.Helper()
	s.clients = nil
	s.load("of the port", "-http", "http://127.0.0.1:8080/", "-tcp", "127.0.0.1:8081")
	s.load("of the edge", "-http", "http://steady.test/", "-via", "127.0.0.1:8000", "-keep", "20", "-new", "20")
}

// broken deploys versions that fail before they get traffic, or after.
func (s *loaded) broken() {
	s.t.Helper()
	for fault, want := range map[string]string{
		"exit": `the last lines of steady-web-r\d+-\d:\n(.*\n)*.*it is broken\n(.*\n)*.*ended with exit code 3`,
		"sick": `not healthy|unhealthy|health check`,
		"late": `ended with exit code 4`,
	} {
		out, errOut, err := s.command("broken", fault, "2s", "deploy").Try()
		if err == nil || !regexp.MustCompile(want).MatchString(out+errOut) {
			s.t.Errorf("a version that is broken by %q: %v\n%s%s", fault, err, out, errOut)
		}
		s.serves("v19")
	}
}

// killed kills the daemon while versions are deployed: each time one of the two
// versions has all the traffic in the end, and the daemon knows which.
func (s *loaded) killed() {
	s.t.Helper()
	const kills = 10
	serving, until := "v19", time.Now().Add(*soak)
	for i := 0; i < kills || time.Now().Before(until); i++ {
		serving = s.cutShort(fmt.Sprintf("k%d", i), serving, func() {
			s.Kill()
			s.Restart()
		})
	}
}

// TestDeployReboot takes the power from a host while versions are deployed: each time
// one of the two versions has all the traffic in the end.
func TestDeployReboot(t *testing.T) {
	t.Parallel()
	s := newLoaded(t)
	s.deploy("v0")
	serving := "v0"
	const reboots = 4
	for i := range reboots {
		serving = s.cutShort(fmt.Sprintf("b%d", i), serving, s.reboot)
	}
}

// cutShort has something happen anywhere in the deployment of a version, and returns
// which of the two serves then.
func (s *loaded) cutShort(next, serving string, happens func()) string {
	s.t.Helper()
	s.command(next, "", "100ms", "deploy", "--detach").Run()
	time.Sleep(rand.N(800 * time.Millisecond))
	happens()
	if err := eventually(func() error {
		if st := s.status(); st.Deploying != 0 || len(st.Drift) > 0 {
			return fmt.Errorf("it does not come to rest: %+v", st)
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	if got := s.ask(s.Machine.Client(), "8080"); got == next {
		serving = next
	}
	s.serves(serving)
	return serving
}

// ask returns the version that answers at a port of the machine.
func (s *loaded) ask(c *http.Client, port string) string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://127.0.0.1:"+port+"/", http.NoBody)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Host = "steady.test"
	resp, err := c.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}
