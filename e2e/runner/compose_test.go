package runner

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestCompose has the real Compose run the project of testdata/compose, through
// all that a project goes through, and leave nothing.
func TestCompose(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	h.docker.Run("pull", "-q", h.image("busybox"))
	h.docker.Run("pull", "-q", h.image("web:v1"))
	p := h.project(t)
	h.built()
	before := withoutHistory(h.usedCensus())
	p.config(t)
	p.up(t)
	t.Run("services", p.services)
	t.Run("settings", p.settings)
	t.Run("names", p.names)
	t.Run("commands", p.commands)
	t.Run("logs and events", p.logsAndEvents)
	t.Run("life", p.life)
	t.Run("scale", p.scale)
	t.Run("changes", p.changes)
	t.Run("profiles", p.profiles)
	t.Run("watch", p.watch)
	p.down(t)
	h.docker.Run("builder", "prune", "--all", "--force")
	berthtest.Settle(t, before, func() berthtest.Census { return withoutHistory(h.Census(t)) })
}

// project is a project of Compose on a host.
type project struct {
	*host

	compose *berthtest.Command
	dir     string
	home    string   // directory of docker's configuration
	args    []string // that run Compose
}

// project returns that of testdata/compose, in a directory of its own.
func (h *host) project(t *testing.T) *project {
	t.Helper()
	config, dir := filepath.Join(t.TempDir(), "docker"), filepath.Join(t.TempDir(), "shop")
	pluginsTo(t, config)
	if err := os.Symlink(berthtest.Tool(t, "docker-compose"), filepath.Join(config, "cli-plugins", "docker-compose")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS("testdata/compose")); err != nil {
		t.Fatal(err)
	}
	p := &project{host: h, dir: dir, home: config, args: []string{"--config", config, "--host", "unix:///run/berth/runner.sock", "compose", "--ansi", "never", "--progress", "plain"}}
	p.compose = p.on(berthtest.NewCommand(t, "docker", p.args...))
	return p
}

// on sets where a command runs: on the machine, where what Compose mounts and
// publishes is. What "watch" locks a project with is its own: a run that was killed
// leaves it, and the process that it names may be another by then.
func (p *project) on(c *berthtest.Command) *berthtest.Command {
	return c.On(p.Machine).Dir(p.dir).Env("DOCKER_CONFIG="+p.home, "XDG_RUNTIME_DIR=", "DOCKER_CLI_HINTS=false", "COMPOSE_MENU=false", "REGISTRY="+strings.TrimSuffix(p.repository(""), "/"))
}

// withoutHistory is a census without what BuildKit has noted of a build: it keeps it
// for five minutes, whoever wants it gone.
func withoutHistory(c berthtest.Census) berthtest.Census {
	return slices.DeleteFunc(c, func(line string) bool { return strings.Contains(line, "/build/content/blobs/") })
}

// followed is a command that goes on until the test ends, and what it says.
type followed struct {
	t    *testing.T
	file string
}

// follow starts a command of Compose.
func (p *project) follow(t *testing.T, args ...string) *followed {
	t.Helper()
	f := &followed{t, filepath.Join(t.TempDir(), "said")}
	p.on(berthtest.NewCommand(t, "sh", "-c", `f=$1; shift; exec docker "$@" >"$f" 2>&1`, "sh", f.file)).
		Service(func(string) error { return nil }, slices.Concat(p.args, args)...)
	return f
}

// has waits until the command has said something, in one line.
func (f *followed) has(words ...string) {
	f.t.Helper()
	if err := eventually(func() error {
		text, _ := os.ReadFile(f.file) // which may not be there yet
		for line := range strings.Lines(string(text)) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return nil
			}
		}
		return fmt.Errorf("no line has %q:\n%s", words, text)
	}); err != nil {
		f.t.Error(err)
	}
}

// said runs a command of Compose and returns what it says on both outputs.
func (p *project) said(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, err := p.compose.Try(args...)
	if err != nil {
		t.Fatalf("compose %v: %v\n%s%s", args, err, out, errs)
	}
	return out + errs
}

func (p *project) config(t *testing.T) {
	t.Helper()
	if out := p.compose.Run("config", "--services"); strings.Count(out, "\n") != 5 {
		t.Errorf("config --services: %s", out)
	}
	if out := p.said(t, "config"); !strings.Contains(out, "GREETING: hello from shop") || !strings.Contains(out, "COLOUR: blue") {
		t.Errorf("config: %s", out)
	}
}

