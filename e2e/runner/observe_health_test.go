package runner

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
)

// healthOf asks for what the checks of a container have found.
func (o *observer) healthOf(t *testing.T, name string) container.Health {
	t.Helper()
	var h container.Health
	if err := json.Unmarshal([]byte(o.docker.Run("inspect", "--format", "{{json .State.Health}}", name)), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

func (o *observer) becomes(t *testing.T, name string, want container.HealthStatus) container.Health {
	t.Helper()
	var h container.Health
	until(t, name+" is "+string(want), func() bool {
		h = o.healthOf(t, name)
		return h.Status == want
	})
	return h
}

func (o *observer) health(t *testing.T) {
	docker := o.docker
	// The check of an image, changed in part by the command line.
	docker.Run("create", "--name", "base", o.image, "sleep", "300")
	docker.Run("commit", "--change", `HEALTHCHECK --interval=1h --retries=1 CMD test -e /ok`, "base", "checked:1")
	docker.Run("rm", "base")
	defer docker.Run("rmi", "checked:1")
	got := o.tell(t, func() {
		docker.Run("run", "-d", "--name", "checked", "--health-interval", "200ms", "checked:1")
		h := o.becomes(t, "checked", container.Unhealthy)
		if h.FailingStreak < 1 || len(h.Log) == 0 || h.Log[0].ExitCode != 1 || h.Log[0].End.Before(h.Log[0].Start) {
			t.Errorf("unhealthy: %+v", h)
		}
		docker.Run("exec", "checked", "touch", "/ok")
		if h := o.becomes(t, "checked", container.Healthy); h.FailingStreak != 0 || len(h.Log) > 5 {
			t.Errorf("healthy: %+v", h)
		}
	}, "container=checked")
	want := []string{
		"container start", "container exec_create: /bin/sh -c test -e /ok", "container exec_start: /bin/sh -c test -e /ok",
		"container exec_die", "container health_status: unhealthy", "container health_status: healthy",
	}
	if !inOrder(got, want...) {
		t.Errorf("the events are\n%s", strings.Join(got, "\n"))
	}
	names := func(health string) string {
		return strings.TrimSpace(docker.Run("ps", "--filter", "health="+health, "--format", "{{.Names}}"))
	}
	docker.Run("run", "-d", "--name", "unchecked", "--no-healthcheck", "checked:1")
	docker.Run("run", "-d", "--name", "slow", "--health-start-period", "1h", "--health-start-interval", "100ms", "--health-interval", "50m", "checked:1")
	until(t, "failures at the start do not count", func() bool {
		h := o.healthOf(t, "slow")
		return len(h.Log) > 2 && h.FailingStreak == 0 && h.Status == container.Starting
	})
	if a, b, c := names("healthy"), names("none"), names("starting"); a != "checked" || b != "unchecked" || c != "slow" {
		t.Errorf("healthy: %q, none: %q, starting: %q", a, b, c)
	}
	docker.Run("exec", "slow", "touch", "/ok")
	o.becomes(t, "slow", container.Healthy)
	if out := docker.Run("inspect", "--format", "{{.State.Health}}", "unchecked"); strings.TrimSpace(out) != "<nil>" {
		t.Errorf("of one without a check: %s", out)
	}

	// What froze is not asked meanwhile, and not blamed for it.
	docker.Run("pause", "checked")
	before := len(o.probesOf(t, "checked"))
	time.Sleep(time.Second) // the check would have run several times
	if after := len(o.probesOf(t, "checked")); after > before {
		t.Errorf("%d checks were begun of a paused container", after-before)
	}
	docker.Run("unpause", "checked")
	if h := o.healthOf(t, "checked"); h.Status != container.Healthy {
		t.Errorf("after a pause: %+v", h)
	}

	// A daemon that comes back begins anew.
	o.Kill()
	o.Restart()
	if h := o.healthOf(t, "slow"); h.Status != container.Starting || h.Log == nil {
		t.Errorf("after a kill of the daemon: %+v", h)
	}
	o.becomes(t, "checked", container.Healthy)
	docker.Run("rm", "-f", "checked", "unchecked", "slow")
}

// probesOf returns the events of checks that were begun.
func (o *observer) probesOf(t *testing.T, name string) []string {
	t.Helper()
	out := o.docker.Run("events", "--since", "10m", "--until", time.Now().Format(time.RFC3339Nano), "--filter", "container="+name, "--filter", "event=exec_create", "--format", "{{.ID}}")
	return strings.Fields(out)
}

// probes has checks that do what checks should not.
func (o *observer) probes(t *testing.T) {
	docker := o.docker
	run := func(name, check string, more ...string) {
		args := append([]string{"run", "-d", "--name", name, "--health-cmd", check, "--health-interval", "100ms", "--health-retries", "1", "--health-timeout", "500ms"}, more...)
		docker.Run(append(args, o.image, "sleep", "300")...)
	}
	processes := func(name string) int { return strings.Count(docker.Run("top", name), "\n") - 1 }

	run("hangs", "echo so far; sleep 1000 & sleep 1001")
	run("floods", "yes | head -c 3000000", "--health-timeout", "5s")
	run("forks", "sleep 2 & echo done")
	run("fails", "exit 3")
	if h := o.becomes(t, "hangs", container.Unhealthy); h.Log[0].ExitCode != -1 || h.Log[0].Output != "Health check exceeded timeout (500ms): so far\n" {
		t.Errorf("one that hangs: %+v", h.Log[0])
	}
	until(t, "it is asked again", func() bool { return len(o.healthOf(t, "hangs").Log) >= 3 })
	if out := docker.Run("top", "hangs"); strings.Count(out, "sleep 1000") > 1 { // that of the one which goes on
		t.Errorf("checks that hung leave processes:\n%s", out)
	}
	if h := o.becomes(t, "floods", container.Healthy); len(h.Log[0].Output) != 4096+len("...") {
		t.Errorf("one that floods says %d bytes", len(h.Log[0].Output))
	}
	if h := o.becomes(t, "forks", container.Healthy); h.Log[0].Output != "done\n" || h.Log[0].End.Sub(h.Log[0].Start) > 2*time.Second {
		t.Errorf("one that forks: %+v", h.Log[0])
	}
	if h := o.becomes(t, "fails", container.Unhealthy); h.Log[0].ExitCode != 3 {
		t.Errorf("one that fails: %+v", h.Log[0])
	}
	docker.Run("rm", "-f", "floods", "forks", "fails")

	// Removed while it is asked, at once; killed with the daemon, its check goes too.
	run("removed", "sleep 1000", "--health-timeout", "1h")
	until(t, "it is asked", func() bool { return processes("removed") == 2 })
	begin := time.Now()
	docker.Run("rm", "-f", "removed")
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("to remove it took %v", took)
	}
	docker.Run("rm", "-f", "hangs")
	run("orphan", "sleep 1000", "--health-timeout", "1h")
	until(t, "it is asked", func() bool { return processes("orphan") == 2 })
	old := docker.Run("top", "orphan", "-o", "pid,args")
	o.Kill()
	o.Restart()
	until(t, "the check of the daemon that was killed is gone, and there is another", func() bool {
		now := docker.Run("top", "orphan", "-o", "pid,args")
		pid := regexp.MustCompile(`(\d+) +sleep 1000`)
		a, b := pid.FindStringSubmatch(old), pid.FindAllStringSubmatch(now, -1)
		return len(b) == 1 && !slices.Equal(a, b[0])
	})
	docker.Run("rm", "-f", "orphan")

	// Many at once.
	const many = 20
	var names []string
	for i := range many {
		names = append(names, fmt.Sprintf("many-%d", i))
		run(names[i], "true", "--health-timeout", "20s")
	}
	for _, name := range names {
		o.becomes(t, name, container.Healthy)
	}
	docker.Run(append([]string{"rm", "-f"}, names...)...)
}

func (o *observer) metrics(t *testing.T) {
	docker := o.docker
	docker.Run("run", "-d", "--name", "metered", "--restart", "on-failure:3", "--health-cmd", "true", "--health-interval", "100ms", "-m", "64m", "--cpus", "0.5",
		o.image, "sh", "-c", "test -e /again || { touch /again; exit 1; }; head -c 1000000 /dev/zero >/f; sync; exec sleep 300")
	defer docker.Run("rm", "-f", "metered")
	o.becomes(t, "metered", container.Healthy)
	docker.Run("tag", o.image, "metered:1")
	docker.Run("rmi", "metered:1")
	page := o.metricsPage(t)
	has := func(line string) {
		t.Helper()
		name, _, _ := strings.Cut(line, "{")
		re := regexp.MustCompile(line)
		if !slices.ContainsFunc(page[name], re.MatchString) {
			t.Errorf("no %s among\n%s", line, strings.Join(page[name], "\n"))
		}
	}
	who := `id="/berth-[0-9a-f]+/[0-9a-f]{64}",image="` + regexp.QuoteMeta(o.image) + `"`
	has(`container_cpu_usage_seconds_total{` + who + `,name="metered"} [0-9.e-]*[1-9]`)
	has(`container_memory_working_set_bytes{` + who + `,name="metered"} [1-9]`)
	has(`container_spec_memory_limit_bytes{` + who + `,name="metered"} 6.7108864e\+07`)
	has(`container_spec_cpu_quota{` + who + `,name="metered"} 50000`)
	has(`container_network_receive_bytes_total{` + who + `,interface="eth0",name="metered"} `)
	has(`container_threads{` + who + `,name="metered"} [1-9]`)
	has(`berth_runner_container_restarts_total{` + who + `,name="metered"} 1$`)
	has(`berth_runner_container_health{` + who + `,name="metered",status="healthy"} 1$`)
	has(`berth_runner_containers{state="running"} [1-9]`)
	has(`berth_runner_containers_health{status="healthy"} 1`)
	has(`berth_runner_events_total{action="start",type="container"} [1-9]`)
	has(`berth_runner_http_requests_total{method="POST",route="/containers/{name}/start",status="204"} [1-9]`)
	has(`berth_runner_images_bytes`)

	// The names of a container's interfaces do not break the page.
	docker.Run("run", "-d", "--name", "odd", "--cap-add", "NET_ADMIN", o.image, "sh", "-c",
		`ip link add name "$(printf '\377')" type veth peer name "$(printf '\376')" && ip link add name '"\xff"' type veth peer name '}{"' && echo up; sleep 300`)
	defer docker.Run("rm", "-f", "odd")
	until(t, "it has its interfaces", func() bool { return docker.Run("logs", "odd") == "up\n" })
	page = o.metricsPage(t)
	has(`container_network_receive_bytes_total{` + who + `,interface="eth0",name="metered"} `)
	has(`container_network_receive_bytes_total{` + who + `,interface="eth0",name="odd"} `)

	// What a client makes up is no label.
	o.get(t, "/no/such/page")
	page = o.metricsPage(t)
	has(`berth_runner_http_requests_total{method="other",route="other",status="404"} [1-9]`)

	name := regexp.MustCompile(`\b(?:berth_runner|container|go|process)_[a-z0-9_]+`)
	exprs := dashboard(t)
	if len(exprs) < 10 {
		t.Errorf("the dashboard has %d expressions", len(exprs))
	}
	for _, expr := range exprs {
		for _, metric := range name.FindAllString(expr, -1) {
			if len(page[metric]) == 0 {
				t.Errorf("the dashboard shows %s, which there is not: %s", metric, expr)
			}
		}
	}
}