func (p *project) up(t *testing.T) {
	t.Helper()
	p.said(t, "up", "--detach", "--build", "--wait", "--wait-timeout", "120")
}

// row is a line of ps.
type row struct {
	Name, Service, State, Health string
	ExitCode                     int
	Publishers                   []struct {
		URL                       string
		TargetPort, PublishedPort int
	}
}

// ps lists the containers by name.
func (p *project) ps(t *testing.T, args ...string) map[string]row {
	t.Helper()
	rows := map[string]row{}
	for line := range strings.Lines(p.said(t, append([]string{"ps", "--format", "json"}, args...)...)) {
		var r row
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		rows[r.Name] = r
	}
	return rows
}

func (p *project) services(t *testing.T) {
	rows := p.ps(t, "--all")
	var got []string
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		got = append(got, strings.TrimSpace(fmt.Sprint(name, " ", rows[name].State, " ", rows[name].Health)))
	}
	want := []string{"shop-app-1 running healthy", "shop-db-1 running healthy", "shop-migrate-1 exited", "shop-proxy-1 running", "shop-worker-1 running", "shop-worker-2 running"}
	if !slices.Equal(got, want) {
		t.Errorf("ps: %q", got)
	}
	if out := p.said(t, "ls", "--format", "json"); !strings.Contains(out, `"Status":"running(5)"`) {
		t.Errorf("ls: %s", out)
	}
	if out := p.said(t, "images", "--format", "json"); !strings.Contains(out, `"shop-app"`) || !strings.Contains(out, `seedtest/web`) {
		t.Errorf("images: %s", out)
	}
}

// in runs a command of a shell in a service.
func (p *project) in(t *testing.T, service, command string) string {
	t.Helper()
	return strings.TrimSpace(p.said(t, "exec", "-T", service, "sh", "-c", command))
}

// settings checks that what the file says is so.
func (p *project) settings(t *testing.T) {
	for _, c := range []struct{ service, command, want string }{
		{"app", "cat /etc/motd; ls -l /etc/motd | cut -c -10", "welcome to shop\n-r--r--r--"},
		{"app", "echo $COLOUR, $GREETING", "blue, hello from shop"},
		{"app", "ulimit -Sn; ulimit -Hn", "1000\n2000"},
		{"app", "df -k /scratch | tail -1 | awk '{print $1, $2}'", "tmpfs 1024"},
		{"app", "grep -c '192.0.2.7\tfar' /etc/hosts; grep -q '[0-9]\tgate' /etc/hosts", "1"},
		{"db", "cat /run/secrets/password /data/password /data/migrated", "hushhushhush"},
		{"db", "cat /proc/1/comm; test $HOSTNAME && echo named", "docker-init\nnamed"},
	} {
		if got := p.in(t, c.service, c.command); got != c.want {
			t.Errorf("%s: %s: %q, want %q", c.service, c.command, got, c.want)
		}
	}
	for container, fields := range map[string]map[string]string{
		"shop-db-1": {
			"{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}": "67108864 500000000 50",
			"{{.HostConfig.RestartPolicy.Name}}":                                        "unless-stopped",
		},
		"shop-app-1": {
			`{{index .Config.Labels "com.example.role"}}`:                     "front",
			"{{.HostConfig.LogConfig.Type}} {{.HostConfig.LogConfig.Config}}": "json-file map[max-file:2 max-size:1m]",
		},
	} {
		for format, want := range fields {
			if got := strings.TrimSpace(p.docker.Run("inspect", "--format", format, container)); got != want {
				t.Errorf("%s: %s: %q, want %q", container, format, got, want)
			}
		}
	}
	if got := strings.TrimSpace(p.docker.Run("volume", "inspect", "--format", `{{index .Labels "com.example.kept"}}`, "shop_data")); got != "no" {
		t.Errorf("the label of the volume: %q", got)
	}
}

// names checks who finds whom.
func (p *project) names(t *testing.T) {
	const quiet = " >/dev/null 2>&1 && echo found || echo not"
	for _, c := range []struct{ service, name, want string }{
		{"worker", "db", "found"},
		{"worker", "store", "found"},
		{"worker", "shop-worker-2", "found"},
		{"worker", "proxy", "not"},
		{"app", "proxy", "found"},
		{"app", "store", "found"},
		{"proxy", "app", "found"},
		{"proxy", "db", "not"},
		{"proxy", "store", "not"},
	} {
		if got := p.in(t, c.service, "nslookup "+c.name+quiet); got != c.want {
			t.Errorf("%s is %s by %s, want %s", c.name, got, c.service, c.want)
		}
	}
	if got := p.in(t, "app", "wget -q -O - http://proxy:8080/"); got != "seedtest web v1" {
		t.Errorf("app reads from proxy: %q", got)
	}
	if got := p.in(t, "worker", "ip route | grep -c default || true"); got != "0" {
		t.Errorf("an internal network has %s default routes", got)
	}
	curl := berthtest.NewCommand(t, "curl", "-sS", "--max-time", "10").On(p.Machine)
	at := strings.Replace(strings.TrimSpace(p.said(t, "port", "proxy", "8080")), "0.0.0.0", "127.0.0.1", 1)
	if got := curl.Run("http://" + at); got != "seedtest web v1\n" {
		t.Errorf("at %s: %q", at, got)
	}
	if got := curl.Run("http://127.0.0.1:8088"); got != "seedtest web v1\n" {
		t.Errorf("at 8088: %q", got)
	}
}

// commands are those that ask something of a service.
func (p *project) commands(t *testing.T) {
	if out := p.said(t, "top", "worker"); strings.Count(out, "sleep infinity") < 2 {
		t.Errorf("top: %s", out)
	}
	if out := p.said(t, "stats", "--no-stream", "--format", "{{.Name}}"); strings.Count(out, "shop-") != 5 {
		t.Errorf("stats: %s", out)
	}
	if out := p.said(t, "run", "--rm", "--no-deps", "-T", "-e", "N=seven", "worker", "sh", "-c", "echo got $N; nslookup store >/dev/null && echo store"); !strings.Contains(out, "got seven\nstore") {
		t.Errorf("run: %s", out)
	}
	if _, errs, err := p.compose.Try("run", "--rm", "--no-deps", "-T", "worker", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "7") {
		t.Errorf("run: %v: %s", err, errs)
	}
	if _, errs, err := p.compose.Try("exec", "-T", "--index", "2", "worker", "sh", "-c", "exit 9"); err == nil || !strings.Contains(err.Error(), "9") {
		t.Errorf("exec: %v: %s", err, errs)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("copied"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.said(t, "cp", file, "worker:/tmp/f")
	p.said(t, "cp", "--index", "1", "worker:/tmp/f", file+"2")
	if got, err := os.ReadFile(file + "2"); string(got) != "copied" {
		t.Errorf("cp: %q, %v", got, err)
	}
	if out := p.said(t, "volumes", "--format", "json"); !strings.Contains(out, "shop_data") {
		t.Errorf("volumes: %s", out)
	}
	p.said(t, "pause", "worker")
	if s := p.ps(t)["shop-worker-1"].State; s != "paused" {
		t.Errorf("after pause: %s", s)
	}
	p.said(t, "unpause", "worker")
	if s := p.ps(t)["shop-worker-1"].State; s != "running" {
		t.Errorf("after unpause: %s", s)
	}
}

func (p *project) logsAndEvents(t *testing.T) {
	if out := p.said(t, "logs", "--no-color", "--no-log-prefix", "db"); out != "ready to serve\n" {
		t.Errorf("logs: %q", out)
	}
	if out := p.said(t, "logs", "--no-color", "--timestamps", "--tail", "1"); strings.Count(out, "working as") != 2 || !strings.Contains(out, "db-1") {
		t.Errorf("logs of all: %s", out)
	}
	events := p.follow(t, "events", "--json")
	// It ends when all have ended.
	logs := p.follow(t, "logs", "--follow", "--no-color", "--tail", "1", "worker", "db")
	logs.has("ready to serve")
	p.said(t, "restart", "--timeout", "1", "worker")
	events.has(`"action":"start"`, `"service":"worker"`)
	logs.has("worker-1", "exited with code")
	logs.has("worker-2", "working as")
}

// containers are the IDs of the containers by service and number.
func (p *project) containers(t *testing.T) map[string]string {
	t.Helper()
	ids := map[string]string{}
	for line := range strings.Lines(p.docker.Run("ps", "--all", "--no-trunc", "--filter", "label=com.docker.compose.project=shop", "--format", "{{.Names}} {{.ID}}")) {
		name, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		ids[name] = id
	}
	return ids
}

func (p *project) life(t *testing.T) {
	was := p.containers(t)
	p.said(t, "stop", "--timeout", "2")
	if rows := p.ps(t); len(rows) != 0 {
		t.Errorf("after stop: %v", rows)
	}
	p.said(t, "start", "--wait")
	rows := p.ps(t)
	if len(rows) != 5 || rows["shop-db-1"].Health != "healthy" {
		t.Errorf("after start: %v", rows)
	}
	if now := p.containers(t); !maps.Equal(was, now) {
		t.Errorf("others are there after stop and start: %v, %v", was, now)
	}
	p.said(t, "kill", "--signal", "KILL", "proxy")
	p.said(t, "up", "--detach", "--wait")
	if now := p.containers(t); !maps.Equal(was, now) {
		t.Errorf("others are there after another up: %v, %v", was, now)
	}
}

func (p *project) scale(t *testing.T) {
	was := p.containers(t)
	p.said(t, "up", "--detach", "--no-recreate", "--scale", "worker=4")
	if rows := p.ps(t, "worker"); len(rows) != 4 {
		t.Errorf("after up: %v", rows)
	}
	p.said(t, "scale", "worker=2")
	if now := p.containers(t); !maps.Equal(was, now) {
		t.Errorf("others are there after scale: %v, %v", was, now)
	}
}

// changes makes another up recreate what has changed, and nothing else.
func (p *project) changes(t *testing.T) {
	p.replace(t, "compose.yaml", "com.example.role: front", "com.example.role: back")
	was := p.containers(t)
	p.said(t, "up", "--detach", "--wait")
	now := p.containers(t)
	if was["shop-app-1"] == now["shop-app-1"] {
		t.Error("app was not recreated")
	}
	delete(was, "shop-app-1")
	delete(now, "shop-app-1")
	for _, m := range []map[string]string{was, now} { // it depends on app
		delete(m, "shop-proxy-1")
	}
	if !maps.Equal(was, now) {
		t.Errorf("more than app was recreated: %v, %v", was, now)
	}
	if got := p.in(t, "db", "cat /data/migrated"); got != "hush" {
		t.Errorf("the volume has %q", got)
	}
}

// replace changes a file of the project.
func (p *project) replace(t *testing.T, name, from, to string) {
	t.Helper()
	path := filepath.Join(p.dir, name)
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), from) {
		t.Fatalf("%s has no %q: %v", name, from, err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p *project) profiles(t *testing.T) {
	p.said(t, "--profile", "debug", "up", "--detach", "--wait", "debug")
	if got := p.in(t, "debug", "wget -q -O - http://localhost:8080/"); got != "the first page" {
		t.Errorf("in the network of app: %q", got)
	}
	p.said(t, "--profile", "debug", "rm", "--stop", "--force", "debug")
}

// watch has files that change brought into the container, or the image built anew.
func (p *project) watch(t *testing.T) {
	w := p.follow(t, "watch", "--no-up")
	w.has("Watch enabled")
	page := func(want string) {
		t.Helper()
		if err := eventually(func() error {
			out, errs, err := p.compose.Try("exec", "-T", "app", "cat", "/www/index.html", "/built")
			if err != nil || out != want {
				return fmt.Errorf("it has %q, not %q: %w %s", out, want, err, errs)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	p.replace(t, "app/www/index.html", "first", "second")
	page("the second page\none\n")
	p.replace(t, "app/Dockerfile", "echo one", "echo two")
	page("the second page\ntwo\n")
}

func (p *project) down(t *testing.T) {
	t.Helper()
	p.said(t, "--profile", "*", "down", "--volumes", "--rmi", "local", "--remove-orphans", "--timeout", "2")
	for _, c := range []struct{ noun, list string }{{"container", "--all"}, {"volume", ""}, {"image", "--filter=label=com.docker.compose.project"}, {"network", "--filter=type=custom"}} {
		args := []string{c.noun, "ls", "--quiet"}
		if c.list != "" {
			args = append(args, c.list)
		}
		if out := p.docker.Run(args...); out != "" {
			t.Errorf("after down there are of %ss: %s", c.noun, out)
		}
	}
}
